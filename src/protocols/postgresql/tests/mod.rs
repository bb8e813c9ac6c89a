mod conversations;
mod golden;
mod secrets;

use super::DEFINITION;
use crate::protocols::{
    Opening,
    testing::{Collected, Conversation, golden::Call},
};

pub use crate::protocols::testing::{ADOPT, OPEN};

pub fn conversation(opening: Opening) -> Conversation {
    Conversation::new((DEFINITION.parser)(opening), 0)
}

pub fn play(opening: Opening, calls: &[Call]) -> Collected {
    conversation(opening).play(calls)
}
