//! Promise: packets that are posted to a worker reach `on_post` on its thread, once, in each thread's
//! order; a packet that does not reach it is returned or dropped. Ticks come at their time, and those
//! that were missed are one.
//!
//! Method: threads post numbers; the worker's context notes what it gets.

use crate::util::{
    Case, Hold, Mutex, ON_PURPOSE, PATIENCE, TestServer, each_back_end, eventually, expect_bytes,
    finish, now, round_trip, silence_panics_on_purpose,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wharf::{Handler, Input, Link, OnPost, PostError, Poster, Result, Worker, WorkerId, inbox};

each_back_end!(
    packets_of_many_threads_arrive_once_and_in_order_on_any_number_of_workers,
    a_worker_that_is_behind_returns_what_exceeds_its_capacity,
    a_server_that_does_not_run_or_stops_returns_the_packet,
    packets_of_several_types_reach_their_methods_and_links_can_be_posted_to,
    links_are_served_between_packets_that_do_not_end,
    a_panic_costs_its_packet_and_the_context,
    at_a_stop_packets_are_delivered_until_the_drain_timeout_and_then_dropped_once,
    ticks_come_at_their_time_to_each_worker,
    ticks_that_a_busy_worker_missed_are_one,
    a_packet_of_the_clock_may_panic_in_its_clone_and_its_drop,
    a_packet_whose_callback_does_not_return_is_reported_without_a_link,
);

/// What each worker got.
type Got = Arc<Mutex<Vec<(WorkerId, String, u64)>>>;

#[derive(Clone)]
struct Noted(Got);

#[derive(Clone, Copy)]
struct Number(u64);
struct Text(&'static str);
struct Held(Hold);
#[derive(Clone, Copy)]
struct Second;

impl Noted {
    fn note(&self, worker: &Worker<'_, u64>, number: u64) {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        self.0.lock().unwrap().push((worker.id(), thread, number));
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Handler<(), u64> for Noted {
    fn on_worker_start(&self, _: &mut Worker<'_>) -> Result<u64> {
        Ok(0)
    }

    fn on_receive(&self, link: &mut Link<'_, (), u64>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.out);
        Ok(())
    }
}

impl OnPost<Number, u64> for Noted {
    fn on_post(&self, worker: &mut Worker<'_, u64>, Number(number): Number) {
        *worker.context += 1;
        self.note(worker, number);
    }
}

impl OnPost<Text, u64> for Noted {
    fn on_post(&self, worker: &mut Worker<'_, u64>, Text(text): Text) {
        match text {
            "panic" => std::panic::panic_any(ON_PURPOSE),
            "context" => self.note(worker, *worker.context),
            text => worker.server.all().post(text),
        }
    }
}

impl OnPost<Held, u64> for Noted {
    fn on_post(&self, _: &mut Worker<'_, u64>, Held(hold): Held) {
        hold.enter();
    }
}

impl OnPost<Second, u64> for Noted {
    fn on_post(&self, worker: &mut Worker<'_, u64>, Second: Second) {
        self.note(worker, 1);
    }
}

fn noted() -> Noted {
    Noted(Arc::default())
}

fn post_until_taken<P: Send + 'static>(poster: &Poster<P>, worker: WorkerId, packet: P) {
    let (mut packet, deadline) = (packet, now() + PATIENCE);
    while let Err(undelivered) = poster.try_post(worker, packet) {
        assert_eq!(undelivered.reason, PostError::Full);
        assert!(now() < deadline, "the worker takes nothing");
        packet = undelivered.packet;
        std::thread::yield_now();
    }
}

fn packets_of_many_threads_arrive_once_and_in_order_on_any_number_of_workers(case: &Case) {
    for (shards, capacity) in [(1, 1), (2, 64), (4, 8), (8, 1_024), (16, 2)] {
        let handler = noted();
        let (poster, inbox) = inbox(capacity);
        let builder = case.builder(handler.clone()).shards(shards).links_max(32).inbox(inbox);
        let server = TestServer::start(builder);
        let workers: Vec<_> = server.handle.workers().collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (poster, workers) = (poster.clone(), &workers);
                scope.spawn(move || {
                    for number in 0..200 {
                        for worker in workers {
                            post_until_taken(&poster, *worker, Number(thread * 1_000 + number));
                        }
                    }
                });
            }
        });
        eventually(|| handler.len() == 800 * workers.len(), "all have arrived");
        for worker in &workers {
            let got = handler.0.lock().unwrap();
            let mine: Vec<_> = got.iter().filter(|(id, ..)| id == worker).collect();
            let name = format!("wharf-{worker}");
            assert!(mine.iter().all(|(_, thread, _)| *thread == name), "on its own thread");
            for thread in 0..4 {
                let of_thread = mine.iter().map(|entry| entry.2).filter(|n| n / 1_000 == thread);
                assert!(of_thread.eq((0..200).map(|number| thread * 1_000 + number)));
            }
        }
        server.stop();
    }
}

