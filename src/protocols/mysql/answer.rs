//! How far the answer to a command has come: MySQL source documentation, "Text Resultset", "Binary Protocol Resultset", "COM_STMT_PREPARE
//! Response", "LOCAL INFILE Request".
//!
//! Packets tell by themselves what they are, whatever capabilities were agreed, but for one case (`Answer::begin`).

use super::{
    commands::Shape,
    packets::{self, CURSOR_EXISTS, LARGEST, PROGRESS, Prepared, ServerError, Success},
};

/// As much of a packet that ends something as is waited for, so that its end is the end.
const END_READ: usize = 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Nothing of a result was seen.
    #[default]
    First,
    /// So many definitions of columns are to come.
    Definitions(u64),
    /// Behind the definitions: an EOF, unless it is deprecated.
    Defined,
    Rows,
    /// So many definitions of parameters are to come, then so many of columns.
    Parameters(u16, u16),
    /// Behind the parameters; at least one column is to come.
    ParametersEnd(u16),
    PreparedColumns(u16),
    /// Only an EOF can follow.
    PreparedEnd,
    /// The client sends a file.
    File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done(Success),
    Rows(Success),
    Error(ServerError),
    Prepared,
}

/// What a packet of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Inside,
    /// A result is over; unless its status says so, nothing follows.
    End(End),
    /// The client sends a file now.
    File,
    /// From here on packets come until the connection closes.
    Stream,
    /// It cannot be one.
    Wrong,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    pub place: Place,
    pub rows: u64,
    pub prepared: Option<Prepared>,
    /// An EOF follows definitions; learned from the greeting or from the first definitions.
    eofs: Option<bool>,
}

impl Answer {
    /// The answer to another command. `eofs` is needed where the definitions of a prepared statement end: only an agreement tells whether
    /// an EOF follows.
    pub fn begin(eofs: Option<bool>) -> Self {
        Self { eofs, ..Self::default() }
    }

    /// The next result of the same command.
    pub fn next(&mut self) {
        (self.place, self.rows) = (Place::First, 0);
    }

    pub fn eofs(&self) -> Option<bool> {
        self.eofs
    }

    /// How much of a payload of that length [`Answer::take`] wants to see; `first` is its first byte.
    pub fn needs(&self, length: usize, first: u8) -> usize {
        let ends = matches!(self.place, Place::First | Place::File) || matches!(first, 0xfe | 0xff) && length < LARGEST;
        length.min(if ends { END_READ } else { 1 })
    }

    /// A packet of `length` bytes, of which `body` is as much as [`Answer::needs`].
    pub fn take(&mut self, shape: Shape, length: usize, body: &[u8]) -> Part {
        let first = body.first().copied();
        if first == Some(0xff) && length >= 3 {
            return match packets::error(body) {
                Some(error) if error.code == PROGRESS => Part::Inside,
                Some(error) => Part::End(End::Error(error)),
                None => Part::Wrong,
            };
        }
        let eof = match first {
            Some(0xfe) if length < LARGEST => packets::eof(body),
            _ => None,
        };
        match self.place {
            Place::First => self.first(shape, length, body, eof),
            Place::Definitions(left) => {
                if eof.is_some() {
                    return Part::Wrong;
                }
                self.place = if left > 1 { Place::Definitions(left - 1) } else { Place::Defined };
                Part::Inside
            }
            Place::Defined => {
                // Five bytes are an EOF; in the form of an OK it has seven and is the end of rows.
                let old = length <= 5 && eof.is_some();
                self.eofs = Some(old);
                self.place = Place::Rows;
                match eof {
                    Some(success) if !old || success.status & CURSOR_EXISTS != 0 => Part::End(End::Rows(success)),
                    Some(_) => Part::Inside,
                    None => self.row(),
                }
            }
            Place::Rows => match eof {
                Some(success) => Part::End(End::Rows(success)),
                None => self.row(),
            },
            Place::Parameters(left, columns) => self.parameters(left, columns),
            Place::ParametersEnd(columns) => {
                self.eofs = Some(eof.is_some());
                self.place = Place::PreparedColumns(columns);
                if eof.is_some() { Part::Inside } else { self.prepared_columns(columns) }
            }
            Place::PreparedColumns(left) if eof.is_none() => self.prepared_columns(left),
            Place::PreparedEnd if eof.is_some() => Part::End(End::Prepared),
            Place::PreparedColumns(_) | Place::PreparedEnd => Part::Wrong,
            // The file was sent.
            Place::File => match first {
                Some(0) => packets::ok(body).map_or(Part::Wrong, |success| Part::End(End::Done(success))),
                _ => Part::Wrong,
            },
        }
    }

