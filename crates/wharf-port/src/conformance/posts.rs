//! INV-PORT-7: a post from any thread wakes a sleeping dequeue; wake-ups coalesce; no packet is
//! lost while the port lives.
//!
//! The method: packets carry their sender and a count, so that a lost, repeated or reordered one is
//! detected. Wake-ups are made at times spread over the owner's falling asleep, until the port's
//! counter shows that at least one has ended a sleep.

use super::checker::{PortChecker, ROUND};
use super::network::{Setup, TestNetwork, each_back_end};
use crate::port::completion::Outcome;
use crate::port::contract::{Completions, Port};
use crate::port::inbox::PostError;
use crate::port::operation::CompletionMode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

each_back_end!(
    packets_of_eight_threads_arrive_once_and_in_each_threads_order,
    many_wakes_make_one,
    a_full_inbox_gives_the_packet_back,
    a_port_that_is_gone_gives_the_packet_back,
    packets_that_do_not_fit_come_with_the_next_dequeue,
    a_dequeue_that_is_not_full_leaves_no_packet,
    packets_and_bytes_come_side_by_side;
    // A dequeue on a simulated clock does not sleep.
    except sim: a_post_ends_a_wait_without_end, a_wake_without_a_packet_ends_a_wait,
);

fn packets_of_eight_threads_arrive_once_and_in_each_threads_order<N: TestNetwork>() {
    const THREADS: u64 = 8;
    const PACKETS: u64 = 5_000;
    let mut checker = PortChecker::<N>::new(Setup::small());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let poster = checker.network.port().poster();
            scope.spawn(move || {
                for count in 0..PACKETS {
                    let mut packet = thread << 32 | count;
                    while let Err(error) = poster.post(packet) {
                        assert!(matches!(error, PostError::Full(_)), "{error:?}");
                        packet = error.into_packet();
                        std::thread::yield_now();
                    }
                }
            });
        }
        let total = usize::try_from(THREADS * PACKETS).unwrap();
        checker.until("all packets", |checker| checker.posted.len() >= total);
    });
    checker.stays_quiet("all packets are there");
    for thread in 0..THREADS {
        let counts = checker.posted.iter().filter(|packet| **packet >> 32 == thread);
        let counts: Vec<_> = counts.map(|packet| packet & 0xFFFF_FFFF).collect();
        assert!(counts.into_iter().eq(0..PACKETS), "thread {thread}");
    }
    checker.finish();
}

fn a_post_ends_a_wait_without_end<N: TestNetwork>() {
    ping(
        |checker: &mut PortChecker<N>, completions, ask| {
            let packets = checker.posted.len();
            ask();
            while checker.posted.len() == packets {
                checker.network.port().dequeue(completions, None).unwrap();
                for completion in completions.drain(..) {
                    let Outcome::Posted(packet) = completion.outcome else {
                        panic!("{completion:?}")
                    };
                    checker.posted.push(packet);
                }
            }
        },
        |poster, turn| poster.post(turn).unwrap(),
    );
}

fn a_wake_without_a_packet_ends_a_wait<N: TestNetwork>() {
    ping(
        |checker: &mut PortChecker<N>, completions, ask| {
            ask();
            checker.network.port().dequeue(completions, None).unwrap();
            assert!(completions.is_empty(), "a wake is no packet: {completions:?}");
        },
        |poster, _turn| poster.wake(),
    );
}

/// Exchanges requests and answers with another thread, until at least one answer has ended a sleep.
fn ping<N: TestNetwork>(
    mut wait: impl FnMut(&mut PortChecker<N>, &mut Completions<N::Port>, &mut dyn FnMut()),
    answer: impl Fn(&crate::port::inbox::Poster<u64>, u64) + Send,
) {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut completions = Vec::with_capacity(8);
    let poster = checker.network.port().poster();
    let (to_thread, asked) = channel::<u64>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                match asked.recv_timeout(GUARD) {
                    Ok(turn) => {
                        for _ in 0..(turn % 50) * 2_000 {
                            std::hint::spin_loop();
                        }
                        answer(&poster, turn);
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                    // The owner was not woken: abort, because the test would never end.
                    Err(RecvTimeoutError::Timeout) => std::process::abort(),
                }
            }
        });
        let before = checker.network.port().counters().wakeups;
        for turn in 0.. {
            wait(&mut checker, &mut completions, &mut || to_thread.send(turn).unwrap());
            let woken = checker.network.port().counters().wakeups > before;
            if turn >= 300 && woken {
                break;
            }
            assert!(turn < 20_000, "no wake-up was counted in {turn} waits");
        }
        drop(to_thread);
    });
    checker.finish();
}

