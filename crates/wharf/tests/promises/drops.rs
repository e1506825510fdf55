//! Promise: what users' values do when they are dropped at the end of a server is guarded one by one: a
//! panic is counted, and the server ends with its final counters.
//!
//! Method: contexts, states and a handler whose drops panic.

use crate::util::{
    Case, ON_PURPOSE, TestServer, each_back_end, finish, round_trip, silence_panics_on_purpose,
};
use std::fmt;
use std::time::Duration;
use wharf::{Builder, Handle, Handler, Input, Link, Result, StartErrorKind, Worker};

each_back_end!(
    panics_of_the_drops_of_all_contexts_are_counted_and_the_counters_survive,
    panics_of_the_drops_of_all_states_at_the_stop_are_counted,
    a_panic_of_the_drop_of_the_handler_is_counted,
    a_start_that_fails_drops_all_with_an_error,
    a_start_that_fails_before_on_start_returns_its_error_though_the_drop_of_the_handler_panics,
    an_error_that_panics_when_it_is_shown_or_dropped_fails_the_start_and_no_more,
);

/// Its drop panics, if it is to.
struct Bomb(bool);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 {
            std::panic::panic_any(ON_PURPOSE);
        }
    }
}

/// What panics when it is dropped.
#[derive(Clone, Copy, Default)]
struct Panics {
    contexts: bool,
    states: bool,
    handler: bool,
    /// The context of this worker is an error.
    fails: Option<usize>,
}

struct Bombs {
    panics: Panics,
    _own: Bomb,
}

fn bombs(panics: Panics) -> Bombs {
    Bombs { panics, _own: Bomb(panics.handler) }
}

impl Handler<Bomb, Bomb> for Bombs {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Bomb> {
        if Some(worker.id().index()) == self.panics.fails {
            return Err(wharf::Error::msg("no context"));
        }
        Ok(Bomb(self.panics.contexts))
    }

    fn on_connect(&self, _: &mut Link<'_, (), Bomb>) -> Result<Bomb> {
        Ok(Bomb(self.panics.states))
    }

    fn on_receive(&self, link: &mut Link<'_, Bomb, Bomb>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.out);
        Ok(())
    }
}

fn panics_of_the_drops_of_all_contexts_are_counted_and_the_counters_survive(case: &Case) {
    silence_panics_on_purpose();
    let handler = bombs(Panics { contexts: true, ..Panics::default() });
    let server = TestServer::start(case.builder(handler).shards(3).links_max(30));
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    finish(&mut client);
    let stats = server.stop();
    assert_eq!((stats.handler_panics, stats.received_bytes), (3, 5));
}

fn panics_of_the_drops_of_all_states_at_the_stop_are_counted(case: &Case) {
    silence_panics_on_purpose();
    for drain in [Duration::ZERO, Duration::from_secs(10)] {
        let handler = bombs(Panics { states: true, contexts: true, ..Panics::default() });
        let server = TestServer::start(case.builder(handler).shards(2).links_max(30));
        let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
        for client in &mut clients {
            round_trip(client, b"hello");
        }
        // A link that waits for its peer ends with it.
        if !drain.is_zero() {
            clients.iter_mut().for_each(finish);
        }
        let stats = server.stop_within(drain);
        assert_eq!((stats.handler_panics, stats.connects), (12, 10));
    }
}

fn a_panic_of_the_drop_of_the_handler_is_counted(case: &Case) {
    silence_panics_on_purpose();
    for _ in 0..5 {
        let handler = bombs(Panics { handler: true, contexts: true, ..Panics::default() });
        let server = TestServer::start(case.builder(handler).shards(2).links_max(30));
        let mut client = server.connect();
        round_trip(&mut client, b"hello");
        finish(&mut client);
        assert_eq!(server.stop().handler_panics, 3);
    }
}

fn a_start_that_fails_drops_all_with_an_error(case: &Case) {
    silence_panics_on_purpose();
    let panics = Panics { handler: true, contexts: true, fails: Some(1), ..Panics::default() };
    let error = case.builder(bombs(panics)).shards(3).links_max(30).start().unwrap_err();
    assert!(error.to_string().contains("no context"), "{error}");
}

fn a_start_that_fails_before_on_start_returns_its_error_though_the_drop_of_the_handler_panics(
    case: &Case,
) {
    silence_panics_on_purpose();
    let builder = || case.builder(bombs(Panics { handler: true, ..Panics::default() }));
    let kind = |builder: Builder<Bombs, Bomb, Bomb>| builder.start().unwrap_err().kind();
    assert_eq!(kind(builder().links_max(0)), StartErrorKind::Settings);
    assert_eq!(kind(builder().listen("no address")), StartErrorKind::Address);
    // 16 TiB of buffers.
    let much = builder().links_max(4).buffer_size_bytes(1 << 20).output_bytes(2 << 20);
    assert_eq!(kind(much.buffer_count(1 << 24)), StartErrorKind::Resources);
    let error = builder().links_max(0).serve().unwrap_err().to_string();
    assert!(error.contains("links_max"), "{error}");
}

/// An error that panics when it is shown, and when it is dropped.
struct Hostile {
    _own: Bomb,
}

impl fmt::Debug for Hostile {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::panic::panic_any(ON_PURPOSE)
    }
}

impl fmt::Display for Hostile {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::panic::panic_any(ON_PURPOSE)
    }
}

impl std::error::Error for Hostile {}

/// Its start fails, or that of its workers; its drop panics.
struct Fails {
    at_start: bool,
    _own: Bomb,
}

impl Handler<(), ()> for Fails {
    fn on_start(&self, _: &Handle) -> Result {
        if self.at_start { Err(Hostile { _own: Bomb(true) }.into()) } else { Ok(()) }
    }

    fn on_worker_start(&self, _: &mut Worker<'_>) -> Result<()> {
        Err(Hostile { _own: Bomb(true) }.into())
    }

    fn on_receive(&self, _: &mut Link<'_>, _: &mut Input<'_>) -> Result {
        Ok(())
    }
}

fn an_error_that_panics_when_it_is_shown_or_dropped_fails_the_start_and_no_more(case: &Case) {
    silence_panics_on_purpose();
    for (at_start, what) in [(true, "on_start failed"), (false, "on_worker_start of worker")] {
        let handler = Fails { at_start, _own: Bomb(true) };
        let error = case.builder(handler).shards(2).links_max(30).start().unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.to_string().contains("failed"), "{error}");
    }
}
