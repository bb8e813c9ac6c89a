//! Who is named what: every conversation of the corpus, joined at its begin and at each of its calls, through the same detection and
//! parsers as in the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use remora::{
    connection::{Connection, stream::Segment},
    model::{Direction, Exchange, Flow, Protocol, Protocols, Role},
    protocols::{Capture, DEFINITIONS, Loss, Sink, Transport},
};

use crate::{corpus::Talk, transcript};

/// A connection is given its name, or given up, within 16 calls; after these it would only lose a name again.
const CALLS_AFTER_JOIN: usize = 24;

/// How the calls of a conversation reach the agent.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// As they were made.
    Whole,
    /// So many bytes of each were captured.
    Captured(usize),
    /// The first so many bytes of each are a call of their own, as of a program that reads a head before its body.
    Head(usize),
    /// In pieces of so many bytes.
    Pieces(usize),
}

const CUTS: [Cut; 5] = [Cut::Whole, Cut::Captured(64), Cut::Head(4), Cut::Head(9), Cut::Pieces(100)];

/// Whose socket is watched, and what the kernel knows of it.
const VIEWS: [(Role, bool); 4] = [(Role::Client, true), (Role::Server, false), (Role::Unknown, true), (Role::Unknown, false)];

/// How many connections were given which name.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub names: BTreeMap<&'static str, u64>,
    pub unnamed: u64,
    pub wrong: u64,
}

#[derive(Debug, Default)]
pub struct Matrix {
    /// By what was spoken.
    pub begin: BTreeMap<String, Row>,
    pub middle: BTreeMap<String, Row>,
    /// For people: of each kind and wrong name the first conversation, with its calls.
    pub mistakes: BTreeMap<String, String>,
}

struct Nobody;

impl Sink for Nobody {
    fn exchange(&mut self, _: &Exchange<'_>) {}

    fn capture(&mut self, _: Capture) {}

    fn lost(&mut self, _: Loss) {}
}

impl Matrix {
    pub fn of(talks: &[Talk]) -> Self {
        let mut matrix = Self::default();
        for talk in talks {
            let right = right_names(talk);
            for cut in CUTS {
                let calls = pieces(&talk.calls, cut);
                for join in 0..calls.len() {
                    for (role, at_client) in VIEWS {
                        matrix.join(talk, &right, (&calls, cut), join, (role, at_client));
                    }
                }
            }
        }
        matrix
    }

