//! What a client asks for: MySQL source documentation, "Command Phase"; MariaDB knowledge base, "2 - Text Protocol", "3 - Binary Protocol".

use super::packets::LittleEndian;
use crate::protocols::reader::Reader;

/// As much of a statement's text as is read, in bytes.
pub const TEXT_READ: usize = 32 * 1024;
/// As much as is read of commands that carry names.
const NAMES_READ: usize = 1024;

/// The id that stands for the statement prepared last (MariaDB knowledge base, "COM_STMT_EXECUTE").
pub const LAST_PREPARED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Quit,
    InitDb,
    Query,
    FieldList,
    CreateDb,
    DropDb,
    Refresh,
    Shutdown,
    Statistics,
    ProcessInfo,
    ProcessKill,
    Debug,
    Ping,
    ChangeUser,
    BinlogDump,
    TableDump,
    RegisterSlave,
    Prepare,
    Execute,
    LongData,
    Close,
    ResetStatement,
    SetOption,
    Fetch,
    BinlogDumpGtid,
    ResetConnection,
    Bulk,
}

/// What the answer to a command looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// OK, rows, a request for a file; several of them.
    Results,
    /// The number of a statement, and definitions.
    Prepared,
    /// Rows of a cursor.
    Fetched,
    /// Definitions without a number before them.
    Fields,
    /// A text without a mark.
    Words,
    /// OK, or EOF in its place.
    Plain,
    /// OK at the end of an exchange of secrets.
    Login,
    /// Packets until the connection closes.
    Stream,
    /// There is none.
    Nothing,
}

impl Command {
    pub fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Quit,
            0x02 => Self::InitDb,
            0x03 => Self::Query,
            0x04 => Self::FieldList,
            0x05 => Self::CreateDb,
            0x06 => Self::DropDb,
            0x07 => Self::Refresh,
            0x08 => Self::Shutdown,
            0x09 => Self::Statistics,
            0x0a => Self::ProcessInfo,
            0x0c => Self::ProcessKill,
            0x0d => Self::Debug,
            0x0e => Self::Ping,
            0x11 => Self::ChangeUser,
            0x12 => Self::BinlogDump,
            0x13 => Self::TableDump,
            0x15 => Self::RegisterSlave,
            0x16 => Self::Prepare,
            0x17 => Self::Execute,
            0x18 => Self::LongData,
            0x19 => Self::Close,
            0x1a => Self::ResetStatement,
            0x1b => Self::SetOption,
            0x1c => Self::Fetch,
            0x1e => Self::BinlogDumpGtid,
            0x1f => Self::ResetConnection,
            0xfa => Self::Bulk,
            _ => return None,
        })
    }

    /// The command's name in the protocol, without its `COM_`, where its statement does not give a better one.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Quit => "QUIT",
            Self::InitDb => "INIT_DB",
            Self::Query => "OTHER",
            Self::FieldList => "FIELD_LIST",
            Self::CreateDb => "CREATE_DB",
            Self::DropDb => "DROP_DB",
            Self::Refresh => "REFRESH",
            Self::Shutdown => "SHUTDOWN",
            Self::Statistics => "STATISTICS",
            Self::ProcessInfo => "PROCESS_INFO",
            Self::ProcessKill => "PROCESS_KILL",
            Self::Debug => "DEBUG",
            Self::Ping => "PING",
            Self::ChangeUser => "CHANGE_USER",
            Self::BinlogDump | Self::BinlogDumpGtid => "BINLOG_DUMP",
            Self::TableDump => "TABLE_DUMP",
            Self::RegisterSlave => "REGISTER_SLAVE",
            Self::Prepare => "PREPARE",
            Self::Execute | Self::Bulk => "EXECUTE",
            Self::LongData => "LONG_DATA",
            Self::Close => "CLOSE",
            Self::ResetStatement => "STMT_RESET",
            Self::SetOption => "SET_OPTION",
            Self::Fetch => "FETCH",
            Self::ResetConnection => "RESET_CONNECTION",
        }
    }

    pub fn shape(self) -> Shape {
        match self {
            Self::Query | Self::Execute | Self::Bulk | Self::ProcessInfo => Shape::Results,
            Self::Prepare => Shape::Prepared,
            Self::Fetch => Shape::Fetched,
            Self::FieldList => Shape::Fields,
            Self::Statistics => Shape::Words,
            Self::ChangeUser => Shape::Login,
            Self::BinlogDump | Self::BinlogDumpGtid | Self::TableDump => Shape::Stream,
            Self::Quit | Self::LongData | Self::Close => Shape::Nothing,
            _ => Shape::Plain,
        }
    }

    /// Whether a payload of that length, its command byte included, can be this command.
    pub fn fits(self, length: usize) -> bool {
        match self {
            Self::Quit | Self::Statistics | Self::ProcessInfo | Self::Debug | Self::Ping | Self::ResetConnection => length == 1,
            Self::Shutdown => length <= 2,
            Self::Refresh => length == 2,
            Self::ProcessKill | Self::Close | Self::ResetStatement => length == 5,
            Self::SetOption => length == 3,
            Self::Fetch => length == 9,
            Self::LongData | Self::Bulk => length >= 7,
            Self::Execute => length >= 10,
            Self::InitDb | Self::CreateDb | Self::DropDb | Self::FieldList | Self::ChangeUser => (2..=4096).contains(&length),
            Self::BinlogDump | Self::BinlogDumpGtid | Self::TableDump | Self::RegisterSlave => (4..=65_536).contains(&length),
            // An empty text is answered by an error.
            Self::Query | Self::Prepare => length >= 1,
        }
    }

    /// How many bytes of such a payload are read.
    pub fn needs(self, length: usize) -> usize {
        let read = match self {
            Self::Query | Self::Prepare => TEXT_READ,
            Self::InitDb | Self::FieldList | Self::ChangeUser => NAMES_READ,
            _ => 10,
        };
        length.min(read)
    }

    /// Its payload begins with the number of a prepared statement.
    pub fn names_statement(self) -> bool {
        matches!(self, Self::Execute | Self::Bulk | Self::LongData | Self::Close | Self::ResetStatement | Self::Fetch)
    }
}