    fn row(&mut self) -> Part {
        self.rows += 1;
        Part::Inside
    }

    fn first(&mut self, shape: Shape, length: usize, body: &[u8], eof: Option<Success>) -> Part {
        let done = |success: Option<Success>| success.map_or(Part::Wrong, |success| Part::End(End::Done(success)));
        match (shape, body.first().copied()) {
            (Shape::Results, Some(0xfb)) => {
                self.place = Place::File;
                Part::File
            }
            (Shape::Results, Some(0)) if length != 2 && length != 4 => done(packets::ok(body)),
            (Shape::Results, Some(_)) if eof.is_none() => match packets::columns(body) {
                Some(columns) if columns.defined => {
                    self.place = Place::Definitions(columns.count);
                    Part::Inside
                }
                Some(_) => {
                    self.place = Place::Defined;
                    Part::Inside
                }
                None => Part::Wrong,
            },
            (Shape::Prepared, Some(0)) => self.prepare(body),
            (Shape::Fetched, Some(_)) => {
                self.place = Place::Rows;
                match eof {
                    Some(success) => Part::End(End::Rows(success)),
                    None => self.row(),
                }
            }
            (Shape::Fields, Some(_)) => match eof {
                Some(success) => Part::End(End::Rows(success)),
                None => self.row(),
            },
            (Shape::Words, Some(_)) => Part::End(End::Done(Success::default())),
            (Shape::Plain, Some(0)) => done(packets::ok(body)),
            (Shape::Plain, Some(0xfe)) => done(eof),
            (Shape::Login, Some(0)) => done(packets::ok(body)),
            (Shape::Login, Some(_)) => Part::Inside,
            (Shape::Stream, Some(_)) => Part::Stream,
            _ => Part::Wrong,
        }
    }

    fn prepare(&mut self, body: &[u8]) -> Part {
        let Some(prepared) = packets::prepared(body) else { return Part::Wrong };
        self.prepared = Some(prepared);
        match (prepared.parameters, prepared.columns) {
            (0, 0) => Part::End(End::Prepared),
            _ if !prepared.defined => Part::End(End::Prepared),
            (0, columns) => {
                self.place = Place::PreparedColumns(columns);
                Part::Inside
            }
            (parameters, columns) => {
                self.place = Place::Parameters(parameters, columns);
                Part::Inside
            }
        }
    }

    fn parameters(&mut self, left: u16, columns: u16) -> Part {
        if left > 1 {
            self.place = Place::Parameters(left - 1, columns);
            return Part::Inside;
        }
        if columns == 0 {
            return self.definitions_end();
        }
        self.place = Place::ParametersEnd(columns);
        Part::Inside
    }

    fn prepared_columns(&mut self, left: u16) -> Part {
        if left > 1 {
            self.place = Place::PreparedColumns(left - 1);
            return Part::Inside;
        }
        self.definitions_end()
    }

    /// The last definition of a prepared statement. Where nothing tells whether an EOF follows, the session lets one through.
    fn definitions_end(&mut self) -> Part {
        if self.eofs == Some(true) {
            self.place = Place::PreparedEnd;
            return Part::Inside;
        }
        Part::End(End::Prepared)
    }
}
