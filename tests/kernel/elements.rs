//! Reading all of a hash map, by maps of our own. What is left out would count as an ended connection.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys};
use remora::probes::elements;

use crate::support::machine;

/// As long as a connection's value, roughly: it has nothing to do with the key but for its first bytes.
type Value = [u8; 200];

fn map(entries: u32, flags: u32) -> MapHandle {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        map_flags: flags,
        ..Default::default()
    };
    MapHandle::create(MapType::Hash, Some("elements"), 8, size_of::<Value>() as u32, entries, &options).expect("a map")
}

fn put(map: &MapHandle, key: u64) {
    let mut value: Value = [0; size_of::<Value>()];
    value[..8].copy_from_slice(&(!key).to_ne_bytes());
    map.update(&key.to_ne_bytes(), &value, MapFlags::ANY).expect("put in an element");
}

fn delete(map: &MapHandle, key: u64) {
    map.delete(&key.to_ne_bytes()).expect("take out an element");
}

/// The key, by the value.
fn key(value: &[u8]) -> u64 {
    assert_eq!(value.len(), size_of::<Value>());
    !u64::from_ne_bytes(value[..8].try_into().expect("eight bytes"))
}

fn full(entries: u32, keys: impl Iterator<Item = u64>) -> MapHandle {
    let map = map(entries, 0);
    keys.for_each(|key| put(&map, key));
    map
}

/// Addresses of sockets, as the kernel's allocator gives them.
fn sockets(count: u64) -> impl Iterator<Item = u64> + Clone {
    (0..count).map(|number| 0xffff_8881_0000_0000 + number * 2304)
}

/// Sorted, so that what comes twice is there twice.
fn sorted(mut keys: Vec<u64>) -> Vec<u64> {
    keys.sort_unstable();
    keys
}

fn by_batches(map: &MapHandle, count: u32) -> Vec<u64> {
    let mut keys = Vec::new();
    elements::by_batches(map, count, |value| keys.push(key(value))).expect("reading by batches");
    sorted(keys)
}

fn by_keys(map: &MapHandle) -> Vec<u64> {
    let mut keys = Vec::new();
    elements::by_keys(map, |value| keys.push(key(value))).expect("reading by keys");
    sorted(keys)
}

/// Linux 5.6.
fn has_batches() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(6))
}

#[test]
fn every_element_is_read_once_however_the_buckets_meet_the_batches() {
    let _machine = machine();
    for (entries, count) in [(65_536, 20_000), (65_536, 50_000), (32_768, 32_768), (32_768, 1), (1, 1), (1024, 0)] {
        let keys = sockets(count);
        let map = full(entries, keys.clone());
        let expected: Vec<_> = keys.collect();
        assert!(by_keys(&map) == expected, "{count} of {entries} by keys");
        if has_batches() {
            // By one at first, so that most buckets do not fit.
            for batch in [1, 7, 1024, 100_000] {
                let read = by_batches(&map, batch);
                assert!(read == expected, "{} instead of {count} of {entries} by batches of {batch}", read.len());
            }
        }
    }
}

#[test]
fn what_stays_is_read_once_while_others_come_and_go() {
    let _machine = machine();
    let staying: Vec<_> = sockets(20_000).collect();
    let passing: Vec<_> = (1..=5_000_u64).collect();
    let map = full(32_768, staying.iter().copied());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                passing.iter().for_each(|key| put(&map, *key));
                passing.iter().for_each(|key| delete(&map, *key));
            }
        });
        let read = |read: Vec<u64>| read.into_iter().filter(|key| *key > 5_000).collect::<Vec<_>>();
        let mut right = Vec::new();
        for _ in 0..20 {
            right.push(read(by_keys(&map)) == staying);
            right.push(!has_batches() || read(by_batches(&map, 1024)) == staying);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(right.iter().all(|right| *right), "{right:?}");
    });
}

#[test]
fn a_walk_by_keys_goes_on_where_it_was_when_its_key_and_those_around_it_are_taken_out() {
    let _machine = machine();
    let map = full(8192, sockets(5_000));
    // In the order in which the kernel gives them.
    let order: Vec<_> = map.keys().map(|key| u64::from_ne_bytes(key.try_into().expect("eight bytes"))).collect();
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    elements::by_keys(&map, |value| {
        let place = read.len() + unread.len();
        assert_eq!(key(value), order[place]);
        read.push(order[place]);
        // This one, the two before and the two behind it.
        if place % 100 == 50 {
            order[place - 2..=place + 2].iter().for_each(|key| delete(&map, *key));
            unread.extend_from_slice(&order[place + 1..=place + 2]);
        }
    })
    .expect("reading by keys");
    assert_eq!((read.len(), unread.len()), (4_900, 100));
    assert_eq!(by_keys(&map).len(), 5_000 - 50 * 5);

    // From the very first on nothing is left behind it: it begins anew.
    let map = full(64, 1..=3);
    let mut read = BTreeSet::new();
    elements::by_keys(&map, |value| {
        if read.insert(key(value)) && read.len() == 1 {
            (1..=3).for_each(|key| delete(&map, key));
            (11..=13).for_each(|key| put(&map, key));
        }
    })
    .expect("reading by keys");
    assert!(read.is_superset(&BTreeSet::from([11, 12, 13])) && read.len() == 4, "{read:?}");
}

#[test]
fn a_walk_by_keys_that_has_no_end_is_an_error() {
    let _machine = machine();
    let map = full(64, 1..=3);
    let (mut there, mut reads) = (1..=3, 0_u64);
    let error = elements::by_keys(&map, |_| {
        there.clone().for_each(|key| delete(&map, key));
        there = there.end() + 1..=there.end() + 3;
        there.clone().for_each(|key| put(&map, key));
        reads += 1;
    });
    let error = error.expect_err("it never ends").to_string();
    assert_eq!(error, "it changes faster than it can be read: no end after 1024 keys");
    assert!(reads > 100, "{reads}");
}

#[test]
fn what_the_kernel_refuses_is_an_error_and_not_the_end() {
    let _machine = machine();
    let unreadable = map(64, libbpf_sys::BPF_F_WRONLY);
    put(&unreadable, 1);
    let refused = |error: anyhow::Error| format!("{error:#}");
    let error = refused(elements::by_keys(&unreadable, |_| panic!("it was read")).expect_err("not readable"));
    assert_eq!(error, "looking for the next key: Operation not permitted (os error 1)");
    if has_batches() {
        let error = refused(elements::by_batches(&unreadable, 8, |_| panic!("it was read")).expect_err("not readable"));
        assert_eq!(error, "reading a batch: Operation not permitted (os error 1)");
    }
}
