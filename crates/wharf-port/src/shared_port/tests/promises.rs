//! Each promise by itself, with threads of the system.

use super::threads::{
    Back, CloseAtEnd, MemberOf, SharedOf, WAIT_MAX, member, on_threads, shared, shared_for, until,
};
use crate::memory::message::{MessagePool, MessagePoolConfig};
use crate::port::completion::EndReason;
use crate::port::operation::{CompletionMode, Key, OperationKind, SubmitErrorKind};
use crate::shared_port::values::{
    DequeueError, SharedCompletion, SharedOperation, SharedOutcome, SharedSocket,
    SharedSubmitErrorKind,
};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvError, Sender};
use std::thread;
use std::time::Duration;

on_threads!(
    at_most_as_many_threads_run_as_there_are_seats,
    waiting_threads_are_released_last_in_first_out,
    a_thread_that_returns_comes_before_those_that_wait,
    a_thread_that_blocks_gives_its_place_to_one_that_waits,
    no_wake_up_is_lost_when_threads_block_and_return,
    one_thread_serves_the_sockets_of_all_seats,
    a_seat_that_becomes_free_is_covered_by_threads_that_sleep,
    a_packet_wakes_a_thread_that_sleeps,
    packets_come_in_order_to_a_seat,
    an_operation_from_another_seat_completes_once,
    operations_of_a_thread_that_ends_go_on,
    a_close_ends_every_wait,
    a_wait_lasts_as_long_as_its_timeout,
    a_full_seat_refuses_a_socket_also_while_another_closes,
);

/// Dequeues one packet.
fn packet<B: Back>(member: &mut MemberOf<B>) -> u64 {
    loop {
        if let Some(completion) = member.next_completion() {
            let SharedOutcome::Posted(packet) = completion.outcome else {
                panic!("{completion:?}")
            };
            return packet;
        }
        assert_eq!(member.dequeue(Some(WAIT_MAX)), Ok(true), "no packet came");
    }
}

/// A connected pair of which the first is associated, with the completion `Associated` still to come.
fn connect<B: Back>(shared: &SharedOf<B>, key: Key) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(WAIT_MAX)).unwrap();
    shared.associate(listener.accept().unwrap().0, key).unwrap();
    peer
}

