mod conversations;
mod golden;
mod sql;

use super::DEFINITION;
use crate::{
    model::Flow,
    protocols::{
        Opening,
        testing::{Collected, Conversation},
    },
};

pub type Call = (Flow, Vec<u8>);

pub const OPEN: Opening = Opening { adopted: false };
pub const ADOPT: Opening = Opening { adopted: true };

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
