//! Finds a command by its name, in any case of letters, and says what is known of it.

use super::commands::COMMANDS;

/// The longest name of a command, a subcommand behind it included.
pub const NAME_MAX: usize = 32;

/// Where a command's keys stand among its words; the name is word 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    None,
    /// From the first to the last, counted from the end where negative, in steps.
    At {
        first: u32,
        last: i32,
        step: u32,
    },
    /// A word says how many follow it.
    Counted {
        by: u32,
    },
    /// Behind the word STREAMS: the first half of what is left.
    BehindStreams,
}

/// Commands after which the conversation goes on otherwise than by one answer for one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Script,
    Multi,
    /// EXEC and DISCARD.
    EndMulti,
    Reset,
    Select,
    Subscribe,
    Unsubscribe,
    Monitor,
    /// SYNC and PSYNC.
    Replicate,
    /// Between master and replica only; REPLCONF ACK has no answer.
    Replconf,
    ClientReply,
}

/// What may answer a command, errors and QUEUED aside: a set of bits.
pub type Answers = u8;
pub const TEXT: Answers = 1;
pub const NUMBER: Answers = 2;
pub const STRING: Answers = 4;
pub const MANY: Answers = 8;
pub const NULL: Answers = 16;
/// Doubles, big numbers.
pub const OTHER: Answers = 32;

/// `+OK`, or the value that was there before.
pub const STATUS: Answers = TEXT | STRING | NULL;
/// A number, which RESP3 may write as a boolean.
pub const INTEGER: Answers = NUMBER | NULL;
pub const BULK: Answers = STRING | NULL;
pub const AGGREGATE: Answers = MANY | NULL;
pub const ANY: Answers = u8::MAX;

/// What is known of a command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// In capitals; behind a container's name its subcommand's.
    pub name: &'static str,
    /// Words with the name itself; negative: so many or more.
    pub arity: i32,
    pub keys: Keys,
    pub answers: Answers,
    pub kind: Kind,
    /// Its second word names a subcommand.
    pub container: bool,
}

pub const fn command(name: &'static str, arity: i32, keys: Keys, answers: Answers) -> Command {
    Command { name, arity, keys, answers, kind: Kind::Plain, container: false }
}

pub const fn at(first: u32, last: i32, step: u32) -> Keys {
    Keys::At { first, last, step }
}

pub const fn counted(by: u32) -> Keys {
    Keys::Counted { by }
}

impl Command {
    pub const fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    pub const fn container(mut self) -> Self {
        self.container = true;
        self
    }

    /// So many words, the name included, can be this command.
    pub fn takes(&self, words: u64) -> bool {
        let least = u64::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= least } else { words == least }
    }
}

/// What is not in the table.
const UNKNOWN: Command = command("OTHER", -1, Keys::None, ANY);

/// Names a command: its row in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Id(u16);

impl Id {
    /// A name that is in no table.
    pub const OTHER: Id = Id(0);

    pub fn command(self) -> &'static Command {
        let row = usize::from(self.0).checked_sub(1);
        row.and_then(|row| COMMANDS.get(row)).unwrap_or(&UNKNOWN)
    }

    /// The command of this name, in any case of letters.
    pub fn named(name: &[u8]) -> Option<Id> {
        if name.contains(&b' ') {
            return None;
        }
        Capitals::of(name)?.find()
    }

    /// The subcommand of a container.
    pub fn named_within(self, subcommand: &[u8]) -> Option<Id> {
        let mut name = Capitals::of(self.command().name.as_bytes())?;
        name.push(b" ")?;
        name.push(subcommand)?;
        name.find()
    }
}

/// A name in capitals and its hash.
struct Capitals {
    bytes: [u8; NAME_MAX],
    length: usize,
    hash: u32,
}

impl Capitals {
    fn of(name: &[u8]) -> Option<Self> {
        let mut capitals = Self { bytes: [0; NAME_MAX], length: 0, hash: HASH_BEGIN };
        capitals.push(name)?;
        Some(capitals)
    }

    fn push(&mut self, name: &[u8]) -> Option<()> {
        let place = self.bytes.get_mut(self.length..)?.get_mut(..name.len())?;
        for (to, from) in place.iter_mut().zip(name) {
            *to = from.to_ascii_uppercase();
            self.hash = hash_on(self.hash, *to);
        }
        self.length += name.len();
        Some(())
    }

    fn find(&self) -> Option<Id> {
        let name = self.bytes.get(..self.length)?;
        let mut slot = self.hash as usize % SLOTS;
        loop {
            let row = *TABLE.get(slot)?;
            let command = COMMANDS.get(usize::from(row).checked_sub(1)?)?;
            if command.name.as_bytes() == name {
                return Some(Id(row));
            }
            slot = (slot + 1) % SLOTS;
        }
    }
}

const HASH_BEGIN: u32 = 0x811c_9dc5;

/// FNV-1a, with a final mix left out: the low bits are good enough for names.
const fn hash_on(hash: u32, byte: u8) -> u32 {
    (hash ^ byte as u32).wrapping_mul(0x0100_0193)
}

/// Four times as many as there are commands, so that most are found at the first look.
const SLOTS: usize = 2048;

/// Rows of [`COMMANDS`], counted from 1, by the hash of their names; 0 where there is none.
static TABLE: [u16; SLOTS] = table();

#[allow(clippy::indexing_slicing, reason = "the compiler runs this: an index out of bounds does not build")]
const fn table() -> [u16; SLOTS] {
    let mut table = [0; SLOTS];
    let mut row = 0;
    while row < COMMANDS.len() {
        let name = COMMANDS[row].name.as_bytes();
        assert!(name.len() <= NAME_MAX);
        let (mut hash, mut at) = (HASH_BEGIN, 0);
        while at < name.len() {
            hash = hash_on(hash, name[at]);
            at += 1;
        }
        let mut slot = hash as usize % SLOTS;
        while table[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = row as u16 + 1;
        row += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for command in &COMMANDS {
            for name in [command.name.to_owned(), command.name.to_lowercase()] {
                let found = match name.split_once(' ') {
                    Some((container, subcommand)) => Id::named(container.as_bytes()).unwrap().named_within(subcommand.as_bytes()),
                    None => Id::named(name.as_bytes()),
                };
                assert_eq!(found.map(|id| id.command().name), Some(command.name));
            }
        }
        for name in [&b""[..], b"GETT", b"\xff\xfe", b"GET ", b"A NAME THAT IS LONGER THAN ANY COMMAND'S"] {
            assert_eq!(Id::named(name), None);
        }
        assert_eq!(Id::OTHER.command().name, "OTHER");
    }

    #[test]
    fn the_table_is_sorted_and_its_containers_have_subcommands() {
        assert!(COMMANDS.is_sorted_by_key(|command| command.name));
        for command in &COMMANDS {
            let subcommands = COMMANDS.iter().filter(|other| other.name.split_once(' ').is_some_and(|(name, _)| name == command.name));
            assert_eq!(subcommands.count() > 0, command.container, "{}", command.name);
        }
    }
}
