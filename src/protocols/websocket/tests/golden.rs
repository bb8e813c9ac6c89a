//! Conversations recorded from two clients and two servers, beside what must come out of them.

use super::parser;
use crate::protocols::testing::{Conversation, golden};

const DIRECTORY: &str = "websocket";

#[test]
fn recorded_conversations_give_the_expected_exchanges() {
    for name in ["websockets_messages", "websockets_refused", "aiohttp_messages", "aiohttp_refused"] {
        let seen = Conversation::opened(parser).play(&golden::calls(DIRECTORY, name));
        assert_eq!(seen.losses, [], "{name}");
        let lines = golden::assert_gives(DIRECTORY, name, &seen.exchanges);
        assert!(!lines.contains("secret"), "{name}: a secret came out");
    }
}