fn many_wakes_make_one<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let poster = checker.network.port().poster();
    let mut completions = Vec::with_capacity(8);
    let before = checker.network.port().counters();
    for _ in 0..10_000 {
        poster.wake();
    }
    // One wait may end early for all the wake-ups; the others last their whole timeout.
    let mut early = 0;
    for _ in 0..5 {
        let start = checker.network.port().now();
        checker.network.port().dequeue(&mut completions, Some(SHORT)).unwrap();
        assert!(completions.is_empty(), "a wake is no packet: {completions:?}");
        early += u32::from(checker.network.port().now().duration_since(start) < SHORT / 2);
    }
    let wakeups = checker.network.port().counters().wakeups - before.wakeups;
    assert!(early <= 2, "{early} of 5 waits ended early");
    assert!(wakeups <= 2, "{wakeups} wake-ups were counted");
    // 50 packets make one wake-up, too, and all are dequeued.
    (0..50).for_each(|packet| poster.post(packet).unwrap());
    checker.until("the packets", |checker| checker.posted.len() == 50);
    assert!(checker.posted.iter().copied().eq(0..50));
    let wakeups = checker.network.port().counters().wakeups - before.wakeups;
    assert!(wakeups <= 4, "{wakeups} wake-ups were counted");
    checker.finish();
}

fn a_full_inbox_gives_the_packet_back<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let poster = checker.network.port().poster();
    for round in 0..3 {
        let first = round * 1_000;
        for packet in first..first + 64 {
            poster.post(packet).unwrap();
        }
        for _ in 0..3 {
            match poster.post(77_777) {
                Err(PostError::Full(packet)) => assert_eq!(packet, 77_777),
                other => panic!("{other:?} from a full inbox"),
            }
        }
        checker.until("the packets", |checker| checker.posted.len() >= 64);
        checker.stays_quiet("a returned packet is not in the inbox");
        assert!(checker.posted.drain(..).eq(first..first + 64));
    }
    checker.finish();
}

fn a_port_that_is_gone_gives_the_packet_back<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let poster = checker.network.port().poster();
    let other = poster.clone();
    poster.post(1).unwrap();
    checker.drop_port();
    match poster.post(2) {
        Err(PostError::Closed(packet)) => assert_eq!(packet, 2),
        result => panic!("{result:?} from a dropped port"),
    }
    // A wake-up of a dropped port has no effect.
    for _ in 0..10 {
        poster.wake();
        other.wake();
    }
    assert!(matches!(other.post(3), Err(PostError::Closed(3))));
}

fn packets_that_do_not_fit_come_with_the_next_dequeue<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let poster = checker.network.port().poster();
    (0..60).for_each(|packet| poster.post(packet).unwrap());
    let mut seen = Vec::new();
    let mut completions = Vec::with_capacity(7);
    let start = checker.network.port().now();
    while seen.len() < 60 {
        // Packets in the inbox must not wait for the timeout.
        checker.network.port().dequeue(&mut completions, Some(GUARD)).unwrap();
        assert!(completions.len() <= 7);
        for completion in completions.drain(..) {
            let Outcome::Posted(packet) = completion.outcome else { panic!("{completion:?}") };
            seen.push(packet);
        }
    }
    assert!(checker.network.port().now().duration_since(start) < GUARD / 2);
    assert!(seen.into_iter().eq(0..60));
    checker.finish();
}

fn a_dequeue_that_is_not_full_leaves_no_packet<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let poster = checker.network.port().poster();
    let mut completions = Vec::with_capacity(8);
    for _ in 0..200 {
        (0..7).for_each(|packet| poster.post(packet).unwrap());
        checker.network.port().dequeue(&mut completions, Some(GUARD)).unwrap();
        let packets = completions.drain(..).map(|completion| match completion.outcome {
            Outcome::Posted(packet) => packet,
            other => panic!("{other:?}"),
        });
        assert!(packets.eq(0..7));
    }
    checker.finish();
}

fn packets_and_bytes_come_side_by_side<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    let poster = checker.network.port().poster();
    let mut count = 0;
    // A port with a full inbox must also serve its sockets, and the other way round.
    checker.until("both", |checker| {
        while poster.post(count).is_ok() {
            count += 1;
        }
        super::network::Peer::try_write(&mut peer, &[1; 500]);
        checker.of(link).received.len() >= 100_000 && checker.posted.len() >= 5_000
    });
    checker.round(ROUND);
    assert!(checker.posted.iter().copied().eq(0..checker.posted.len() as u64));
    checker.finish();
}

/// A timeout long enough to distinguish a whole wait from an early end.
const SHORT: Duration = Duration::from_millis(50);

/// A timeout that no dequeue of a passing test reaches.
const GUARD: Duration = Duration::from_secs(10);
