//! Templates of paths, learned from the traffic of one server: `/users/17/cart` is asked as `/users/{id}/cart`.
//!
//! A segment is a parameter when it looks like one (a number, a UUID, a token …), or when so many different segments were seen in its place
//! that they cannot all be parts of the interface. Bounded; the same paths in the same order give the same templates.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

/// What stands for a parameter.
const PARAMETER: &str = "{id}";
/// Segments beyond this are one: `…`.
const MAX_DEPTH: usize = 12;
/// Places in the tree of one server; what finds no room is [`super::edges::OTHER`].
const MAX_NODES: usize = 1024;
/// Templates of one server; those that were given up for a parameter stay known.
const MAX_TEXTS: usize = 2 * MAX_NODES;
/// So many different names in one place, each asked less than [`FEW`] times on average, are values of a parameter.
const MANY: usize = 40;
const FEW: u64 = 4;
/// So many are values however often each is asked.
const TOO_MANY: usize = 100;
/// Of many names those stay that are asked so many times as often as the average.
const OUTSTANDING: u64 = 8;
/// Direct-mapped positions of recently seen paths; a power of two.
const CACHE: usize = 256;

/// A template of a [`Routes`]; valid for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route(u32);

impl Route {
    /// The overflow: what found no room.
    const OTHER: Route = Route(0);
}

/// The templates of one server.
#[derive(Debug)]
pub struct Routes {
    nodes: Vec<Node>,
    free: Vec<u32>,
    texts: Vec<Box<str>>,
    cache: Box<[Cached]>,
    hasher: FixedState,
}

#[derive(Clone, Debug, Default)]
struct Node {
    parent: u32,
    /// A name, [`PARAMETER`], or empty at the root.
    label: Box<str>,
    /// Names, in the order in which they came.
    names: Vec<u32>,
    parameter: Option<u32>,
    /// New names are values of the parameter.
    learned: bool,
    asked: u64,
    /// Of the path that ends here.
    route: Option<Route>,
}

#[derive(Clone, Copy, Debug)]
struct Cached {
    hash: u64,
    route: Route,
    node: u32,
    /// Asked so often since it came here; not yet counted in the nodes.
    asked: u32,
}

const EMPTY: Cached = Cached { hash: 0, route: Route::OTHER, node: 0, asked: 0 };

impl Default for Routes {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
            texts: vec![super::edges::OTHER.into()],
            cache: vec![EMPTY; CACHE].into(),
            // Fixed, so that a replay learns the same.
            hasher: FixedState::default(),
        }
    }
}

impl Routes {
    /// The template of a path without query.
    #[inline]
    pub fn route(&mut self, path: &str) -> Route {
        // An odd hash is never that of an empty position.
        let hash = self.hasher.hash_one(path) | 1;
        if let Some(cached) = self.cache.get_mut(hash as usize / 2 % CACHE)
            && cached.hash == hash
        {
            cached.asked = cached.asked.saturating_add(1);
            return cached.route;
        }
        self.look_up(path, hash)
    }

    pub fn text(&self, route: Route) -> &str {
        self.texts.get(route.0 as usize).map_or(super::edges::OTHER, |text| text)
    }

    #[inline(never)]
    fn look_up(&mut self, path: &str, hash: u64) -> Route {
        let Some(node) = self.walk(path) else { return Route::OTHER };
        let route = match self.nodes[node as usize].route {
            Some(route) => route,
            None => self.name(node),
        };
        let position = hash as usize / 2 % CACHE;
        self.settle(position);
        self.cache[position] = Cached { hash, route, node, asked: 0 };
        route
    }

    /// Down the tree, making what is missing; `None` when there is no room.
    fn walk(&mut self, path: &str) -> Option<u32> {
        let mut node = 0;
        self.nodes[0].asked += 1;
        for (depth, segment) in path.strip_prefix('/').unwrap_or(path).split('/').enumerate() {
            let rest = depth + 1 >= MAX_DEPTH;
            let label = if rest { "…" } else { segment };
            node = if !rest && is_value(segment) { self.parameter(node)? } else { self.named(node, label)? };
            self.nodes[node as usize].asked += 1;
            if rest {
                break;
            }
        }
        Some(node)
    }

    fn named(&mut self, parent: u32, label: &str) -> Option<u32> {
        let found = |node: &Node| node.names.iter().copied().find(|child| *self.nodes[*child as usize].label == *label);
        if let Some(child) = found(&self.nodes[parent as usize]) {
            return Some(child);
        }
        if self.nodes[parent as usize].learned {
            return self.parameter(parent);
        }
        if self.nodes[parent as usize].names.len() + 1 >= MANY {
            self.settle_all();
            let node = &self.nodes[parent as usize];
            let count = node.names.len() + 1;
            let asked: u64 = node.names.iter().map(|child| self.nodes[*child as usize].asked).sum();
            if count >= TOO_MANY || asked < FEW * count as u64 {
                self.learn(parent, asked / count as u64);
                return self.parameter(parent);
            }
        }
        let child = self.add(parent, label)?;
        self.nodes[parent as usize].names.push(child);
        Some(child)
    }