/// The text of a COM_QUERY behind its attributes (CLIENT_QUERY_ATTRIBUTES); `agreed`: whether it has them, if that is known. `None`: the
/// attributes make no sense, or the text is beyond what was captured.
pub fn query_text(body: &[u8], agreed: Option<bool>) -> Option<&[u8]> {
    // The number of parameter sets is 1, and no text has that byte so early.
    let present = agreed.unwrap_or(matches!(body, [_, 1, ..] | [0xfc, _, _, 1, ..]));
    if !present {
        return Some(body);
    }
    let mut reader = Reader::new(body);
    let count = usize::try_from(reader.length()?).ok()?;
    reader.length()?;
    if count == 0 {
        return Some(reader.rest());
    }
    let nulls = reader.take(count.div_ceil(8))?;
    if reader.u8()? != 1 {
        return None;
    }
    let mut values = reader;
    for _ in 0..count {
        values.take(2)?;
        values.string()?;
    }
    for index in 0..count {
        let [kind, _] = *reader.take(2)? else { return None };
        reader.string()?;
        let null = nulls.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
        if !null {
            pass_value(kind, &mut values)?;
        }
    }
    Some(values.rest())
}

/// Passes over a value of the binary protocol (MySQL source documentation, "Binary Protocol Value").
fn pass_value(kind: u8, reader: &mut Reader<'_>) -> Option<()> {
    let fixed = match kind {
        0x06 => 0,
        0x01 => 1,
        0x02 | 0x0d => 2,
        0x03 | 0x04 | 0x09 => 4,
        0x05 | 0x08 => 8,
        0x07 | 0x0a | 0x0b | 0x0c => usize::from(reader.u8()?),
        _ => {
            reader.string()?;
            0
        }
    };
    reader.take(fixed).map(drop)
}
