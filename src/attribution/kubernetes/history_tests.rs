//! Random histories of one address: whatever the order in which they are told, nobody is named who did not have it.

use proptest::prelude::*;

use super::{at, bed, pod, timestamp, uid};
use crate::attribution::kubernetes::{objects::PodObject, store::uid_key, writer::Moment};
use serde_json::json;

const MS: u64 = 1_000_000;
/// Within so many milliseconds the API server tells what happened.
const DELIVERY_MS: u64 = 1_000;

/// A pod's hold on the address, in milliseconds after the boot.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// The kubelet takes the pod on; what it says of the time is up to a second wrong.
    taken_on: u64,
    from: u64,
    /// Its first container runs.
    runs: u64,
    /// The status with the address is written.
    reported: u64,
    to: u64,
    clock_error: i64,
    /// Of the three events: made, reported, deleted.
    delays: [u64; 3],
    /// It ends by itself, and stays in the API.
    completes: bool,
}

fn histories() -> impl Strategy<Value = Vec<Hold>> {
    let times = (0..3_000_u64, 0..2_000_u64, 0..2_000_u64, 0..2_000_u64, 0..8_000_u64, 0..3_000_u64);
    let rest = (-900..900_i64, prop::array::uniform3(0..=DELIVERY_MS), any::<bool>());
    prop::collection::vec((times, rest), 1..6).prop_map(|parts| {
        let mut free_from = 20_000;
        let hold = |((early, idle, starting, reporting, living, _), (clock_error, delays, completes))| {
            // The pod may be taken on while another still has the address.
            let from: u64 = free_from + idle;
            let runs = from + starting;
            let reported = runs + reporting;
            let to = reported + living;
            free_from = to;
            Hold { taken_on: from.saturating_sub(early), from, runs, reported, to, clock_error, delays, completes }
        };
        parts.into_iter().map(hold).collect()
    })
}

/// What is told, and when.
#[derive(Clone, Copy)]
enum Told {
    Made,
    Reported,
    Ended,
}

fn moment(ms: u64) -> Moment {
    let boot = at(0);
    Moment { mono_ns: ms * MS, unix_ns: boot.unix_ns + ms * MS }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_address_names_its_true_holder_or_nobody(holds in histories(), asked in prop::collection::vec(0..60_000_u64, 40)) {
        let mut bed = bed();
        let mut told: Vec<(u64, usize, Told)> = Vec::new();
        for (number, hold) in holds.iter().enumerate() {
            // The events of one pod keep their order.
            let made = hold.taken_on + hold.delays[0];
            let reported = (hold.reported + hold.delays[1]).max(made);
            told.push((made, number, Told::Made));
            told.push((reported, number, Told::Reported));
            told.push(((hold.to + hold.delays[2]).max(reported), number, Told::Ended));
        }
        told.sort_by_key(|(time, number, told)| (*time, *number, *told as u8));
        let mut told = told.into_iter().peekable();
        let mut asked = asked;
        asked.sort_unstable();
        let holder = |time: u64| holds.iter().position(|hold| hold.from <= time && time < hold.to);
        let object = |number: usize, told: Told| {
            let hold = &holds[number];
            let second = |ms: u64| timestamp(ms.saturating_add_signed(hold.clock_error) / 1_000);
            let mut object = pod(number as u64 + 1, &format!("pod-{number}"), "10.0.0.1", 1);
            object["metadata"]["creationTimestamp"] = json!(timestamp(hold.taken_on / 1_000));
            object["status"]["startTime"] = json!(second(hold.taken_on));
            object["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = json!(second(hold.runs));
            match told {
                Told::Made => object["status"] = json!({"phase": "Pending"}),
                Told::Reported => {}
                Told::Ended => object["status"]["phase"] = json!("Succeeded"),
            }
            serde_json::from_value::<PodObject>(object).unwrap()
        };
        for (place, now) in asked.iter().enumerate() {
            while let Some((time, number, what)) = told.next_if(|(time, ..)| time <= now) {
                match what {
                    Told::Ended if !holds[number].completes => {
                        bed.writer.remove_pod(uid_key(&uid(number as u64 + 1)).unwrap(), moment(time));
                    }
                    _ => prop_assert!(bed.writer.put_pod(&object(number, what), moment(time))),
                }
                bed.writer.settle(moment(time));
            }
            let named = |time: u64| {
                let pod = bed.remote_at("10.0.0.1", 0, time * MS)?.pod?;
                pod.name.strip_prefix("pod-")?.parse::<usize>().ok()
            };
            // Of what was told in time there is no doubt, however late one asks.
            for time in asked[..place].iter().copied().filter(|time| time + DELIVERY_MS <= *now) {
                if let (Some(named), Some(holder)) = (named(time), holder(time)) {
                    prop_assert_eq!(named, holder, "at {} by {}", time, now);
                }
            }
            // Asked at once, an answer is never older than what could be told.
            if let (Some(named), Some(_)) = (named(*now), holder(*now)) {
                prop_assert!(holds[named].from <= *now && *now < holds[named].to + DELIVERY_MS, "{} at {}", named, now);
            }
        }
    }
}

#[test]
fn a_steady_history_is_answered_for_most_of_its_time() {
    let mut bed = bed();
    let mut named = 0;
    for number in 0..10_u64 {
        let start_s = 100 + number * 30;
        let object = serde_json::from_value(pod(number + 1, &format!("pod-{number}"), "10.0.0.1", start_s)).unwrap();
        assert!(bed.writer.put_pod(&object, at(start_s + 2)));
        let mid = bed.holder("10.0.0.1", start_s + 10);
        named += u64::from(mid.as_deref() == Some(&format!("pod-{number}")));
        bed.writer.remove_pod(uid_key(&uid(number + 1)).unwrap(), at(start_s + 28));
        bed.writer.settle(at(start_s + 28));
    }
    assert_eq!(named, 10);
    let known = (280..388).filter(|second| bed.holder("10.0.0.1", *second).is_some()).count();
    assert!(known > 85, "{known} of 108 seconds");
}
