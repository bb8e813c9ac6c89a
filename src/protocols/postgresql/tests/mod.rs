mod conversations;
mod golden;
mod secrets;

use super::DEFINITION;
use crate::{
    model::Protocols,
    protocols::{
        Opening, Transport,
        testing::{Collected, Conversation, golden::Call},
    },
};

pub const OPEN: Opening = Opening { adopted: false, transport: Transport::Stream, raw: Protocols::NONE };
pub const ADOPT: Opening = Opening { adopted: true, transport: Transport::Stream, raw: Protocols::NONE };

pub fn conversation(opening: Opening) -> Conversation {
    if opening.adopted { Conversation::adopted(DEFINITION.parser, 0) } else { Conversation::opened(DEFINITION.parser) }
}

/// What comes out of a whole conversation.
pub fn play(opening: Opening, calls: &[Call]) -> Collected {
    let mut conversation = conversation(opening);
    for (flow, bytes) in calls {
        conversation.call(*flow, bytes);
    }
    assert!(!conversation.refused(), "taken for another protocol");
    conversation.close();
    std::mem::take(&mut conversation.seen)
}
