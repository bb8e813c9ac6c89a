//! The sending end of a channel, with what to do when its reader has no room.

use std::{cell::Cell, time::Duration};

use crossbeam_channel::Sender;

/// How long a sender waits for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A moment: the queues before and the kernel's ring hold what comes meanwhile, which costs nothing until they are full, too. A reader
    /// that stays away costs one wait, not many.
    Brief,
    /// For as long as it takes: a file and memory do.
    Wait,
}

const MOMENT: Duration = Duration::from_millis(500);

/// Sends to one reader.
pub struct Outlet<T> {
    sender: Sender<T>,
    pub patience: Patience,
    /// The reader had no room the last time.
    stalled: Cell<bool>,
}

impl<T> Outlet<T> {
    pub fn new(sender: Sender<T>, patience: Patience) -> Self {
        Self { sender, patience, stalled: Cell::new(false) }
    }

    /// What found no room in time, or no reader any more, comes back.
    pub fn send(&self, message: T) -> Result<(), T> {
        let moment = if self.stalled.get() { Duration::ZERO } else { MOMENT };
        let sent = match self.patience {
            Patience::Wait => self.sender.send(message).map_err(|error| error.into_inner()),
            Patience::Brief => self.sender.send_timeout(message, moment).map_err(|error| error.into_inner()),
        };
        self.stalled.set(sent.is_err());
        sent
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn what_finds_no_room_comes_back_until_there_is_room_again() {
        let (sender, receiver) = bounded(1);
        let outlet = Outlet::new(sender, Patience::Brief);
        assert_eq!((outlet.send(1), outlet.send(2), outlet.send(3)), (Ok(()), Err(2), Err(3)));
        assert_eq!((receiver.recv(), outlet.send(4)), (Ok(1), Ok(())));
        drop(receiver);
        assert_eq!(outlet.send(5), Err(5));
    }
}
