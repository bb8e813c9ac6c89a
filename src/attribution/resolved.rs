//! What remote addresses are called: the names that answers of DNS gave them. Knows no clock: time comes with the events.
//!
//! One name has many addresses, and an address many names: the one that was asked for last stands.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
};

/// Addresses known at once; the one whose name was heard longest ago gives way.
const ADDRESSES_MAX: usize = 8192;
/// Different names given out; who comes later keeps its address.
const DOMAINS_MAX: usize = 4096;
/// A longer text is no host's name.
const NAME_MAX: usize = 255;
/// Programs use an address for longer than they may: a pool of connections, a resolver of their own.
const LEAST_NS: u64 = 60_000_000_000;
const MOST_S: u32 = 86_400;

/// Names of addresses, each for its time.
#[derive(Debug, Default)]
pub struct Resolved {
    /// By the network namespace of who asked: there the address is called so.
    asked: Names<(u32, IpAddr)>,
    /// Whoever asked.
    heard: Names<IpAddr>,
}

#[derive(Debug)]
struct Names<K> {
    names: HashMap<K, Entry>,
    /// By the number of the answer that they were last heard in.
    heard: BTreeMap<u64, K>,
    answers: u64,
}

impl<K> Default for Names<K> {
    fn default() -> Self {
        Self { names: HashMap::new(), heard: BTreeMap::new(), answers: 0 }
    }
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    expires_ns: u64,
    answer: u64,
}

impl Resolved {
    /// Somebody in the network namespace `netns` was answered the name with the address for `ttl_s` seconds. Addresses that mean another host to
    /// everyone are left out.
    pub fn insert(&mut self, netns: u32, name: &str, address: IpAddr, ttl_s: u32, now_ns: u64) {
        if name.len() > NAME_MAX || address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return;
        }
        let lives_ns = (u64::from(ttl_s.min(MOST_S)) * 1_000_000_000).max(LEAST_NS);
        let expires_ns = now_ns.saturating_add(lives_ns);
        let name = self.heard.insert(address, Err(name), expires_ns);
        self.asked.insert((netns, address), Ok(name), expires_ns);
    }

    /// What the address is called at that time: by those of the namespace, else by others.
    pub fn name(&self, netns: u32, address: IpAddr, now_ns: u64) -> Option<&Arc<str>> {
        self.asked.name(&(netns, address), now_ns).or_else(|| self.heard.name(&address, now_ns))
    }
}

impl<K: Copy + Eq + Hash> Names<K> {
    fn insert(&mut self, key: K, name: Result<Arc<str>, &str>, expires_ns: u64) -> Arc<str> {
        self.answers += 1;
        let answer = self.answers;
        if let Some(known) = self.names.get(&key) {
            self.heard.remove(&known.answer);
        } else if self.names.len() >= ADDRESSES_MAX
            && let Some((_, oldest)) = self.heard.pop_first()
        {
            self.names.remove(&oldest);
        }
        let known = self.names.get(&key).map(|known| Arc::clone(&known.name));
        let name = name.unwrap_or_else(|text| known.filter(|known| **known == *text).unwrap_or_else(|| text.into()));
        self.names.insert(key, Entry { name: Arc::clone(&name), expires_ns, answer });
        self.heard.insert(answer, key);
        name
    }

    fn name(&self, key: &K, now_ns: u64) -> Option<&Arc<str>> {
        self.names.get(key).filter(|entry| now_ns < entry.expires_ns).map(|entry| &entry.name)
    }
}

/// The names that were given to workloads: bounded, because anybody may ask for any.
#[derive(Debug, Default)]
pub struct Domains(HashSet<Arc<str>>);

impl Domains {
    /// The name, if there is room for it.
    pub fn admit(&mut self, name: &Arc<str>) -> Option<Arc<str>> {
        if !self.0.contains(name) {
            if self.0.len() >= DOMAINS_MAX {
                return None;
            }
            self.0.insert(Arc::clone(name));
        }
        self.0.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn name(resolved: &Resolved, address: IpAddr, now_ns: u64) -> Option<&str> {
        resolved.name(7, address, now_ns).map(|name| &**name)
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number).into())
    }

    #[test]
    fn the_last_name_stands_for_its_time() {
        let mut resolved = Resolved::default();
        resolved.insert(7, "a.test", address(1), 300, 0);
        resolved.insert(7, "b.test", address(1), 100, SECOND_NS);
        assert_eq!(name(&resolved, address(1), 101 * SECOND_NS - 1), Some("b.test"));
        assert_eq!(name(&resolved, address(1), 101 * SECOND_NS), None);
        assert_eq!(name(&resolved, address(2), 0), None);
        // A TTL of nothing lives for a moment.
        resolved.insert(7, "c.test", address(2), 0, 0);
        assert_eq!((name(&resolved, address(2), 59 * SECOND_NS), name(&resolved, address(2), 60 * SECOND_NS)), (Some("c.test"), None));
    }

    #[test]
    fn who_asked_has_the_name_that_was_asked_for() {
        let mut resolved = Resolved::default();
        let name = |resolved: &Resolved, netns| resolved.name(netns, address(1), 1).map(|name| name.to_string());
        resolved.insert(1, "mine.test", address(1), 300, 0);
        resolved.insert(2, "theirs.test", address(1), 300, 0);
        assert_eq!(name(&resolved, 1).as_deref(), Some("mine.test"));
        assert_eq!(name(&resolved, 2).as_deref(), Some("theirs.test"));
        assert_eq!(name(&resolved, 3).as_deref(), Some("theirs.test"), "whoever asked last");
    }

    #[test]
    fn addresses_of_every_host_have_no_name() {
        let mut resolved = Resolved::default();
        for text in ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.251", "ff02::fb"] {
            resolved.insert(7, "blocked.test", text.parse().unwrap(), 300, 0);
            assert_eq!(name(&resolved, text.parse().unwrap(), 1), None, "{text}");
        }
    }

    #[test]
    fn what_was_heard_longest_ago_gives_way() {
        let mut resolved = Resolved::default();
        for number in 0..ADDRESSES_MAX as u32 {
            resolved.insert(7, "a.test", address(number), 300, 0);
        }
        resolved.insert(7, "a.test", address(0), 300, 0);
        resolved.insert(7, "a.test", address(ADDRESSES_MAX as u32), 300, 0);
        assert_eq!((resolved.heard.names.len(), resolved.heard.heard.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
        assert_eq!((resolved.asked.names.len(), resolved.asked.heard.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
        assert_eq!((name(&resolved, address(0), 1), name(&resolved, address(1), 1)), (Some("a.test"), None));
    }

    #[test]
    fn names_are_given_out_within_a_bound() {
        let mut domains = Domains::default();
        let mut admit = |name: &str| domains.admit(&name.into()).is_some();
        assert!((0..DOMAINS_MAX).all(|number| admit(&format!("{number}.test"))));
        assert!(!admit("one.more.test"));
        assert!(admit("7.test"), "a known one stays");
    }
}
