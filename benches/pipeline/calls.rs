//! Streams and parsers alone, with the events of a recording from memory.

use std::{collections::HashMap, hint::black_box};

use anyhow::Result;
use remora::{
    connection::{Connection, stream::Segment},
    event::{Body, Event},
    model::{Direction, Exchange, Protocols, Role},
    protocols::{Capture, Loss, Sink},
};

/// The data of a recording, decoded and sorted by connection beforehand: what is left is streams and parsers.
pub struct Calls<'a> {
    calls: Vec<(usize, Direction, Segment<'a>)>,
    roles: Vec<Role>,
}

struct Count {
    exchanges: u64,
    /// Not with the table.
    wants_attributes: bool,
}

impl Sink for Count {
    fn exchange(&mut self, exchange: &Exchange<'_>) {
        self.exchanges += 1;
        black_box(exchange);
    }

    fn wants_attributes(&self) -> bool {
        self.wants_attributes
    }

    fn capture(&mut self, _: Capture) {}

    fn lost(&mut self, _: Loss) {}
}

impl<'a> Calls<'a> {
    pub fn of(mut records: &'a [u8]) -> Result<Self> {
        let (mut calls, mut roles, mut places) = (Vec::new(), Vec::new(), HashMap::new());
        while let Some(length) = remora::event::record_len(records) {
            let (record, behind) = records.split_at(length);
            records = behind;
            let Event { header, body } = Event::decode(record)?;
            match body {
                Body::Open { role, .. } => {
                    places.insert(header.connection, roles.len());
                    roles.push(role);
                }
                Body::Data { direction, offset, size, payload, .. } => {
                    let segment = Segment { offset, size: size.into(), payload, time_ns: header.time_ns };
                    calls.push((places[&header.connection], direction, segment));
                }
                _ => {}
            }
        }
        Ok(Self { calls, roles })
    }

    /// Bytes on the wire, those of both sides counted.
    #[allow(dead_code, reason = "the bench of the pipeline counts exchanges only")]
    pub fn bytes(&self) -> u64 {
        self.calls.iter().map(|(_, _, segment)| segment.size).sum()
    }

    /// How many exchanges came out.
    pub fn play(&self, times: u32, wants_attributes: bool) -> u64 {
        let mut count = Count { exchanges: 0, wants_attributes };
        for _ in 0..times {
            let mut connections: Vec<_> = self.roles.iter().map(|role| Connection::new(*role, false, Protocols::default())).collect();
            for (connection, direction, segment) in &self.calls {
                connections[*connection].data(*direction, *segment, &mut count);
            }
        }
        count.exchanges
    }
}