    fn parameter(&mut self, parent: u32) -> Option<u32> {
        if let Some(child) = self.nodes[parent as usize].parameter {
            return Some(child);
        }
        let child = self.add(parent, PARAMETER)?;
        self.nodes[parent as usize].parameter = Some(child);
        Some(child)
    }

    fn add(&mut self, parent: u32, label: &str) -> Option<u32> {
        let node = Node { parent, label: label.into(), ..Node::default() };
        if let Some(position) = self.free.pop() {
            self.nodes[position as usize] = node;
            return Some(position);
        }
        (self.nodes.len() < MAX_NODES).then(|| {
            self.nodes.push(node);
            self.nodes.len() as u32 - 1
        })
    }

    /// The names under a node were values, but for those that stand out.
    fn learn(&mut self, parent: u32, average: u64) {
        let names = std::mem::take(&mut self.nodes[parent as usize].names);
        let (kept, values): (Vec<u32>, Vec<u32>) =
            names.into_iter().partition(|child| self.nodes[*child as usize].asked > OUTSTANDING * average.max(1));
        self.nodes[parent as usize].names = kept;
        self.nodes[parent as usize].learned = true;
        for value in values {
            match self.nodes[parent as usize].parameter {
                Some(parameter) => self.merge(parameter, value),
                None => {
                    // The first value becomes the parameter, with all that is below it.
                    self.nodes[parent as usize].parameter = Some(value);
                    self.nodes[value as usize].label = PARAMETER.into();
                    self.rename(value);
                }
            }
        }
        self.cache.fill(EMPTY);
    }

    /// Adds all that is below `from` to `into`, and frees it. Goes no deeper than [`MAX_DEPTH`].
    fn merge(&mut self, into: u32, from: u32) {
        let Node { names, parameter, asked, learned, .. } = std::mem::take(&mut self.nodes[from as usize]);
        self.free.push(from);
        self.nodes[into as usize].asked += asked;
        self.nodes[into as usize].learned |= learned;
        for child in names {
            let label = &self.nodes[child as usize].label;
            let same = self.nodes[into as usize].names.iter().copied().find(|own| self.nodes[*own as usize].label == *label);
            match same {
                Some(same) => self.merge(same, child),
                None => {
                    self.nodes[into as usize].names.push(child);
                    self.adopt(into, child);
                }
            }
        }
        match (self.nodes[into as usize].parameter, parameter) {
            (Some(own), Some(other)) => self.merge(own, other),
            (None, Some(other)) => {
                self.nodes[into as usize].parameter = Some(other);
                self.adopt(into, other);
            }
            _ => {}
        }
    }

    fn adopt(&mut self, parent: u32, child: u32) {
        self.nodes[child as usize].parent = parent;
        self.rename(child);
    }

    /// The templates of a node and of all below it have another text from now on.
    fn rename(&mut self, node: u32) {
        let Node { names, parameter, .. } = &self.nodes[node as usize];
        let below: Vec<u32> = names.iter().copied().chain(*parameter).collect();
        if let Some(Route(route)) = self.nodes[node as usize].route {
            self.texts[route as usize] = self.template(node);
        }
        below.into_iter().for_each(|child| self.rename(child));
    }

    fn name(&mut self, node: u32) -> Route {
        let text = self.template(node);
        let known = self.texts.iter().skip(1).position(|known| *known == text).map(|position| position as u32 + 1);
        if known.is_none() && self.texts.len() > MAX_TEXTS {
            return Route::OTHER;
        }
        let route = Route(known.unwrap_or_else(|| {
            self.texts.push(text);
            self.texts.len() as u32 - 1
        }));
        self.nodes[node as usize].route = Some(route);
        route
    }

    fn template(&self, node: u32) -> Box<str> {
        let (mut labels, mut at) = (Vec::new(), node);
        while at != 0 && labels.len() <= MAX_DEPTH {
            let node = &self.nodes[at as usize];
            labels.push(&*node.label);
            at = node.parent;
        }
        labels.iter().rev().flat_map(|label| ["/", label]).collect::<String>().into()
    }

    /// Counts what a cached path was asked in its nodes.
    fn settle(&mut self, position: usize) {
        let Cached { node, asked, .. } = std::mem::replace(&mut self.cache[position], EMPTY);
        let mut at = node;
        for _ in 0..=MAX_DEPTH {
            self.nodes[at as usize].asked += u64::from(asked);
            if at == 0 {
                break;
            }
            at = self.nodes[at as usize].parent;
        }
    }

    fn settle_all(&mut self) {
        (0..CACHE).for_each(|position| self.settle(position));
    }
}

