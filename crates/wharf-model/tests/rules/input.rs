//! When `on_receive` is called, and what it finds.

use crate::common::{id_of, run_until_idle, small, turns};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use wharf_model::{
    DisconnectReason, FixedSize, Handler, Input, LengthPrefix, Link, LinkEnd, Model, Result, Rng,
    Settings, Verdict,
};

pub(crate) fn rewind_returns_to_the_mark(_: u64) {
    /// Takes a head and a body; at first, rewinds both.
    struct Two;
    impl Handler<bool> for Two {
        fn on_connect(&self, _: &mut Link<'_>) -> Result<bool> {
            Ok(false)
        }

        fn on_receive(&self, link: &mut Link<'_, bool>, input: &mut Input<'_>) -> Result {
            let Some(head) = input.line(20)? else { return Ok(()) };
            let head = String::from_utf8_lossy(head).into_owned();
            let Some(body) = input.frame(FixedSize::new(4))? else {
                input.rewind();
                return Ok(());
            };
            let body = String::from_utf8_lossy(body).into_owned();
            if !*link.state {
                *link.state = true;
                input.rewind();
                link.resume();
                return Ok(());
            }
            Ok(write!(link.out, "[{head}:{body}]")?)
        }
    }
    let mut model = Model::new(Two, Settings::default());
    let link = model.connect();
    model.arrive(link, b"h1\nbod1h2\nbo");
    assert_eq!(run_until_idle(&mut model, link), "[h1:bod1]");
    let calls = model.link(link).receives;
    model.arrive(link, b"d");
    turns(&mut model, 3);
    assert_eq!(model.link(link).receives, calls, "it asked for 7 bytes");
    model.arrive(link, b"2");
    assert_eq!(run_until_idle(&mut model, link), "[h2:bod2]");
}

pub(crate) fn rewind_does_not_return_forwarded_bytes(_: u64) {
    struct Twice(AtomicUsize);
    impl Handler for Twice {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.forward(&mut link.out);
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                input.rewind();
            }
            Ok(())
        }
    }
    let mut model = Model::new(Twice(AtomicUsize::new(0)), Settings::default());
    let link = model.connect();
    model.arrive(link, b"abc");
    assert_eq!(run_until_idle(&mut model, link), "abc");
    model.arrive(link, b"d");
    assert_eq!(run_until_idle(&mut model, link), "d");
}

/// Takes nothing while its switch is 0, and pauses after each line while it is 2; keeps the link while
/// something is unread.
pub(crate) struct Gated(pub(crate) AtomicUsize);

impl Gated {
    pub(crate) fn new(switch: usize) -> Self {
        Self(AtomicUsize::new(switch))
    }
}

impl Handler for Gated {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let switch = self.0.load(Ordering::Relaxed);
        if switch == 0 {
            return Ok(());
        }
        if input.line(50)?.is_some() {
            link.out.send("done\n")?;
        }
        if switch == 2 {
            link.pause();
        }
        if input.is_empty() && input.is_ended() {
            link.close();
        }
        Ok(())
    }

    fn on_end(&self, _: &mut Link<'_>, input: &mut Input<'_>) -> Result<Verdict> {
        Ok(if input.is_empty() { Verdict::Close } else { Verdict::Keep })
    }
}

pub(crate) fn resume_wakes_a_link_that_was_kept_with_unread_input(_: u64) {
    let start = || {
        let settings = Settings { idle_timeout_ms: 1_000, ..Settings::default() };
        let mut model = Model::new(Gated::new(0), settings);
        let link = model.connect();
        model.arrive(link, b"job\n");
        model.finish(link);
        turns(&mut model, 9);
        (model, link)
    };
    let (mut model, link) = start();
    model.handler().0.store(1, Ordering::Relaxed);
    turns(&mut model, 9);
    assert_eq!((model.link(link).end, model.link(link).unsent_bytes), (LinkEnd::Open, 0));
    model.server().link(id_of(link)).resume();
    assert_eq!(run_until_idle(&mut model, link), "done\n");
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::HandlerClosed));
    // It is not woken: then the idle timeout ends it.
    let (mut model, link) = start();
    model.tick(1_000);
    run_until_idle(&mut model, link);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::Idle));
}