fn a_worker_that_is_behind_returns_what_exceeds_its_capacity(case: &Case) {
    let (handler, hold) = (noted(), Hold::default());
    let ((poster, numbers), (holder, helds)) = (inbox(3), inbox(1));
    let builder = case.builder(handler.clone()).shards(1).inbox(numbers).inbox(helds);
    let server = TestServer::start(builder);
    let worker = server.handle.workers().next().unwrap();
    holder.try_post(worker, Held(hold.clone())).unwrap();
    hold.wait();
    (0..3).for_each(|number| poster.try_post(worker, Number(number)).unwrap());
    let undelivered = poster.try_post(worker, Number(3)).unwrap_err();
    assert_eq!((undelivered.packet.0, undelivered.reason), (3, PostError::Full));
    hold.release();
    eventually(|| handler.len() == 3, "the others arrive");
    poster.try_post(worker, Number(3)).unwrap();
    eventually(|| handler.len() == 4, "it has space again");
    server.stop();
}

fn a_server_that_does_not_run_or_stops_returns_the_packet(case: &Case) {
    let (poster, numbers) = inbox(8);
    let two = TestServer::start(case.builder(noted()).shards(2));
    let [first, second] = two.handle.workers().collect::<Vec<_>>()[..] else { panic!("two") };
    two.stop();
    let reason = |worker| poster.try_post(worker, Number(0)).unwrap_err().reason;
    assert_eq!(reason(first), PostError::Closed);
    let server = TestServer::start(case.builder(noted()).shards(1).inbox(numbers));
    poster.try_post(first, Number(0)).unwrap();
    assert_eq!(reason(second), PostError::Closed, "it has one worker");
    let mut client = server.connect();
    round_trip(&mut client, b"open");
    server.handle.stop(Duration::from_secs(20));
    assert_eq!(reason(first), PostError::Stopping);
    drop(client);
    server.wait().unwrap();
    assert_eq!(reason(first), PostError::Closed);
}

fn packets_of_several_types_reach_their_methods_and_links_can_be_posted_to(case: &Case) {
    let handler = noted();
    let ((numbers, one), (texts, two)) = (inbox(8), inbox(8));
    let builder = case.builder(handler.clone()).shards(2).inbox(one).inbox(two);
    let server = TestServer::start(builder);
    let mut clients = [server.connect(), server.connect()];
    server.wait_for_links(2);
    let worker = server.handle.workers().last().unwrap();
    numbers.try_post(worker, Number(7)).unwrap();
    texts.try_post(worker, Text("to all\n")).unwrap();
    clients.iter_mut().for_each(|client| expect_bytes(client, b"to all\n"));
    eventually(|| handler.len() == 1, "the number has arrived");
    texts.try_post(worker, Text("context")).unwrap();
    eventually(|| handler.len() == 2, "and was counted in the worker's context");
    assert_eq!(handler.0.lock().unwrap()[1].2, 1);
    clients.iter_mut().for_each(finish);
    server.stop();
}

