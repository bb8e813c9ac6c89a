mod conversations;
mod frames;
mod golden;
mod properties;
mod speech;

use super::DEFINITION;
use crate::protocols::testing::{Collected, Conversation, golden::Call};

/// What comes out of a conversation that is watched from its first byte, or from later on.
fn play(adopted: bool, calls: &[Call]) -> Collected {
    let talk = if adopted { Conversation::adopted(DEFINITION.parser, 0) } else { Conversation::opened(DEFINITION.parser) };
    talk.play(calls)
}
