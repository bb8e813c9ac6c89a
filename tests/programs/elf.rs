//! As much of an object file as the checks read: sections, symbols and relocations; elf(5).

/// A 64-bit little-endian object file.
pub struct Elf<'a>(pub &'a [u8]);

pub struct Symbol<'a> {
    pub name: &'a str,
    pub kind: u8,
    /// Known in its own source alone.
    pub local: bool,
    pub section: usize,
    pub value: usize,
    pub size: usize,
}

impl Symbol<'_> {
    pub const FUNCTION: u8 = 2;
    pub const SECTION: u8 = 3;
    /// The section of a symbol that the object does not have.
    pub const UNDEFINED: usize = 0;
}

/// What stands at an instruction's place is to be looked up.
pub struct Relocation<'a> {
    pub section: usize,
    pub offset: usize,
    pub kind: u32,
    pub symbol: &'a Symbol<'a>,
}

impl Relocation<'_> {
    /// The address of a map or a variable.
    pub const R_BPF_64_64: u32 = 1;
    /// A call.
    pub const R_BPF_64_32: u32 = 10;
}

impl<'a> Elf<'a> {
    fn number(&self, at: usize, len: usize) -> usize {
        self.0[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    fn sections(&self) -> usize {
        self.number(60, 2)
    }

    /// A field of a section's header.
    fn header(&self, section: usize, at: usize, len: usize) -> usize {
        self.number(self.number(40, 8) + section * self.number(58, 2) + at, len)
    }

    pub fn section(&self, section: usize) -> &'a [u8] {
        let offset = self.header(section, 24, 8);
        &self.0[offset..offset + self.header(section, 32, 8)]
    }

    fn text(&self, strings: usize, at: usize) -> &'a str {
        text(self.section(strings), at)
    }

    pub fn section_named(&self, name: &str) -> Option<usize> {
        (0..self.sections()).find(|section| self.text(self.number(62, 2), self.header(*section, 0, 4)) == name)
    }

    fn of_type(&self, kind: usize) -> impl Iterator<Item = usize> {
        (0..self.sections()).filter(move |section| self.header(*section, 4, 4) == kind)
    }

    pub fn symbols(&self) -> Vec<Symbol<'a>> {
        const SHT_SYMTAB: usize = 2;
        let table = self.of_type(SHT_SYMTAB).next().expect("a symbol table");
        let (offset, size) = (self.header(table, 24, 8), self.header(table, 32, 8));
        (offset..offset + size)
            .step_by(24)
            .map(|at| Symbol {
                name: self.text(self.header(table, 40, 4), self.number(at, 4)),
                kind: self.number(at + 4, 1) as u8 & 15,
                local: self.number(at + 4, 1) >> 4 == 0,
                section: self.number(at + 6, 2),
                value: self.number(at + 8, 8),
                size: self.number(at + 16, 8),
            })
            .collect()
    }

    pub fn relocations<'b>(&self, symbols: &'b [Symbol<'b>]) -> Vec<Relocation<'b>> {
        const SHT_REL: usize = 9;
        let mut relocations = Vec::new();
        for table in self.of_type(SHT_REL) {
            let (offset, size) = (self.header(table, 24, 8), self.header(table, 32, 8));
            let section = self.header(table, 44, 4);
            relocations.extend((offset..offset + size).step_by(16).map(|at| Relocation {
                section,
                offset: self.number(at, 8),
                kind: self.number(at + 8, 4) as u32,
                symbol: &symbols[self.number(at + 12, 4)],
            }));
        }
        relocations
    }
}

/// The text that begins there.
pub fn text(strings: &[u8], at: usize) -> &str {
    let bytes = &strings[at..];
    let end = bytes.iter().position(|byte| *byte == 0).expect("a string's end");
    std::str::from_utf8(&bytes[..end]).expect("a name")
}