fn links_are_served_between_packets_that_do_not_end(case: &Case) {
    /// Each packet posts the next.
    struct Endless(Poster<Number>, AtomicU64);
    impl Handler for Endless {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.forward(&mut link.out);
            Ok(())
        }
    }
    impl OnPost<Number> for Endless {
        fn on_post(&self, worker: &mut Worker<'_>, packet: Number) {
            self.1.fetch_add(1, Ordering::Relaxed);
            let _it_is_full_or_stops = self.0.try_post(worker.id(), packet);
        }
    }
    let (poster, numbers) = inbox(256);
    let handler = Arc::new(Endless(poster.clone(), AtomicU64::new(0)));
    let server = TestServer::start(case.builder(Arc::clone(&handler)).shards(1).inbox(numbers));
    let worker = server.handle.workers().next().unwrap();
    for number in 0..200 {
        poster.try_post(worker, Number(number)).unwrap();
    }
    let mut client = server.connect();
    for _ in 0..100 {
        round_trip(&mut client, b"between packets");
    }
    let counted = handler.1.load(Ordering::Relaxed);
    eventually(|| handler.1.load(Ordering::Relaxed) > counted, "packets go on");
    finish(&mut client);
    server.stop();
}

fn a_panic_costs_its_packet_and_the_context(case: &Case) {
    silence_panics_on_purpose();
    let handler = noted();
    let ((numbers, one), (texts, two)) = (inbox(8), inbox(8));
    let builder = case.builder(handler.clone()).shards(1).inbox(one).inbox(two);
    let server = TestServer::start(builder);
    let worker = server.handle.workers().next().unwrap();
    let mut client = server.connect();
    numbers.try_post(worker, Number(1)).unwrap();
    eventually(|| handler.len() == 1, "the first arrives");
    texts.try_post(worker, Text("panic")).unwrap();
    texts.try_post(worker, Text("context")).unwrap();
    eventually(|| handler.len() == 2, "the worker goes on");
    assert_eq!(handler.0.lock().unwrap()[1].2, 0, "with a new context");
    round_trip(&mut client, b"the links, too");
    finish(&mut client);
    assert_eq!(server.stop().handler_panics, 1);
}

/// Counts its drops; the drop of some panics, the callback of some is held.
struct Dropped {
    drops: Arc<AtomicU64>,
    panics: bool,
    hold: Option<Hold>,
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        if self.panics {
            std::panic::panic_any(ON_PURPOSE);
        }
    }
}

impl OnPost<Dropped, u64> for Noted {
    fn on_post(&self, worker: &mut Worker<'_, u64>, packet: Dropped) {
        if let Some(hold) = &packet.hold {
            hold.enter();
        }
        self.note(worker, 1);
    }
}

fn at_a_stop_packets_are_delivered_until_the_drain_timeout_and_then_dropped_once(case: &Case) {
    silence_panics_on_purpose();
    for drain in [Duration::ZERO, Duration::from_secs(20)] {
        let (handler, hold, drops) = (noted(), Hold::default(), Arc::new(AtomicU64::new(0)));
        let (poster, packets) = inbox(300);
        let server = TestServer::start(case.builder(handler.clone()).shards(1).inbox(packets));
        let worker = server.handle.workers().next().unwrap();
        for number in 0..300 {
            let hold = (number == 0).then(|| hold.clone());
            let packet = Dropped { drops: Arc::clone(&drops), panics: number % 3 == 1, hold };
            poster.try_post(worker, packet).unwrap_or_else(|_| panic!("it fits"));
        }
        hold.wait();
        server.handle.stop(drain);
        hold.release();
        let stats = server.wait().unwrap();
        assert_eq!(drops.load(Ordering::SeqCst), 300);
        assert_eq!(stats.handler_panics, 100);
        let are_delivered = handler.len() == 300;
        assert_eq!(are_delivered, !drain.is_zero(), "{} are delivered", handler.len());
    }
}