fn at_most_as_many_threads_run_as_there_are_seats<B: Back>() {
    const PACKETS: u64 = 4000;
    for seats in [1, 2, 3] {
        let shared = shared::<B>(seats);
        let (running, most) = (AtomicU32::new(0), AtomicU32::new(0));
        let (taken, blocked) = (AtomicU64::new(0), AtomicU64::new(0));
        let handled = AtomicU64::new(0);
        thread::scope(|scope| {
            let _closes = CloseAtEnd::<B>(&shared);
            for _ in 0..6 {
                scope.spawn(|| {
                    let mut member = member::<B>(&shared);
                    let begin = || {
                        let now = 1 + running.fetch_add(1, Ordering::SeqCst);
                        most.fetch_max(now, Ordering::SeqCst);
                    };
                    while member.dequeue(None) == Ok(true) {
                        begin();
                        while member.next_completion().is_some() {
                            let number = taken.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                            if number.is_multiple_of(7) {
                                running.fetch_sub(1, Ordering::SeqCst);
                                member.blocking(|| blocked.fetch_add(1, Ordering::SeqCst));
                                begin();
                            }
                            handled.fetch_add(1, Ordering::SeqCst);
                        }
                        running.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            for number in 0..PACKETS {
                until("a free slot", || shared.post(number).is_ok());
            }
            // After the close a thread has no seat when its blocking call returns.
            until("every packet is handled", || handled.load(Ordering::SeqCst) == PACKETS);
        });
        let most = most.load(Ordering::SeqCst);
        assert!((1..=seats).contains(&most), "{most} threads ran at once on {seats} seats");
        assert!(blocked.load(Ordering::SeqCst) > 0);
    }
}

/// A thread that says which packets it takes, and blocks after each until it is told to go on.
struct Stepped {
    takes: Receiver<u64>,
    unblock: Sender<()>,
    returned: Receiver<()>,
}

fn spawn<'s, B: Back>(scope: &'s thread::Scope<'s, '_>, mut member: MemberOf<B>) -> Stepped {
    let ((takes, taken), (unblock, blocked)) = (mpsc::channel(), mpsc::channel());
    let (back, returned) = mpsc::channel();
    scope.spawn(move || {
        while member.dequeue(None) == Ok(true) {
            loop {
                let packet = {
                    let Some(completion) = member.next_completion() else { break };
                    let SharedOutcome::Posted(packet) = completion.outcome else { panic!() };
                    packet
                };
                takes.send(packet).unwrap();
                // An error is the test's end.
                if member
                    .blocking(|| blocked.recv())
                    .and(back.send(()).map_err(|_| RecvError))
                    .is_err()
                {
                    return;
                }
            }
        }
    });
    Stepped { takes: taken, unblock, returned }
}

fn waiting_threads_are_released_last_in_first_out<B: Back>() {
    let shared = shared::<B>(1);
    thread::scope(|scope| {
        let _closes = CloseAtEnd::<B>(&shared);
        let mut holder = member::<B>(&shared);
        shared.post(0).unwrap();
        assert_eq!(packet::<B>(&mut holder), 0);
        // The holder runs; these wait, one after the other.
        let threads: Vec<_> = (1..=4)
            .map(|count| {
                let thread = spawn::<B>(scope, member::<B>(&shared));
                until("it waits", || shared.queue_lengths() == (count, 0));
                thread
            })
            .collect();
        holder.give_up_seat();
        for (number, thread) in (1..).zip(threads.iter().rev()) {
            shared.post(number).unwrap();
            assert_eq!(thread.takes.recv_timeout(WAIT_MAX), Ok(number), "the last that waits");
        }
        drop(threads);
    });
}

fn a_thread_that_returns_comes_before_those_that_wait<B: Back>() {
    let shared = shared::<B>(1);
    thread::scope(|scope| {
        let _closes = CloseAtEnd::<B>(&shared);
        let [first, second, third] = [1, 2, 3].map(|number| {
            let thread = spawn::<B>(scope, member::<B>(&shared));
            shared.post(number).unwrap();
            assert_eq!(thread.takes.recv_timeout(WAIT_MAX), Ok(number));
            thread
        });
        // All block. The holder runs when they return, in this order.
        let mut holder = member::<B>(&shared);
        shared.post(4).unwrap();
        assert_eq!(packet::<B>(&mut holder), 4);
        let waiting = spawn::<B>(scope, member::<B>(&shared));
        until("it waits", || shared.queue_lengths() == (1, 0));
        for (count, thread) in (1..).zip([&second, &first, &third]) {
            thread.unblock.send(()).unwrap();
            until("it returns", || shared.queue_lengths() == (1, count));
        }
        shared.post(5).unwrap();
        holder.give_up_seat();
        second.returned.recv_timeout(WAIT_MAX).unwrap();
        first.returned.recv_timeout(WAIT_MAX).unwrap();
        third.returned.recv_timeout(WAIT_MAX).unwrap();
        // Those that have returned passed the seat on in their dequeues; the third has it.
        assert_eq!(third.takes.recv_timeout(WAIT_MAX), Ok(5), "it has the seat");
        assert_eq!(waiting.takes.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop((first, second, third, waiting));
    });
}

fn a_thread_that_blocks_gives_its_place_to_one_that_waits<B: Back>() {
    let shared = shared::<B>(1);
    thread::scope(|scope| {
        let _closes = CloseAtEnd::<B>(&shared);
        let mut holder = member::<B>(&shared);
        shared.post(1).unwrap();
        assert_eq!(packet::<B>(&mut holder), 1);
        let (send, receive) = mpsc::channel();
        let other = member::<B>(&shared);
        scope.spawn(move || {
            let mut other = other;
            send.send(packet::<B>(&mut other)).unwrap();
        });
        until("the other waits", || shared.queue_lengths() == (1, 0));
        shared.post(2).unwrap();
        // If it did not run meanwhile, this would fail.
        let taken = holder.blocking(|| receive.recv_timeout(WAIT_MAX));
        assert_eq!(taken, Ok(2));
        shared.post(3).unwrap();
        assert_eq!(packet::<B>(&mut holder), 3);
    });
}

fn no_wake_up_is_lost_when_threads_block_and_return<B: Back>() {
    const ROUNDS: u64 = 4000;
    for (seats, threads) in [(1, 2), (1, 4), (2, 3), (3, 3), (3, 5)] {
        let shared = shared::<B>(seats);
        let (done, blocked) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            let _closes = CloseAtEnd::<B>(&shared);
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut member = member::<B>(&shared);
                    while member.dequeue(None) == Ok(true) {
                        while member.next_completion().is_some() {
                            let number = member.blocking(|| blocked.fetch_add(1, Ordering::SeqCst));
                            // Some block for a while, so that others find no work and sleep.
                            if number.is_multiple_of(64) {
                                member.blocking(|| thread::sleep(Duration::from_micros(200)));
                            }
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
            // A few packets at a time, so that each round ends with threads that sleep.
            for round in 0..ROUNDS {
                until("a free slot", || shared.post(round).is_ok());
                let least = round.saturating_sub(round % 5);
                until("the packets are taken", || done.load(Ordering::SeqCst) >= least);
            }
            until("every packet is taken", || done.load(Ordering::SeqCst) == ROUNDS);
        });
    }
}

/// Handles one completion of an echo by oneshot receives.
fn echo<'s, B: Back>(member: &'s MemberOf<B>, completion: SharedCompletion<'s, u64>) {
    let Some(socket) = completion.socket else { return };
    let operation = match completion.outcome {
        SharedOutcome::Associated => SharedOperation::receive(CompletionMode::Oneshot),
        SharedOutcome::Received { buffer, .. } => {
            SharedOperation::Send(member.chain_of(&buffer).unwrap())
        }
        SharedOutcome::Sent { mut chain, sent, end: None } => {
            chain.advance(sent);
            assert!(chain.is_empty(), "a short send");
            SharedOperation::receive(CompletionMode::Oneshot)
        }
        SharedOutcome::ReceiveEnded(_) => SharedOperation::Close,
        SharedOutcome::Closed => return,
        other => panic!("{other:?}"),
    };
    member.submit(socket, operation).unwrap();
}

fn exchange(peer: &mut TcpStream, byte: u8) {
    peer.write_all(&[byte; 3]).unwrap();
    let mut echoed = [0; 3];
    peer.read_exact(&mut echoed).unwrap();
    assert_eq!(echoed, [byte; 3]);
}

fn one_thread_serves_the_sockets_of_all_seats<B: Back>() {
    let shared = shared::<B>(4);
    let mut peers: Vec<_> = (0..8).map(|key| connect::<B>(&shared, Key(key))).collect();
    thread::scope(|scope| {
        let _closes = CloseAtEnd::<B>(&shared);
        scope.spawn(|| {
            let mut member = member::<B>(&shared);
            while member.dequeue(None) == Ok(true) {
                loop {
                    let Some(completion) = member.next_completion() else { break };
                    echo::<B>(&member, completion);
                }
            }
        });
        for round in 0..50 {
            for peer in &mut peers {
                exchange(peer, round);
            }
        }
        // All at once, so that several seats have work.
        for peer in &mut peers {
            peer.write_all(b"all").unwrap();
        }
        for peer in &mut peers {
            let mut echoed = [0; 3];
            peer.read_exact(&mut echoed).unwrap();
        }
    });
}

fn a_seat_that_becomes_free_is_covered_by_threads_that_sleep<B: Back>() {
    let shared = shared::<B>(2);
    let mut peers: Vec<_> = (0..2).map(|key| connect::<B>(&shared, Key(key))).collect();
    let (blocked, may_return) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let _closes = CloseAtEnd::<B>(&shared);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut member = member::<B>(&shared);
                while member.dequeue(None) == Ok(true) {
                    loop {
                        let Some(completion) = member.next_completion() else { break };
                        if matches!(completion.outcome, SharedOutcome::Posted(_)) {
                            drop(completion);
                            member.blocking(|| {
                                blocked.fetch_add(1, Ordering::SeqCst);
                                until("all is done", || may_return.load(Ordering::SeqCst));
                            });
                        } else {
                            echo::<B>(&member, completion);
                        }
                    }
                }
            });
        }
        until("each has a seat and sleeps", || shared.are_all_held_and_asleep());
        shared.post(0).unwrap();
        until("one blocks", || blocked.load(Ordering::SeqCst) == 1);
        for round in 0..200 {
            exchange(&mut peers[usize::from(round % 2)], round);
        }
        may_return.store(true, Ordering::SeqCst);
        for round in 0..50 {
            exchange(&mut peers[usize::from(round % 2)], round);
        }
    });
}