pub(crate) fn a_paused_link_is_called_for_nothing_until_it_is_resumed(seeds: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let mut model = Model::new(Gated::new(2), small(&mut rng));
        let link = model.connect();
        let lines = 1 + rng.below(20);
        model.arrive(link, &b"x\n".repeat(lines));
        if rng.once_in(2) {
            model.finish(link);
        }
        let mut heard = String::new();
        for n in 1..=lines {
            heard += &run_until_idle(&mut model, link);
            assert_eq!(heard.len(), 5 * n, "seed {seed}");
            assert_eq!(model.link(link).receives, n as u64, "seed {seed}");
            for _ in 0..rng.below(3) {
                model.server().link(id_of(link)).post("");
            }
            model.server().link(id_of(link)).resume();
        }
        run_until_idle(&mut model, link);
        let view = model.link(link);
        assert_eq!(matches!(view.end, LinkEnd::Over(_)), view.is_ended, "seed {seed}");
    }
}

pub(crate) fn more_capacity_calls_a_link_that_asked_for_nothing(_: u64) {
    struct Looks;
    impl Handler for Looks {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            if link.out.spare_capacity() < 350 {
                return Ok(());
            }
            input.consume(1);
            Ok(link.out.send([b'x'; 200])?)
        }
    }
    let mut model = Model::new(Looks, Settings::default());
    let link = model.connect();
    model.arrive(link, b"abc");
    assert_eq!(run_until_idle(&mut model, link).len(), 600);
}

pub(crate) fn what_take_asked_for_wins_over_more_capacity(_: u64) {
    struct Ten;
    impl Handler for Ten {
        fn on_receive(&self, _: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.take(10)?;
            Ok(())
        }
    }
    let mut model = Model::new(Ten, Settings::default());
    let link = model.connect();
    for _ in 0..9 {
        model.arrive(link, b"x");
        model.server().all().post("news");
        turns(&mut model, 3);
        model.leave(link, 9);
        turns(&mut model, 3);
    }
    assert_eq!(model.link(link).receives, 1);
    model.arrive(link, b"x");
    turns(&mut model, 3);
    assert_eq!((model.link(link).receives, model.link(link).unread_bytes), (2, 0));
}

pub(crate) fn a_link_has_a_budget_of_calls_in_a_turn(_: u64) {
    struct Order(Mutex<Vec<bool>>);
    impl Handler for Order {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.line(9)?;
            self.0.lock().unwrap().push(link.id() == id_of(0));
            Ok(())
        }
    }
    let settings = Settings { calls_per_turn_max: 8, ..Settings::default() };
    let mut model = Model::new(Order(Mutex::default()), settings);
    let (first, second) = (model.connect(), model.connect());
    model.arrive(first, &[b'\n'; 400]);
    model.arrive(second, b"\n");
    turns(&mut model, 1);
    let calls = model.handler().0.lock().unwrap().clone();
    assert_eq!(calls, [true, true, true, true, true, true, true, true, false]);
    turns(&mut model, 60);
    assert_eq!(model.handler().0.lock().unwrap().len(), 401);
}

/// Counts lines, and replies to each.
struct Count(AtomicUsize);

impl Handler for Count {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        if input.line(50)?.is_some() {
            self.0.fetch_add(1, Ordering::Relaxed);
            link.out.send("ok\n")?;
        }
        Ok(())
    }
}

pub(crate) fn what_came_before_a_reset_is_handled(_: u64) {
    let mut model = Model::new(Count(AtomicUsize::new(0)), Settings::default());
    let link = model.connect();
    model.arrive(link, b"1\n2\nhal");
    model.reset(link);
    turns(&mut model, 9);
    // Replies are discarded; no `?` meets them.
    assert_eq!(model.handler().0.load(Ordering::Relaxed), 2);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::PeerReset));
}

pub(crate) fn small_pieces_do_not_pin_buffers(seeds: u64) {
    struct Whole;
    impl Handler for Whole {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            let Some(body) = input.frame(LengthPrefix::new(2, 380))? else { return Ok(()) };
            let len = body.len();
            Ok(writeln!(link.out, "{len}")?)
        }
    }
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let settings = Settings { links_max: 2, ..Settings::default() };
        let surplus = settings.surplus_min() + rng.below(9);
        let mut model = Model::new(Whole, settings.with_surplus(surplus));
        let links = [model.connect(), model.connect()];
        let message = [&380_u16.to_be_bytes()[..], &[b'x'; 380]].concat();
        for link in links {
            let mut sent = 0;
            while sent < message.len() {
                let len = (1 + rng.below(5)).min(message.len() - sent);
                sent += model.arrive(link, &message[sent..sent + len]);
                model.turn();
            }
            assert_eq!(run_until_idle(&mut model, link), "380\n", "seed {seed}");
            assert_eq!(model.lent().sum(), 0, "seed {seed}");
        }
    }
}