fn ticks_come_at_their_time_to_each_worker(case: &Case) {
    let (handler, every) = (noted(), Duration::from_millis(40));
    let begin = now();
    let server = TestServer::start(case.builder(handler.clone()).shards(4).every(every, Second));
    eventually(|| handler.len() >= 40, "ten ticks of each of four workers");
    let took = begin.elapsed();
    assert!(took >= 9 * every, "{took:?}");
    let got = handler.0.lock().unwrap().clone();
    for worker in server.handle.workers() {
        let count = got.iter().filter(|(id, ..)| *id == worker).count();
        // No more than their time allows; on a busy machine some come as one.
        let most = took.as_millis() / every.as_millis() + 1;
        assert!(count >= 2 && count as u128 <= most, "worker {worker}: {count} of {}", got.len());
    }
    server.stop();
}

fn ticks_that_a_busy_worker_missed_are_one(case: &Case) {
    let (handler, hold, every) = (noted(), Hold::default(), Duration::from_millis(20));
    let (holder, helds) = inbox(1);
    let builder = case.builder(handler.clone()).shards(2).every(every, Second).inbox(helds);
    let server = TestServer::start(builder);
    let worker = server.handle.workers().next().unwrap();
    holder.try_post(worker, Held(hold.clone())).unwrap_or_else(|_| panic!("it fits"));
    hold.wait();
    let of = |wanted: bool| {
        let got = handler.0.lock().unwrap();
        got.iter().filter(|(id, ..)| (*id == worker) == wanted).count()
    };
    let (mine, others, begin) = (of(true), of(false), now());
    eventually(|| of(false) >= others + 20, "the other worker has its ticks");
    assert_eq!(of(true), mine);
    hold.release();
    eventually(|| of(true) > mine, "the missed ones come");
    // As one, and then in time: not twenty more than their time allows.
    let (came, passed) = (of(true) - mine, begin.elapsed());
    let others_came = of(false) - others;
    assert!(came + 15 < others_came, "{came} came, of {others_came} in {passed:?}");
    server.stop();
}

/// Its clone panics, or its drop.
struct Panics {
    in_clone: bool,
}

impl Clone for Panics {
    fn clone(&self) -> Self {
        if self.in_clone {
            std::panic::panic_any(ON_PURPOSE);
        }
        Self { in_clone: false }
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        if !self.in_clone {
            std::panic::panic_any(ON_PURPOSE);
        }
    }
}

impl OnPost<Panics, u64> for Noted {
    fn on_post(&self, _: &mut Worker<'_, u64>, _: Panics) {}
}

fn a_packet_of_the_clock_may_panic_in_its_clone_and_its_drop(case: &Case) {
    silence_panics_on_purpose();
    let builder = case.short(noted()).shards(2).every(PATIENCE, Panics { in_clone: true });
    let error = builder.start().unwrap_err();
    assert_eq!(error.kind(), wharf::StartErrorKind::Handler, "{error}");
    let builder = case.builder(noted()).shards(2).every(PATIENCE, Panics { in_clone: false });
    let server = TestServer::start(builder);
    let mut client = server.connect();
    round_trip(&mut client, b"served");
    finish(&mut client);
    // The clone of each worker.
    assert_eq!(server.stop().handler_panics, 2);
    let builder = case.builder(noted()).every(PATIENCE, Panics { in_clone: false });
    let error = builder.listen("not an address").start().unwrap_err();
    assert_eq!(error.kind(), wharf::StartErrorKind::Address, "{error}");
}

fn a_packet_whose_callback_does_not_return_is_reported_without_a_link(case: &Case) {
    let (handler, hold) = (noted(), Hold::default());
    let (holder, helds) = inbox(1);
    let builder = case.builder(handler).shards(2).inbox(helds);
    let server = TestServer::start(builder.report_callbacks_after(Duration::from_millis(50)));
    let worker = server.handle.workers().last().unwrap();
    holder.try_post(worker, Held(hold.clone())).unwrap_or_else(|_| panic!("it fits"));
    eventually(|| server.handle.stalled().len() == 1, "it is reported");
    let stalled = server.handle.stalled()[0];
    assert_eq!((stalled.worker, stalled.link, stalled.unread_bytes), (worker, None, 0));
    hold.release();
    eventually(|| server.handle.stalled().is_empty(), "it has returned");
    server.stop();
}
