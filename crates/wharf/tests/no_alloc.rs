//! Promise: after the start the library allocates nothing: not to accept, receive, send,
//! broadcast, post, close, reap or count a panic-free callback.
//!
//! Method: a counting global allocator. Workers say in `on_worker_start` that they are watched,
//! client threads while they call a handle; between sealing and unsealing every allocation of a
//! watched thread counts, and its place is shown.
#![cfg(target_os = "linux")]
#![cfg(test)]
#![expect(unsafe_code, reason = "a global allocator is unsafe to implement")]

mod util;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use util::{
    Case, TestServer, bytes, each_back_end, eventually, expect_bytes, finish, reset, round_trip,
};
use wharf::{Builder, Handle, Handler, Input, Link, LinkId, Result, Worker};

each_back_end!(
    echoing_a_hundred_thousand_messages_allocates_nothing,
    large_messages_allocate_nothing,
    posts_and_broadcasts_allocate_nothing,
    connects_and_disconnects_allocate_nothing,
    back_pressure_and_idle_reaping_allocate_nothing,
);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static SEALED: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if !SEALED.load(Ordering::SeqCst) || !WATCHED.try_with(Cell::get).unwrap_or(false) {
        return;
    }
    if ALLOCATIONS.fetch_add(1, Ordering::SeqCst) == 0 {
        // Once, and not counted: where the first one is made.
        WATCHED.set(false);
        eprintln!("allocated at {}", std::backtrace::Backtrace::force_capture());
        WATCHED.set(true);
    }
}

// SAFETY: every call is passed on to the system's allocator as it is; counting allocates only
// with the thread's flag down, so it does not come back here.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those of `System`, which made the block.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those of `System`, which made the block.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Allocations of watched threads while `body` runs.
fn allocations(body: impl FnOnce()) -> u64 {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    SEALED.store(true, Ordering::SeqCst);
    body();
    SEALED.store(false, Ordering::SeqCst);
    ALLOCATIONS.load(Ordering::SeqCst)
}

/// Runs a call of the library on a client thread, watched.
fn watched<T>(call: impl FnOnce() -> T) -> T {
    WATCHED.set(true);
    let answer = call();
    WATCHED.set(false);
    answer
}

/// An echo server whose messages are broadcast if they begin with `*`, and whose links leave
/// their ids behind.
#[derive(Clone, Default)]
struct Watched {
    last: Arc<util::Mutex<Option<LinkId>>>,
}

impl Handler for Watched {
    fn on_worker_start(&self, _: &mut Worker<'_>) -> Result {
        WATCHED.set(true);
        Ok(())
    }

    fn on_connect(&self, link: &mut Link<'_>) -> Result {
        *self.last.lock().unwrap() = Some(link.id());
        Ok(())
    }

    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        if input.chunk()[0] == b'*' {
            link.server.all().except(link.id()).try_post(input.chunk())?;
        }
        input.forward(&mut link.out);
        Ok(())
    }
}

type Watching = Builder<Watched, (), ()>;

/// One server in a process of its own, so that only its threads are counted.
fn check(case: &Case, settings: impl Fn(Watching) -> Watching, load: fn(&TestServer, &Watched)) {
    case.alone(|| {
        let handler = Watched::default();
        let builder = settings(case.builder(handler.clone()).shards(2).links_max(64));
        let server = TestServer::start(builder);
        let mut first: Vec<_> = (0..4).map(|_| server.connect()).collect();
        first.iter_mut().for_each(|client| round_trip(client, b"hello"));
        drop(first);
        server.wait_for_links(0);
        let count = allocations(|| load(&server, &handler));
        assert_eq!(count, 0, "allocations after the start");
        server.stop();
    });
}

fn echoing_a_hundred_thousand_messages_allocates_nothing(case: &Case) {
    check(
        case,
        |builder| builder,
        |server, _| {
            let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
            let message = bytes(1, 100);
            for _ in 0..2_000 {
                clients.iter_mut().for_each(|client| client.write_all(&message).unwrap());
                clients.iter_mut().for_each(|client| expect_bytes(client, &message));
            }
            clients.iter_mut().for_each(finish);
            server.wait_for_links(0);
            assert!(server.stats().received_bytes >= 100_000 * 100);
        },
    );
}

fn large_messages_allocate_nothing(case: &Case) {
    check(
        case,
        |builder| builder,
        |server, _| {
            let mut client = server.connect();
            for n in 0..50 {
                let data = bytes(n, 200_000);
                std::thread::scope(|scope| {
                    let stream = &client;
                    let data = &data;
                    scope.spawn(move || { stream }.write_all(data).unwrap());
                    util::read_back(stream, data);
                });
            }
            finish(&mut client);
            server.wait_for_links(0);
        },
    );
}

fn posts_and_broadcasts_allocate_nothing(case: &Case) {
    check(
        case,
        |builder| builder,
        |server, handler| {
            let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
            eventually(|| server.stats().links == 20, "all are open");
            clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
            let id = (*handler.last.lock().unwrap()).unwrap();
            let data = bytes(1, 5_000);
            let handle: &Handle = &server.handle;
            for _ in 0..500 {
                watched(|| handle.all().except(id).try_post(&data)).unwrap();
                watched(|| handle.link(id).try_post(&data)).unwrap();
                clients.iter_mut().for_each(|client| expect_bytes(client, &data));
            }
            for n in 0..500 {
                clients[n % 20].write_all(b"*to all").unwrap();
                clients.iter_mut().for_each(|client| expect_bytes(client, b"*to all"));
            }
            clients.iter_mut().for_each(finish);
            server.wait_for_links(0);
        },
    );
}

fn connects_and_disconnects_allocate_nothing(case: &Case) {
    check(
        case,
        |builder| builder,
        |server, handler| {
            for n in 0..2_000 {
                let mut client = server.connect();
                round_trip(&mut client, b"hello");
                match n % 3 {
                    0 => finish(&mut client),
                    1 => reset(client),
                    _ => {
                        let id = (*handler.last.lock().unwrap()).unwrap();
                        watched(|| server.handle.link(id).close());
                        util::expect_end(&mut client);
                    }
                }
            }
            server.wait_for_links(0);
        },
    );
}

fn back_pressure_and_idle_reaping_allocate_nothing(case: &Case) {
    const TIME: Duration = Duration::from_millis(300);
    let settings =
        |builder: Watching| builder.idle_timeout(TIME).stall_timeout(TIME).output_bytes(32 * 1024);
    check(case, settings, |server, _| {
        let clients: Vec<_> = (0..30).map(|_| util::connect_small_window(server.address)).collect();
        for mut client in &clients {
            client.set_nonblocking(true).unwrap();
            while client.write(&[7; 10_000]).is_ok() {}
        }
        server.wait_for_links(0);
    });
}
