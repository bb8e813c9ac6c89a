//! Conversations recorded from C-core, grpc-go and a server of gRPC-Web, beside what must come out of them. No time passes in them, so
//! the deadlines that ended some calls look like cancellations.

use crate::{
    model::Protocol,
    protocols::{
        DEFINITIONS, Opening, Parser,
        testing::{Conversation, golden},
    },
};

const DIRECTORY: &str = "grpc";

fn parser(protocol: Protocol) -> fn(Opening) -> Box<dyn Parser> {
    DEFINITIONS.iter().find(|definition| definition.protocol == protocol).unwrap().parser
}

#[test]
fn recorded_conversations_give_the_expected_calls() {
    for (name, carrier) in [("web", Protocol::Http), ("python_to_go", Protocol::Http2), ("python_to_python", Protocol::Http2)] {
        let seen = Conversation::opened(parser(carrier)).play(&golden::calls(DIRECTORY, name));
        assert_eq!(seen.losses, [], "{name}");
        let lines = golden::assert_gives(DIRECTORY, name, &seen.exchanges);
        assert!(!lines.contains("secret"), "{name}: a secret came out");
    }
}
