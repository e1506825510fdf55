//! How links end, and what is called until then.

use crate::common::{ON_PURPOSE, hide_expected_panics, id_of, run_until_idle, small, turns};
use crate::deferral::Batch;
use crate::input::Gated;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use wharf_model::{
    DisconnectReason, Group, Handler, Input, Link, LinkEnd, Model, Origin, PostError, Reply,
    Result, Rng, Settings, TooLong, Verdict,
};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn a_goodbye_at_the_end_has_its_grant(_: u64) {
    struct Chatty;
    impl Handler for Chatty {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            if input.line(50)?.is_some() {
                link.out.send([b'a'; 100])?;
            }
            Ok(())
        }

        fn on_end(&self, link: &mut Link<'_>, _: &mut Input<'_>) -> Result<Verdict> {
            link.out.send("bye\n")?;
            Ok(Verdict::Close)
        }
    }
    let mut model = Model::new(Chatty, Settings::default());
    let link = model.connect();
    model.arrive(link, b"1\n2\n3\n4\n");
    model.finish(link);
    turns(&mut model, 9);
    assert_eq!(model.link(link).end, LinkEnd::Open);
    assert_eq!(run_until_idle(&mut model, link), "a".repeat(400) + "bye\n");
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::PeerClosed));
}

pub(crate) fn a_finished_partner_does_not_make_a_link_deaf(_: u64) {
    struct Finishes;
    impl Handler for Finishes {
        fn on_connect(&self, link: &mut Link<'_>) -> Result {
            if link.origin() == Origin::Accepted {
                link.connect();
            }
            Ok(())
        }

        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.forward_up_to(&mut link.partner(), 5);
            link.partner().finish();
            Ok(())
        }
    }
    let settings = Settings { idle_timeout_ms: 1_000, ..Settings::default() };
    let mut model = Model::new(Finishes, settings);
    let link = model.connect();
    let partner = model.link(link).partner.unwrap();
    model.arrive(link, b"hello world");
    for _ in 0..9 {
        model.turn();
        model.leave(partner, 99);
    }
    assert!(model.link(link).receives > 1);
    assert_eq!(model.link(link).end, LinkEnd::Open);
    model.finish(link);
    turns(&mut model, 9);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::PeerClosed));
}

pub(crate) fn on_writable_comes_only_when_it_is_owed(_: u64) {
    struct Owed;
    impl Handler for Owed {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            if input.line(9)?.is_some_and(|line| line == b"n") {
                link.out.notify();
            }
            Ok(link.out.send("ok")?)
        }
    }
    let mut model = Model::new(Owed, Settings::default());
    let link = model.connect();
    model.arrive(link, b"a\nb\n");
    run_until_idle(&mut model, link);
    assert_eq!(model.link(link).writables, 0);
    model.arrive(link, b"n\n");
    run_until_idle(&mut model, link);
    assert_eq!(model.link(link).writables, 1);
}

/// A stream of 4,000 bytes to each line. The second link is refused.
#[derive(Default)]
struct Stream {
    disconnects: AtomicUsize,
}

impl Handler<u8> for Stream {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<u8> {
        if link.id() == id_of(1) {
            link.join(Group::new(1))?;
            link.connect();
            link.out.send("no")?;
            return Err(TooLong::new(1).into());
        }
        Ok(0)
    }

    fn on_receive(&self, link: &mut Link<'_, u8>, input: &mut Input<'_>) -> Result {
        let close = input.line(9)?.is_some_and(|line| line == b"close");
        link.out.send_some(&[b's'; 1_000]);
        if close {
            link.close();
        }
        Ok(())
    }

    fn on_writable(&self, link: &mut Link<'_, u8>) -> Result {
        *link.state += 1;
        if *link.state < 4 {
            link.out.send_some(&[b's'; 1_000]);
        }
        Ok(())
    }

    fn on_disconnect(&self, _: &mut Link<'_, u8>, _: DisconnectReason) {
        self.disconnects.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn close_in_a_stream_sends_what_is_queued(_: u64) {
    let mut model = Model::new(Stream::default(), Settings::default());
    let link = model.connect();
    model.arrive(link, b"close\n");
    assert_eq!(run_until_idle(&mut model, link).len(), 400);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::HandlerClosed));
}

pub(crate) fn a_stream_goes_on_after_the_peers_half_has_ended(_: u64) {
    let mut model = Model::new(Stream::default(), Settings::default());
    let link = model.connect();
    model.arrive(link, b"go\n");
    model.finish(link);
    assert!(run_until_idle(&mut model, link).len() > 600);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::PeerClosed));
}

