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

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::export::{
        fixtures::{cluster, published},
        status::ProgramHealth,
    };

    fn written(published: &Published) -> Json {
        let mut out = Vec::new();
        status(&mut out, published);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_plain_host_lacks_nothing_but_what_was_lost() {
        let status = written(&published(2));
        assert_eq!((&status["host"], &status["hooks"], &status["ready"]), (&json!("ship"), &json!("socket"), &json!(true)));
        assert_eq!((&status["uptime_ns"], &status["exchanges"], &status["edges"]), (&json!(2_000_000_000), &json!(36), &json!(3)));
        assert_eq!((&status["lost"], &status["cpu_ns"]), (&json!({"ring_full": 0, "parse_gap": 2}), &json!(1_500_000_000)));
        assert_eq!((&status["kubernetes"], &status["conntrack"], &status["engine"]), (&Json::Null, &Json::Null, &Json::Null));
        let degraded = status["degraded"].as_array().unwrap();
        assert!(degraded.len() == 1 && degraded[0].as_str().unwrap().starts_with("2 lost since the start for parse_gap"), "{degraded:?}");
    }

    #[test]
    fn a_stale_cluster_is_told_by_kind_and_in_a_sentence() {
        let mut published = cluster(false);
        let engine = EngineHealth { socket: "/run/docker.sock".to_owned(), containers: 3, lists: 1, events: 9, ..EngineHealth::default() };
        published.surroundings.engine = Some(engine);
        published.surroundings.programs = vec![ProgramHealth { name: "on_send".to_owned(), state: "attached", why: None }];
        let status = written(&published);
        let pods = json!({
            "kind": "pods", "state": "stale", "objects": 40, "events": 7, "relists": 2, "silence_ns": 180_000_000_000u64, "error": null,
        });
        assert_eq!((&status["kubernetes"]["server"], &status["kubernetes"]["kinds"][0]), (&json!("https://10.96.0.1:443"), &pods));
        assert_eq!(status["conntrack"], json!({"asked": 10, "found": 7, "failed": 1, "error": null}));
        assert_eq!(
            (&status["engine"]["containers"], &status["programs"]),
            (&json!(3), &json!([{"name": "on_send", "state": "attached", "why": null}]))
        );
        let degraded = status["degraded"].as_array().unwrap();
        assert_eq!(degraded.len(), 2, "{degraded:?}");
        assert!(degraded[0].as_str().unwrap().contains("pods for 3m"), "{degraded:?}");
        assert_eq!(status["ready"], json!(true), "an agent without its API server keeps working");
    }
}
