//! The agent's own state as one object.

use super::{list, string, text::Object};
use crate::export::{
    Name, Published,
    status::{ClusterHealth, ConntrackHealth, EngineHealth, KindHealth, degraded},
};

/// Appends the status as one object without a line's end.
pub fn status(out: &mut Vec<u8>, published: &Published) {
    let mut object = Object::new(out);
    object.plain("version", env!("CARGO_PKG_VERSION"));
    object.string("host", &published.host);
    object.string("hooks", &published.hooks);
    object.boolean("ready", published.ready);
    object.number("uptime_ns", published.uptime_ns);
    list(object.key("degraded"), degraded(published), |out, sentence| string(out, &sentence));
    object.number("exchanges", published.snapshot.exchanges);
    object.number("edges", published.snapshot.edges.len() as u64);
    object.number("folded_edges", published.snapshot.folded_edges);
    let own = &published.self_metrics;
    counts(&mut object, "events", &own.events);
    counts(&mut object, "lost", &own.lost);
    counts(&mut object, "queue_depths", &own.queue_depths);
    object.number("resident_bytes", own.resident_bytes);
    object.number("cpu_ns", (own.cpu_seconds * 1e9) as u64);
    let around = &published.surroundings;
    optional(&mut object, "kubernetes", around.kubernetes.as_ref(), kubernetes);
    optional(&mut object, "conntrack", around.conntrack.as_ref(), conntrack);
    optional(&mut object, "engine", around.engine.as_ref(), engine);
    list(object.key("programs"), &around.programs, |out, program| {
        let mut object = Object::new(out);
        object.string("name", &program.name);
        object.plain("state", program.state);
        object.optional_string("why", program.why.as_deref());
        object.end();
    });
    object.end();
}

fn optional<T>(object: &mut Object<'_>, name: &str, value: Option<T>, write: impl FnOnce(&mut Object<'_>, T)) {
    match value {
        None => object.key(name).extend_from_slice(b"null"),
        Some(value) => {
            let mut member = Object::new(object.key(name));
            write(&mut member, value);
            member.end();
        }
    }
}

fn counts(object: &mut Object<'_>, name: &str, counts: &[(Name, u64)]) {
    let mut member = Object::new(object.key(name));
    counts.iter().for_each(|(name, count)| member.number(name, *count));
    member.end();
}

fn kubernetes(object: &mut Object<'_>, cluster: &ClusterHealth) {
    object.string("server", &cluster.server);
    list(object.key("kinds"), &cluster.kinds, |out, health| {
        let KindHealth { kind, state, objects, events, relists, silence_ns, error } = health;
        let mut object = Object::new(out);
        object.string("kind", kind);
        object.plain("state", state.name());
        object.number("objects", *objects);
        object.number("events", *events);
        object.number("relists", *relists);
        object.number("silence_ns", *silence_ns);
        object.optional_string("error", error.as_deref());
        object.end();
    });
}

fn conntrack(object: &mut Object<'_>, conntrack: &ConntrackHealth) {
    object.number("asked", conntrack.asked);
    object.number("found", conntrack.found);
    object.number("failed", conntrack.failed);
    object.optional_string("error", conntrack.error.as_deref());
}

fn engine(object: &mut Object<'_>, engine: &EngineHealth) {
    object.string("socket", &engine.socket);
    object.number("containers", engine.containers);
    object.number("lists", engine.lists);
    object.number("events", engine.events);
    object.number("ignored", engine.ignored);
    object.number("failures", engine.failures);
}
