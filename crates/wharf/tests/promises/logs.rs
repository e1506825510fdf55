//! Promise: connections and ends of links are logged at debug, with the link's id, its peer, and the
//! reason; an error of the system with its call.
//!
//! Method: a collector of the process' events, in a process of its own.

use crate::util::{
    Case, Mutex, TestServer, each_back_end, echo, eventually, finish, reset, round_trip,
};
use std::fmt::Write;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

each_back_end!(connections_and_ends_of_links_are_logged_with_address_and_reason);

/// The debug events of this process.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for an event that has all of these texts.
    #[track_caller]
    fn expect(&self, texts: &[&str]) {
        let is_there =
            || self.all().iter().any(|event| texts.iter().all(|text| event.contains(text)));
        let deadline = crate::util::now() + std::time::Duration::from_secs(5);
        while !is_there() {
            assert!(crate::util::now() < deadline, "no event with {texts:?} in {:#?}", self.all());
            std::thread::yield_now();
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _cannot_fail = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("wharf") && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn connections_and_ends_of_links_are_logged_with_address_and_reason(case: &Case) {
    case.alone(|| {
        let events = Events::default();
        tracing::subscriber::set_global_default(events.clone()).unwrap();
        let handler = echo();
        let record = Arc::clone(&handler.record);
        let server = TestServer::start(case.small(handler));
        let mut client = server.connect();
        round_trip(&mut client, b"hello");
        let peer = format!("peer={}", client.local_addr().unwrap());
        let link = format!("link={}", record.id(0));
        events.expect(&["link opened", &link, &peer]);
        finish(&mut client);
        drop(client);
        events.expect(&["link closed", &link, &peer, "reason=", "peer"]);

        let mut client = server.connect();
        round_trip(&mut client, b"hello");
        let peer = format!("peer={}", client.local_addr().unwrap());
        let link = format!("link={}", record.id(1));
        reset(client);
        eventually(|| record.ends().len() == 2, "it is reset");
        events.expect(&["failed", "recv", "104", &link, &peer]);
        events.expect(&["link closed", &link, &peer, "reason="]);
        server.stop();
    });
}