fn a_packet_wakes_a_thread_that_sleeps<B: Back>() {
    for seats in [1, 2, 3] {
        let shared = shared::<B>(seats);
        let taken = AtomicU64::new(0);
        thread::scope(|scope| {
            let _closes = CloseAtEnd::<B>(&shared);
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut member = member::<B>(&shared);
                    while member.dequeue(None) == Ok(true) {
                        while member.next_completion().is_some() {
                            taken.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
            for number in 0..3000 {
                shared.post(number).unwrap();
                until("it is taken", || taken.load(Ordering::SeqCst) == number + 1);
            }
        });
        assert!(shared.post(0).is_err(), "the port is closed");
    }
}

fn packets_come_in_order_to_a_seat<B: Back>() {
    let shared = shared::<B>(1);
    let mut member = member::<B>(&shared);
    for number in 0..500 {
        shared.post(number).unwrap();
    }
    for number in 0..500 {
        assert_eq!(packet::<B>(&mut member), number);
    }
}

/// The next completion, and the socket that it names.
fn next<B: Back>(member: &mut MemberOf<B>, see: impl FnOnce(SharedSocket, Key, String)) {
    while member.dequeue(Some(WAIT_MAX)) == Ok(true) {
        if let Some(completion) = member.next_completion() {
            let socket = completion.socket.expect("of a socket");
            return see(socket, completion.key, format!("{:?}", completion.outcome));
        }
    }
    panic!("no completion");
}

fn an_operation_from_another_seat_completes_once<B: Back>() {
    let shared = shared::<B>(2);
    let mut peers: Vec<_> = (0..2).map(|key| connect::<B>(&shared, Key(7 + key))).collect();
    let messages = MessagePool::new(MessagePoolConfig::new(4)).unwrap();
    let mut one = member::<B>(&shared);
    let mut sockets = Vec::new();
    for _ in 0..2 {
        next::<B>(&mut one, |socket, key, outcome| {
            assert_eq!(outcome, "Associated");
            sockets.push((key, socket));
        });
    }
    sockets.sort_by_key(|(key, _)| key.0);
    assert_ne!(sockets[0].1.seat, sockets[1].1.seat, "each seat has one");
    // The thread has one of the seats, and submits on both sockets; a member without a seat does.
    let none = member::<B>(&shared);
    for (number, (key, socket)) in sockets.iter().copied().enumerate() {
        let message = messages.message_of(b"from elsewhere").unwrap();
        none.submit(socket, SharedOperation::SendMessage(message)).unwrap();
        next::<B>(&mut one, |from, its_key, outcome| {
            assert_eq!((from, its_key), (socket, key));
            assert_eq!(outcome, "Sent(14 of 14 bytes, None)");
        });
        let mut bytes = [0; 14];
        peers[number].read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"from elsewhere");
        for _ in 0..2 {
            none.submit(socket, SharedOperation::receive(CompletionMode::Oneshot)).unwrap();
        }
        next::<B>(&mut one, |from, _, outcome| {
            assert_eq!(from, socket);
            assert_eq!(outcome, "Refused(Receive, Refused(AlreadyInFlight))");
        });
        none.cancel(socket, OperationKind::Receive).unwrap();
        next::<B>(&mut one, |_, _, outcome| {
            assert_eq!(outcome, format!("ReceiveEnded({:?})", EndReason::Cancelled));
        });
        none.shutdown(socket).unwrap();
        none.submit(socket, SharedOperation::Close).unwrap();
        next::<B>(&mut one, |from, its_key, outcome| {
            assert_eq!((from, its_key, outcome.as_str()), (socket, key, "Closed"));
        });
        assert_eq!(peers[number].read(&mut bytes).unwrap(), 0);
        // Nothing follows the close, also of what other threads submit.
        none.submit(socket, SharedOperation::Close).unwrap();
        let _calls_of_other_threads = one.dequeue(Some(Duration::from_millis(5))).unwrap();
        assert!(one.next_completion().is_none());
    }
    // A chain is of its seat; the socket of the other one does not take it.
    let _peer = connect::<B>(&shared, Key(1));
    let _other_peer = connect::<B>(&shared, Key(2));
    let mut both = Vec::new();
    for _ in 0..2 {
        next::<B>(&mut one, |socket, _, _| both.push(socket));
    }
    let (own, other) = (both[1], both[0]);
    let chain = one.chain_of(b"x").unwrap();
    let error = one.submit(other, SharedOperation::Send(chain)).unwrap_err();
    assert_eq!(error.kind, SharedSubmitErrorKind::OtherSeat);
    let error = one.submit(own, error.operation);
    assert!(error.is_ok(), "{error:?}");
    let error = one.submit(own, SharedOperation::Accept(CompletionMode::Oneshot)).unwrap_err();
    let refused = SharedSubmitErrorKind::Refused(SubmitErrorKind::WrongOperation);
    assert_eq!(error.kind, refused);
}

fn operations_of_a_thread_that_ends_go_on<B: Back>() {
    const LINKS: u64 = 4;
    let shared = shared::<B>(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    shared.associate_listener(listener, Key(99)).unwrap();
    let mut peers: Vec<_> = (0..LINKS).map(|key| connect::<B>(&shared, Key(key))).collect();
    // A thread arms all receives and the accept, and ends.
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut member = member::<B>(&shared);
            for _ in 0..=LINKS {
                let mut armed = None;
                next::<B>(&mut member, |socket, key, _| armed = Some((socket, key)));
                let (socket, key) = armed.unwrap();
                let operation = match key.0 {
                    99 => SharedOperation::Accept(CompletionMode::Multishot),
                    0 => SharedOperation::receive(CompletionMode::Oneshot),
                    1 => SharedOperation::Receive { mode: CompletionMode::Oneshot, bytes_max: 0 },
                    _ => SharedOperation::receive(CompletionMode::Multishot),
                };
                member.submit(socket, operation).unwrap();
            }
            // The kernel has them.
            assert_eq!(member.dequeue(Some(Duration::from_millis(5))), Ok(false));
        });
    });
    let mut member = member::<B>(&shared);
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.write_all(b"abc").unwrap();
        next::<B>(&mut member, |_, key, outcome| {
            assert_eq!(key, Key(number as u64));
            let expected = match number {
                0 => "Received(3 bytes, last: true)",
                1 => "ReceiveEnded(Readable)",
                _ => "Received(3 bytes, last: false)",
            };
            assert_eq!(outcome, expected);
        });
    }
    let _client = TcpStream::connect(address).unwrap();
    next::<B>(&mut member, |_, key, outcome| {
        assert!(key == Key(99) && outcome.starts_with("Accepted("), "{outcome}");
    });
}