/// A segment that is a value by its looks.
fn is_value(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let count = |kind: fn(&u8) -> bool| bytes.iter().filter(|byte| kind(byte)).count();
    let digits = count(u8::is_ascii_digit);
    let letters = count(u8::is_ascii_alphabetic);
    let separators = count(|byte| b"-_.:,".contains(byte));
    if segment.is_empty() {
        return false;
    }
    // Escapes, addresses, matrix parameters, other scripts: names of an interface do not have them.
    if digits + letters + separators < bytes.len() && bytes.iter().any(|byte| b"%@=;+~!*'()$&|".contains(byte) || !byte.is_ascii()) {
        return true;
    }
    if bytes.len() > 64 {
        return true;
    }
    // 17, 2024-01-31, 10.0.0.1
    if digits > 0 && letters == 0 {
        return true;
    }
    let hexadecimal = bytes.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    if hexadecimal && digits > 0 && bytes.len() >= 8 {
        return true;
    }
    // Tokens, and names with a number: order-98113, user123.
    if bytes.len() >= 20 && digits >= 2 && letters > 0 && separators < 3 {
        return true;
    }
    let tail = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    tail >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(routes: &mut Routes, path: &str) -> String {
        let route = routes.route(path);
        routes.text(route).to_owned()
    }

    #[test]
    fn what_looks_like_a_value_is_a_parameter_at_once() {
        let mut routes = Routes::default();
        for (path, template) in [
            ("/", "/"),
            ("/users/17", "/users/{id}"),
            ("/users/17/cart", "/users/{id}/cart"),
            ("/orders/2024-01-31", "/orders/{id}"),
            ("/files/0af76519-16cd-43dd-8448-eb211c80319c/raw", "/files/{id}/raw"),
            ("/blobs/deadbeef01", "/blobs/{id}"),
            ("/mail/jo%40example.org", "/mail/{id}"),
            ("/t/eyJhbGciOiJIUzI1NiIsInR5cCI6", "/t/{id}"),
            ("/order-98113", "/{id}"),
            ("/api/v1/s3/oauth2", "/api/v1/s3/oauth2"),
            ("/index.html", "/index.html"),
            ("/users/17/", "/users/{id}/"),
            ("", "/"),
        ] {
            assert_eq!(route(&mut routes, path), template, "{path}");
        }
    }

    #[test]
    fn many_names_in_one_place_become_a_parameter() {
        let mut routes = Routes::default();
        let name = |number: usize| -> String { (0..6).map(|place| char::from(b'a' + (number * (place + 3) % 26) as u8)).collect() };
        for number in 0..26 * 4 {
            route(&mut routes, &format!("/users/{}/cart", name(number) + "xy".repeat(number / 26).as_str()));
        }
        assert_eq!(route(&mut routes, "/users/alice/cart"), "/users/{id}/cart");
        assert_eq!(route(&mut routes, "/users/bob/cart"), "/users/{id}/cart");
    }

    #[test]
    fn a_name_that_is_asked_often_stays_a_name_among_values() {
        let mut routes = Routes::default();
        for number in 0..200u32 {
            let word: String = number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
            route(&mut routes, &format!("/users/{word}"));
            route(&mut routes, "/users/search");
        }
        assert_eq!(route(&mut routes, "/users/search"), "/users/search");
        assert_eq!(route(&mut routes, "/users/zoe"), "/users/{id}");
    }

    #[test]
    fn an_interface_of_fifty_names_that_are_used_keeps_them() {
        let mut routes = Routes::default();
        let names: Vec<String> =
            (0..50u8).map(|number| format!("/{}{}", char::from(b'a' + number / 26), char::from(b'a' + number % 26))).collect();
        for _ in 0..10 {
            // One after the other comes into use.
            names.iter().enumerate().for_each(|(number, name)| (0..=(50 - number) / 5).for_each(|_| drop(route(&mut routes, name))));
        }
        assert!(names.iter().all(|name| route(&mut routes, name) == *name));
    }

    #[test]
    fn a_flood_of_paths_is_bounded_and_named_other() {
        let mut routes = Routes::default();
        for number in 0..200_000u64 {
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let path: String = (0..8).map(|place| format!("/{}", char::from(b'a' + (mixed >> (place * 7) & 15) as u8))).collect();
            route(&mut routes, &path);
        }
        assert!(routes.nodes.len() <= MAX_NODES && routes.texts.len() <= MAX_NODES + 1);
        assert_eq!(route(&mut routes, "/never/seen/before"), "other");
        let deep = "/a".repeat(500);
        assert!(route(&mut Routes::default(), &deep).ends_with("/a/…"));
    }

    #[test]
    fn the_same_paths_give_the_same_templates() {
        let paths: Vec<String> = (0..5_000u64).map(|number| format!("/p/{}/x", number * number % 97)).collect();
        let run = || {
            let mut routes = Routes::default();
            paths.iter().map(|path| route(&mut routes, path)).collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }
}
