//! What the agent must show on a real kernel, with real programs and counts compared for equality.
//! Needs root, and the servers and clients that `TEST_PACKAGES` of the Makefile lists (`make test` installs them).
//! The tests take turns: each has the whole machine, because the agent sees all of it.

mod adoption;
mod amqp;
mod bulk;
mod calls;
mod cgroups;
mod churn;
mod containers;
mod dns;
mod dns_udp;
mod edges;
mod elements;
mod failures;
mod fixtures;
mod grpc;
mod hostile;
mod http;
mod http2;
mod lifecycle;
mod mysql;
mod namespaces;
mod nat;
mod packet;
mod packet_frames;
mod postgresql;
mod privileges;
mod recording;
mod redis;
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod upgrades;
mod verifier;
mod websocket;