pub(crate) fn a_failed_connect_undoes_all(_: u64) {
    let mut model = Model::new(Stream::default(), Settings::default());
    model.connect();
    let refused = model.connect();
    model.server().group(Group::new(1)).post("to no link");
    assert_eq!(run_until_idle(&mut model, refused), "no");
    assert_eq!(model.link(refused).end, LinkEnd::Over(DisconnectReason::Limit));
    assert_eq!(model.link_count(), 2, "no partner");
    assert_eq!(model.handler().disconnects.load(Ordering::Relaxed), 0);
}

pub(crate) fn bits_wait_while_the_pool_has_the_link(_: u64) {
    struct Slow;
    impl Handler for Slow {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            let Some(_) = input.line(9)? else { return Ok(()) };
            if link.offload(input) {
                return Ok(());
            }
            Ok(link.out.send("slow\n")?)
        }
    }
    for before in 0..3 {
        let mut model = Model::new(Slow, Settings::default());
        let link = model.connect();
        for _ in 0..before {
            model.arrive(link, b"x\n");
            run_until_idle(&mut model, link);
        }
        model.arrive(link, b"1\n2\n");
        turns(&mut model, 1);
        model.server().link(id_of(link)).close();
        model.server().link(id_of(link)).post("news\n");
        let heard = run_until_idle(&mut model, link);
        assert!(heard.contains("slow\n"), "{heard:?}");
        assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::Kicked));
    }
}

pub(crate) fn a_panic_of_one_partner_reaches_the_other(_: u64) {
    struct Pair(Mutex<Vec<Reply>>);
    impl Handler for Pair {
        fn on_connect(&self, link: &mut Link<'_>) -> Result {
            if link.origin() == Origin::Accepted {
                link.connect();
            }
            Ok(())
        }

        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            if input.line(9)?.is_some_and(|line| line == b"panic") {
                panic!("{}", ON_PURPOSE);
            }
            let reply = input.defer(&mut link.out, 50)?;
            self.0.lock().unwrap().push(reply);
            Ok(())
        }

        fn on_partner_gone(
            &self,
            link: &mut Link<'_>,
            reason: DisconnectReason,
        ) -> Result<Verdict> {
            write!(link.out, "{reason:?}")?;
            Ok(Verdict::Close)
        }
    }
    hide_expected_panics();
    let mut model = Model::new(Pair(Mutex::default()), Settings::default());
    let link = model.connect();
    let partner = model.link(link).partner.unwrap();
    model.arrive(link, b"wait\n");
    turns(&mut model, 2);
    model.arrive(partner, b"panic\n");
    turns(&mut model, 2);
    assert_eq!(model.link(partner).end, LinkEnd::Over(DisconnectReason::HandlerPanic));
    // The other one sends what is queued, and waits for its reply, which was deferred.
    let reply = model.handler().0.lock().unwrap().pop().unwrap();
    reply.send(" reply").unwrap();
    assert_eq!(run_until_idle(&mut model, link), "HandlerPanic reply");
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::PartnerGone));
}

pub(crate) fn a_link_is_idle_when_the_peer_owes_something(_: u64) {
    type Waiting = Model<Gated, (), ()>;
    let start = |switch, stall_timeout_ms| {
        let settings = Settings { idle_timeout_ms: 1_000, stall_timeout_ms, ..Settings::default() };
        let mut model = Model::new(Gated::new(switch), settings);
        let link = model.connect();
        (model, link)
    };
    let wait = |model: &mut Waiting| {
        for _ in 0..30 {
            model.tick(100);
            model.turn();
        }
    };
    let (mut model, link) = start(1, 0);
    model.arrive(link, b"half a li");
    wait(&mut model);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::Idle));
    let (mut model, link) = start(2, 0);
    model.arrive(link, b"paused\n");
    turns(&mut model, 2);
    model.leave(link, 9);
    wait(&mut model);
    assert_eq!(model.link(link).end, LinkEnd::Open);
    // What the peer does not take is no matter of the idle timeout, but of the stall timeout.
    for (stall_timeout_ms, end) in
        [(0, LinkEnd::Open), (500, LinkEnd::Over(DisconnectReason::SlowReader))]
    {
        let (mut model, link) = start(1, stall_timeout_ms);
        model.server().all().post("not taken");
        wait(&mut model);
        assert_eq!(model.link(link).end, end);
    }
}

