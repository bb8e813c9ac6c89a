//! Names of exchanges, routing keys and queues as they are shown, shared by all messages that go the same way.

use std::sync::Arc;

/// Where a message goes or came from, or the object of a method.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// "exchange/routing key", or a single name.
    text: String,
    /// End of the exchange's name; `None` where the text is a single name.
    exchange_end: Option<usize>,
}

/// The name by which OpenTelemetry calls the exchange that has none.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// Names that the server makes up, each used by one client only; what follows them is an id, or a token that lets its bearer answer.
const MADE_UP: [&str; 2] = ["amq.gen-", "amq.rabbitmq.reply-to."];

impl Route {
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn exchange(&self) -> &str {
        self.exchange_end.and_then(|end| self.text.get(..end)).unwrap_or_default()
    }

    pub fn routing_key(&self) -> &str {
        self.exchange_end.and_then(|end| self.text.get(end + 1..)).unwrap_or_default()
    }

    /// Exchange, routing key and queue in OpenTelemetry's form: what is empty is left out, a queue called like the key too.
    pub fn destination(&self, queue: Option<&Route>, into: &mut String) {
        into.clear();
        let exchange = Some(self.exchange()).filter(|exchange| *exchange != DEFAULT_EXCHANGE);
        let single = self.exchange_end.is_none().then_some(self.text());
        let queue = queue.map(Route::text).filter(|queue| *queue != self.routing_key());
        for part in [single, exchange, Some(self.routing_key()), queue].into_iter().flatten().filter(|part| !part.is_empty()) {
            if !into.is_empty() {
                into.push(':');
            }
            into.push_str(part);
        }
        if into.is_empty() {
            into.push_str(DEFAULT_EXCHANGE);
        }
    }
}

/// So many ways are remembered a connection: whoever publishes to one of them again allocates nothing.
const REMEMBERED: usize = 8;

/// The ways that were used last.
pub struct Routes {
    recent: Vec<Arc<Route>>,
    oldest: usize,
    scratch: String,
    none: Arc<Route>,
    raw: bool,
}

impl Routes {
    /// `raw`: names made up by the server are shown as they are.
    pub fn new(raw: bool) -> Self {
        let none = Arc::new(Route { text: String::new(), exchange_end: None });
        Self { recent: Vec::new(), oldest: 0, scratch: String::new(), none, raw }
    }

    /// Of nothing.
    pub fn none(&self) -> Arc<Route> {
        Arc::clone(&self.none)
    }

    /// A single name.
    pub fn name(&mut self, name: &[u8]) -> Arc<Route> {
        if name.is_empty() {
            return self.none();
        }
        self.scratch.clear();
        self.put(name);
        self.keep(None)
    }

    /// An exchange and a routing key; without a key the exchange alone.
    pub fn message(&mut self, exchange: &[u8], key: &[u8]) -> Arc<Route> {
        self.scratch.clear();
        match exchange {
            b"" => self.scratch.push_str(DEFAULT_EXCHANGE),
            _ => self.put(exchange),
        }
        let end = self.scratch.len();
        if !key.is_empty() {
            self.scratch.push('/');
            self.put(key);
        }
        self.keep(Some(end))
    }

    /// What flows from one to another: "source -> destination".
    pub fn binding(&mut self, source: &[u8], destination: &[u8]) -> Arc<Route> {
        self.scratch.clear();
        self.put(source);
        self.scratch.push_str(" -> ");
        self.put(destination);
        self.keep(None)
    }

    fn put(&mut self, name: &[u8]) {
        for piece in name.utf8_chunks() {
            let valid = piece.valid();
            match MADE_UP.iter().find(|prefix| !self.raw && valid.starts_with(**prefix)) {
                Some(prefix) => {
                    self.scratch.push_str(prefix);
                    self.scratch.push('*');
                    return;
                }
                None => self.scratch.push_str(valid),
            }
            if !piece.invalid().is_empty() {
                self.scratch.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    fn keep(&mut self, exchange_end: Option<usize>) -> Arc<Route> {
        let known = self.recent.iter().find(|route| route.text == self.scratch && route.exchange_end == exchange_end);
        if let Some(route) = known {
            return Arc::clone(route);
        }
        let route = Arc::new(Route { text: self.scratch.clone(), exchange_end });
        match self.recent.get_mut(self.oldest) {
            Some(place) => *place = Arc::clone(&route),
            None => self.recent.push(Arc::clone(&route)),
        }
        self.oldest = (self.oldest + 1) % REMEMBERED;
        route
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_named_by_exchange_and_key() {
        let mut routes = Routes::new(false);
        let route = routes.message(b"logs", b"app.error");
        assert_eq!((route.text(), route.exchange(), route.routing_key()), ("logs/app.error", "logs", "app.error"));
        assert_eq!(routes.message(b"", b"work").text(), "amq.default/work");
        let fanout = routes.message(b"logs", b"");
        assert_eq!((fanout.text(), fanout.exchange(), fanout.routing_key()), ("logs", "logs", ""));
        assert_eq!(routes.binding(b"logs", b"audit").text(), "logs -> audit");
        assert_eq!(routes.name(b"a\xff/b").text(), "a\u{fffd}/b");
    }

    #[test]
    fn names_that_the_server_made_up_lose_their_ids_unless_asked_for() {
        let mut routes = Routes::new(false);
        assert_eq!(routes.name(b"amq.gen-JzTY20BRgKO").text(), "amq.gen-*");
        assert_eq!(routes.message(b"", b"amq.rabbitmq.reply-to.g2dkABBy.x==").text(), "amq.default/amq.rabbitmq.reply-to.*");
        assert_eq!(Routes::new(true).name(b"amq.gen-JzTY20BRgKO").text(), "amq.gen-JzTY20BRgKO");
    }

    #[test]
    fn destinations_have_the_form_of_the_semantic_conventions() {
        let mut routes = Routes::new(false);
        let mut text = String::new();
        let mut of = |exchange: &[u8], key: &[u8], queue: &[u8]| {
            let (route, queue) = (routes.message(exchange, key), routes.name(queue));
            route.destination(Some(&queue), &mut text);
            text.clone()
        };
        assert_eq!(of(b"logs", b"a.b", b"audit"), "logs:a.b:audit");
        assert_eq!(of(b"", b"work", b"work"), "work");
        assert_eq!(of(b"logs", b"", b""), "logs");
        assert_eq!(of(b"", b"", b""), "amq.default");
    }

    #[test]
    fn ways_in_use_are_shared() {
        let mut routes = Routes::new(false);
        let first = routes.message(b"a", b"b");
        for number in 0..REMEMBERED - 1 {
            routes.name(format!("queue {number}").as_bytes());
        }
        assert!(Arc::ptr_eq(&first, &routes.message(b"a", b"b")));
        routes.name(b"one more");
        assert!(!Arc::ptr_eq(&first, &routes.message(b"a", b"b")));
    }
}