    fn join(&mut self, talk: &Talk, right: &[Protocol], (calls, cut): (&[Call<'_>], Cut), join: usize, (role, at_client): (Role, bool)) {
        let (names, end_role) = play(calls, join, role, at_client);
        let rows = if join == 0 { &mut self.begin } else { &mut self.middle };
        let row = rows.entry(talk.kind.clone()).or_default();
        if names.is_empty() {
            row.unnamed += 1;
        }
        let mut wrong = false;
        for name in &names {
            *row.names.entry(name.name()).or_default() += 1;
            wrong |= !right.contains(name);
        }
        // Requests taken for responses are as wrong as another protocol.
        let reversed = !names.is_empty() && end_role != if at_client { Role::Client } else { Role::Server };
        if wrong || reversed {
            row.wrong += 1;
            let names: Vec<_> = names.iter().map(|name| name.name()).collect();
            let what = format!("{} {} {}", talk.kind, if wrong { "named" } else { "named with its ends reversed:" }, names.join(", "));
            let how = format!("joined at call {join} ({cut:?}, {role:?}, client's socket: {at_client})");
            self.mistakes.entry(what).or_insert_with(|| {
                let shown = |call: &Call<'_>| format!("\n    {:?} {}", call.flow, call.bytes[..call.captured.min(200)].escape_ascii());
                how + &calls.iter().skip(join).take(8).map(shown).collect::<String>()
            });
        }
    }

    pub fn wrong(&self) -> u64 {
        self.begin.values().chain(self.middle.values()).map(|row| row.wrong).sum()
    }

    /// Two tables.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (title, rows) in [("Joined at its begin", &self.begin), ("Joined in mid-stream", &self.middle)] {
            // A protocol may have a parser for streams and one for datagrams; here are streams.
            let streams = DEFINITIONS.iter().filter(|definition| definition.transports.contains(&Transport::Stream));
            let columns: Vec<&str> = streams.map(|definition| definition.protocol.name()).collect();
            let _ = writeln!(text, "### {title}\n\n| what it is | {} | unnamed | wrong |", columns.join(" | "));
            let _ = writeln!(text, "|---|{}", "--:|".repeat(columns.len() + 2));
            // Protocols first, in the order of the columns.
            let place = |kind: &str| columns.iter().position(|column| *column == kind).unwrap_or(usize::MAX);
            let mut kinds: Vec<(&String, &Row)> = rows.iter().collect();
            kinds.sort_by_key(|(kind, _)| (place(kind), kind.to_lowercase()));
            for (kind, row) in kinds {
                let cell = |count: u64| if count == 0 { String::new() } else { count.to_string() };
                let cells: Vec<String> = columns.iter().map(|column| cell(row.names.get(column).copied().unwrap_or_default())).collect();
                let _ = writeln!(text, "| {kind} | {} | {} | {} |", cells.join(" | "), cell(row.unnamed), row.wrong);
            }
            text.push('\n');
        }
        text
    }
}

/// Conversations of this kind are of a protocol that has a parser.
#[allow(dead_code, reason = "asked by the test")]
pub fn is_looked_for(kind: &str) -> bool {
    DEFINITIONS.iter().any(|definition| definition.protocol.name() == kind)
}

/// What a connection may be called: its protocol, what carries that, and TLS where the conversation turns to it.
fn right_names(talk: &Talk) -> Vec<Protocol> {
    let mut right: Vec<Protocol> = transcript::protocol(&talk.kind).into_iter().collect();
    match talk.kind.as_str() {
        // Over HTTP/2, and as gRPC-Web over HTTP/1.
        "grpc" => right.extend([Protocol::Http2, Protocol::Http]),
        // An upgrade begins as HTTP/1.
        "websocket" | "http2" => right.push(Protocol::Http),
        _ => {}
    }
    if talk.calls.iter().any(|(_, bytes)| matches!(bytes[..], [22, 3, 0..=4, ..])) {
        right.push(Protocol::Tls);
    }
    right
}

struct Call<'a> {
    flow: Flow,
    bytes: &'a [u8],
    captured: usize,
}

fn pieces(calls: &[(Flow, Vec<u8>)], cut: Cut) -> Vec<Call<'_>> {
    let mut pieces = Vec::new();
    for (flow, bytes) in calls {
        let mut put = |bytes, captured| pieces.push(Call { flow: *flow, bytes, captured });
        match cut {
            Cut::Whole => put(bytes.as_slice(), bytes.len()),
            Cut::Captured(most) => put(bytes.as_slice(), bytes.len().min(most)),
            Cut::Head(length) => {
                let (head, body) = bytes.split_at(bytes.len().min(length));
                put(head, head.len());
                if !body.is_empty() {
                    put(body, body.len());
                }
            }
            Cut::Pieces(length) => bytes.chunks(length).for_each(|piece| put(piece, piece.len())),
        }
    }
    pieces.retain(|piece| !piece.bytes.is_empty());
    pieces
}

/// All names that a connection had, and what was thought of the role of its watched socket.
fn play(calls: &[Call<'_>], join: usize, role: Role, at_client: bool) -> (BTreeSet<Protocol>, Role) {
    let mut connection = Connection::new(role, join > 0, Protocols::default());
    let mut offsets = [0; 2];
    let mut names = BTreeSet::new();
    for (number, call) in calls.iter().enumerate() {
        let offset = offsets[call.flow.index()];
        offsets[call.flow.index()] += call.bytes.len() as u64;
        if number < join {
            continue;
        }
        let direction = if (call.flow == Flow::Request) == at_client { Direction::Sent } else { Direction::Received };
        let payload = &call.bytes[..call.captured];
        let segment = Segment { offset, size: call.bytes.len() as u64, payload, time_ns: 1_000 * (1 + number as u64) };
        connection.data(direction, segment, &mut Nobody);
        match connection.protocol() {
            Some(Protocol::Unknown) => break,
            Some(name) => drop(names.insert(name)),
            None => {}
        }
        if number >= join + CALLS_AFTER_JOIN {
            break;
        }
    }
    (names, connection.role())
}