/// Batches, and a last message.
struct Bye(Batch);

impl Handler for Bye {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        self.0.on_receive(link, input)
    }

    fn on_drain(&self, link: &mut Link<'_>) -> Result<Verdict> {
        link.out.send("bye\n")?;
        Ok(Verdict::Close)
    }
}

pub(crate) fn a_drain_handles_and_sends_what_began_before_it(seeds: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let mut model = Model::new(Bye(Batch::default()), small(&mut rng));
        let link = model.connect();
        let (pings, deferred) = (rng.below(50), rng.below(2));
        model.arrive(link, &b"q\n".repeat(deferred));
        model.arrive(link, &b"ping\n".repeat(pings));
        turns(&mut model, rng.below(3));
        model.server().all().post("news\n");
        model.server().stop(MINUTE);
        assert_eq!(model.server().all().try_post("late"), Err(PostError::Stopping));
        let mut heard = String::new();
        for _ in 0..400 {
            if rng.once_in(9) {
                for (question, reply) in model.handler().0.take() {
                    writeln!(reply, "re {question}").unwrap();
                }
            }
            let len = rng.below(20);
            heard += str::from_utf8(&model.leave(link, len)).unwrap();
            model.turn();
        }
        heard += &run_until_idle(&mut model, link);
        let count = |text: &str| heard.matches(text).count();
        let counts = (count("pong\n"), count("re q\n"), count("bye\n"));
        assert_eq!(counts, (pings, deferred, 1), "seed {seed}: {heard:?}");
        let end = model.link(link).end;
        assert_eq!(end, LinkEnd::Over(DisconnectReason::ServerStopping), "seed {seed}");
        let missed = model.link(link).missed;
        assert_eq!(count("news\n") as u64 + missed, 1, "seed {seed}: {heard:?}");
    }
}

pub(crate) fn a_drain_handles_unread_input_of_a_paused_link(_: u64) {
    let mut model = Model::new(Gated::new(2), Settings::default());
    let link = model.connect();
    model.arrive(link, b"1\n2\n");
    turns(&mut model, 2);
    model.server().stop(MINUTE);
    assert_eq!(run_until_idle(&mut model, link), "done\n");
    assert_eq!(model.link(link).end, LinkEnd::Open);
    model.server().link(id_of(link)).resume();
    assert_eq!(run_until_idle(&mut model, link), "done\n");
    model.server().link(id_of(link)).resume();
    run_until_idle(&mut model, link);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::ServerStopping));
}

pub(crate) fn a_drain_is_told_to_a_handler_that_fills_its_output(_: u64) {
    /// Sends characters without end, as many as there is capacity for.
    struct Generator;
    impl Handler for Generator {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.consume(9);
            self.on_writable(link)
        }

        fn on_writable(&self, link: &mut Link<'_>) -> Result {
            link.out.send_some(&[b'.'; 1_000]);
            Ok(())
        }

        fn on_drain(&self, link: &mut Link<'_>) -> Result<Verdict> {
            link.out.send("bye")?;
            link.close();
            Ok(Verdict::Close)
        }
    }
    let mut model = Model::new(Generator, Settings::default());
    let link = model.connect();
    model.arrive(link, b"go");
    turns(&mut model, 9);
    model.server().stop(MINUTE);
    assert!(run_until_idle(&mut model, link).ends_with(".bye"));
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::HandlerClosed));
}

pub(crate) fn keep_at_a_drain_is_until_close_or_the_drain_timeout(_: u64) {
    struct Stays;
    impl Handler for Stays {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.consume(9);
            link.close();
            Ok(link.out.send("end")?)
        }

        fn on_drain(&self, _: &mut Link<'_>) -> Result<Verdict> {
            Ok(Verdict::Keep)
        }
    }
    let start = || {
        let mut model = Model::new(Stays, Settings::default());
        let link = model.connect();
        model.server().stop(MINUTE);
        turns(&mut model, 9);
        assert_eq!(model.link(link).end, LinkEnd::Open);
        (model, link)
    };
    let (mut model, link) = start();
    model.arrive(link, b"x");
    assert_eq!(run_until_idle(&mut model, link), "end");
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::HandlerClosed));
    let (mut model, link) = start();
    model.tick(59_999);
    assert_eq!(model.link(link).end, LinkEnd::Open);
    model.tick(1);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::ServerStopping));
}
