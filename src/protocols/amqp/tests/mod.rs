mod conversations;
mod frames;
mod golden;
mod properties;
mod speech;

use super::DEFINITION;
use crate::protocols::testing::{Collected, Conversation, golden::Call};

/// What comes out of a conversation that is watched from its first byte, or from later on.
fn play(adopted: bool, calls: &[Call]) -> Collected {
    let mut talk = if adopted { Conversation::adopted(DEFINITION.parser, 0) } else { Conversation::opened(DEFINITION.parser) };
    for (flow, bytes) in calls {
        talk.call(*flow, bytes);
    }
    assert!(!talk.refused(), "taken for another protocol");
    talk.close();
    std::mem::take(&mut talk.seen)
}
