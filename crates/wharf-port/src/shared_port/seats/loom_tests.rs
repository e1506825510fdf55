//! The hand-over of seats in every interleaving, up to a bound of preemptions, with ports that only
//! count packets. A lost wake-up is a deadlock, which loom reports.

use super::*;
use crate::port::wake::WakeState;
use loom::thread;

/// What the kernel does for the ports: descriptors that are readable, and waits for them.
struct Kernel {
    is_readable: Mutex<Vec<bool>>,
    changed: Condvar,
}

impl Kernel {
    fn new(ports: usize) -> Arc<Self> {
        let is_readable = Mutex::new(vec![false; ports]);
        Arc::new(Self { is_readable, changed: Condvar::new() })
    }

    fn set(&self, index: usize, readable: bool) {
        self.is_readable.lock().unwrap()[index] = readable;
        if readable {
            self.changed.notify_all();
        }
    }

    fn wait(&self, is_covered: &[bool]) {
        let mut is_readable = self.is_readable.lock().unwrap();
        let is_any = |is_readable: &[bool]| {
            is_readable
                .iter()
                .zip(is_covered)
                .any(|(is_readable, covered)| *is_readable && *covered)
        };
        while !is_any(&is_readable) {
            is_readable = self.changed.wait(is_readable).unwrap();
        }
    }
}

/// A port, as other threads see it.
struct Poster {
    index: usize,
    kernel: Arc<Kernel>,
    wake: WakeState,
    packets: AtomicU32,
}

impl Poster {
    fn post(&self) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.notify_owner();
    }

    fn notify_owner(&self) -> bool {
        let slept = self.wake.notify();
        if slept {
            self.kernel.set(self.index, true);
        }
        slept
    }
}

impl Notify for Arc<Poster> {
    fn notify(&self) -> bool {
        self.notify_owner()
    }
}

struct Seat {
    port: Arc<Poster>,
    completions: u32,
}

impl Seat {
    fn take(&mut self) {
        self.port.wake.clear();
        self.completions += self.port.packets.swap(0, Ordering::Relaxed);
    }

    fn dequeue(&mut self) {
        let notified = self.port.wake.clear();
        self.completions += self.port.packets.swap(0, Ordering::Relaxed);
        if self.completions == 0 && !notified && self.port.wake.fall_asleep() {
            let mut own = vec![false; self.port.index + 1];
            own[self.port.index] = true;
            self.port.kernel.wait(&own);
        }
        self.port.kernel.set(self.port.index, false);
        self.take();
    }
}

impl Content for Seat {
    fn index(&self) -> usize {
        self.port.index
    }

    fn has_completions(&self) -> bool {
        self.completions > 0
    }

    fn poll(&mut self) -> Result<bool, PortError> {
        self.port.kernel.set(self.port.index, false);
        self.take();
        Ok(self.has_completions())
    }

    fn prepare_wait(&mut self) -> Result<bool, PortError> {
        Ok(self.port.wake.fall_asleep())
    }

    fn end_wait(&mut self) {
        if self.port.wake.clear() {
            self.port.wake.notify();
        }
    }
}

type FakeSeats = Arc<Seats<Seat, Arc<Poster>>>;

fn seats(count: usize) -> (FakeSeats, Vec<Arc<Poster>>) {
    let kernel = Kernel::new(count);
    let ports: Vec<_> = (0..count)
        .map(|index| {
            let (wake, packets) = (WakeState::new(), AtomicU32::new(0));
            Arc::new(Poster { index, kernel: Arc::clone(&kernel), wake, packets })
        })
        .collect();
    let seats = ports.iter().map(|port| Seat { port: Arc::clone(port), completions: 0 }).collect();
    (Arc::new(Seats::new(seats, ports.clone())), ports)
}

/// Takes packets, blocks after each step with some if `blocks`, and closes the port when the last of
/// all packets was taken.
fn work(seats: &FakeSeats, left: &AtomicU32, blocks: bool) {
    let mut thread = Thread::new(Arc::clone(seats));
    loop {
        let step = thread.step().unwrap();
        seats.check();
        match step {
            Step::Completions => {
                let taken = std::mem::take(&mut thread.seat().completions);
                if blocks {
                    assert!(thread.release());
                    while thread.claim(Queue::Returning) == Claim::Queued {
                        thread.park(None);
                    }
                }
                if left.fetch_sub(taken, Ordering::AcqRel) == taken {
                    seats.close();
                }
            }
            Step::Park => thread.park(None),
            Step::Wait => thread.seat().dequeue(),
            Step::WaitAny => {
                let mut covered = seats.watched();
                covered[thread.seat().index()] = true;
                let kernel = Arc::clone(&thread.seat().port.kernel);
                kernel.wait(&covered);
                thread.end_wait();
            }
            Step::Closed => return,
        }
    }
}

/// `threads` threads, each with whether it blocks; one packet is posted to each of the seats named.
fn check(seat_count: usize, threads: &'static [bool], packets: &'static [usize], bound: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(bound);
    model.check(move || {
        let (seats, ports) = seats(seat_count);
        let left = Arc::new(AtomicU32::new(u32::try_from(packets.len()).unwrap()));
        let workers: Vec<_> = threads
            .iter()
            .map(|blocks| {
                let (seats, left) = (Arc::clone(&seats), Arc::clone(&left));
                thread::spawn(move || work(&seats, &left, *blocks))
            })
            .collect();
        for index in packets {
            ports[*index].post();
        }
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(left.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_thread_that_blocks_passes_its_seat_on_and_gets_it_back() {
    check(1, &[true, true], &[0, 0], 2);
}

#[test]
fn one_thread_covers_two_seats() {
    check(2, &[false], &[0, 1, 0], 3);
}

#[test]
fn a_seat_whose_thread_blocks_is_covered_by_one_that_sleeps() {
    check(2, &[true, false], &[0, 1], 2);
}

#[test]
fn two_threads_that_return_both_get_a_seat() {
    check(2, &[true, true], &[0, 1], 2);
}
