//! BTF made by hand, and kernels by name, for the tests of this room.

use std::{collections::BTreeMap, rc::Rc};

use super::Kernel;

/// Minimised by bpftool for the programs as they were on that day.
pub const DEBIAN_11: &[u8] = include_bytes!("../../tests/data/btf/debian-11-5.10.0-32-cloud-amd64.btf");
pub const DEBIAN_13: &[u8] = include_bytes!("../../tests/data/btf/debian-13-6.12.107-cloud-amd64.btf");

pub fn kernel(name: &str) -> Kernel {
    Kernel::of_name(name).unwrap()
}

pub fn kernels(of: &[(&str, &[u8])]) -> BTreeMap<Kernel, Rc<[u8]>> {
    of.iter().map(|(name, bytes)| (kernel(name), Rc::from(*bytes))).collect()
}

/// A BTF in the making.
#[derive(Default)]
pub struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    pub fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0] }
    }

    pub fn name(&mut self, name: &str) -> u32 {
        let offset = self.strings.len() as u32;
        self.strings.extend(name.bytes());
        self.strings.push(0);
        offset
    }

    /// `info` is kind and number of entries, as in `struct btf_type`.
    pub fn raw(&mut self, name_offset: u32, kind: u32, entries: u32, size_or_type: u32, trailing: &[u32]) -> &mut Self {
        for word in [name_offset, kind << 24 | entries, size_or_type].iter().chain(trailing) {
            self.types.extend(word.to_le_bytes());
        }
        self
    }

    /// A struct with members of these names and types.
    pub fn structure(&mut self, name: &str, members: &[(&str, u32)]) -> &mut Self {
        let name = self.name(name);
        let trailing = members.iter().flat_map(|(member, of)| [self.name(member), *of, 0]).collect::<Vec<_>>();
        self.raw(name, 4, members.len() as u32, 8, &trailing)
    }

    /// Enough to be of a kernel, as types 1 and 2: `int`, and a task with one number.
    pub fn task(&mut self) -> &mut Self {
        let int = self.name("int");
        self.raw(int, 1, 0, 4, &[32]).structure("task_struct", &[("pid", 1)])
    }

    pub fn build(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let header = [0xeb9f | 1 << 16, 24, 0, types, types, strings];
        header.iter().flat_map(|word| word.to_le_bytes()).chain(self.types.iter().copied()).chain(self.strings.iter().copied()).collect()
    }
}

/// The registers of arm64 are `struct user_pt_regs` in `struct pt_regs`.
pub fn arm64() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.task().structure("pt_regs", &[("orig_x0", 1)]);
    builder.build()
}