fn a_close_ends_every_wait<B: Back>() {
    let shared = shared::<B>(2);
    let (ended, blocked) = (AtomicU32::new(0), AtomicBool::new(false));
    let may_return = AtomicBool::new(false);
    thread::scope(|scope| {
        let _closes = CloseAtEnd::<B>(&shared);
        for _ in 0..5 {
            scope.spawn(|| {
                let mut member = member::<B>(&shared);
                while member.dequeue(None) == Ok(true) {
                    while member.next_completion().is_some() {
                        member.blocking(|| {
                            blocked.store(true, Ordering::SeqCst);
                            until("the test goes on", || may_return.load(Ordering::SeqCst));
                        });
                        assert!(member.next_completion().is_none(), "it has no seat");
                    }
                }
                assert_eq!(member.dequeue(None), Err(DequeueError::Closed));
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        shared.post(1).unwrap();
        until("one blocks", || blocked.load(Ordering::SeqCst));
        until("two wait, two sleep", || shared.queue_lengths() == (2, 0));
        shared.close();
        until("four have ended", || ended.load(Ordering::SeqCst) == 4);
        may_return.store(true, Ordering::SeqCst);
    });
    assert_eq!(ended.load(Ordering::SeqCst), 5);
}

fn a_wait_lasts_as_long_as_its_timeout<B: Back>() {
    let shared = shared::<B>(1);
    let clock = crate::port::clock::Clock::new();
    let timeout = Duration::from_millis(20);
    let mut holder = member::<B>(&shared);
    assert_eq!(holder.dequeue(Some(timeout)), Ok(false));
    assert!(clock.now().duration_since(crate::port::contract::Time(0)) >= timeout);
    shared.post(1).unwrap();
    assert_eq!(packet::<B>(&mut holder), 1);
    // The holder has the only seat.
    let mut other = member::<B>(&shared);
    let start = clock.now();
    assert_eq!(other.dequeue(Some(timeout)), Ok(false));
    assert!(clock.now().duration_since(start) >= timeout);
    assert_eq!(shared.queue_lengths(), (0, 0), "it waits no longer");
    assert_eq!(other.dequeue(Some(Duration::ZERO)), Ok(false));
    holder.give_up_seat();
    shared.post(2).unwrap();
    assert_eq!(packet::<B>(&mut other), 2);
}

/// In every other dequeue the new socket comes before the completion of the close.
fn a_full_seat_refuses_a_socket_also_while_another_closes<B: Back>() {
    let shared = shared_for::<B>(1, 1);
    let mut member = member::<B>(&shared);
    let (mut associated, mut refused) = (0, 0);
    let _first = connect::<B>(&shared, Key(1));
    let mut peers = Vec::new();
    let (mut closing, mut waiting) = (false, 1);
    while associated + refused < 40 {
        assert_eq!(member.dequeue(Some(WAIT_MAX)), Ok(true));
        let mut open = None;
        loop {
            let Some(completion) = member.next_completion() else { break };
            match (completion.outcome, completion.socket) {
                (SharedOutcome::Associated, socket) => {
                    (associated, waiting, open) = (associated + 1, waiting - 1, socket);
                }
                (SharedOutcome::AssociateFailed(error), None) => {
                    assert!(error.error.is_none(), "{error:?}");
                    (refused, waiting) = (refused + 1, waiting - 1);
                }
                (SharedOutcome::Closed, _) => closing = false,
                (outcome, _) => panic!("{outcome:?}"),
            }
        }
        if let Some(socket) = open {
            member.submit(socket, SharedOperation::Close).unwrap();
            closing = true;
        }
        if waiting == 0 || closing {
            peers.push(connect::<B>(&shared, Key(2)));
            waiting += 1;
        }
    }
    assert!(associated > 5, "{associated} are associated, {refused} refused");
    shared.close();
}
