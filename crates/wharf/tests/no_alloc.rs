//! Promise: after the start the library allocates nothing: not to accept, receive, send, broadcast,
//! post, close, reap or count a callback without a panic, nor to submit a job to a thread pool and run
//! it, but for the job's own closure.
//!
//! Method: a counting global allocator. Workers mark their threads in `on_worker_start`, client
//! threads theirs while they call a handle; between sealing and unsealing every allocation of a
//! marked thread counts, and the first one is shown with its backtrace.
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
use wharf::thread_pool::{StopMode, ThreadPool, WhenQueueFull};
use wharf::{
    Builder, Delimiter, Error, Handle, Handler, Input, LengthPrefix, Link, LinkId, PostError,
    Reply, Result, TooLong, Verdict, Worker,
};

/// A closure without captures needs no memory itself, so what is counted is the pool's.
#[test]
fn a_job_allocates_nothing_in_a_thread_pool() {
    static RAN: AtomicU64 = AtomicU64::new(0);
    let pool = ThreadPool::builder().threads_min(2).threads_max(2).queue_capacity(16);
    let pool = pool.when_full(WhenQueueFull::Fail);
    let pool = pool.context(|| {
        WATCHED.set(true);
        Ok(())
    });
    let pool = pool.start().unwrap();
    let count = allocations(|| {
        for _ in 0..20_000 {
            let _full = watched(|| pool.submit(|_| _ = RAN.fetch_add(1, Ordering::SeqCst)));
        }
        eventually(|| pool.stats().waiting == 0, "an empty queue");
    });
    assert_eq!(count, 0, "allocations of submissions and jobs");
    let stats = pool.stop(StopMode::RunQueued, util::PATIENCE).stats;
    assert_eq!(RAN.load(Ordering::SeqCst), stats.completed);
    assert!(stats.rejected > 0 && stats.completed > 0, "{stats:?}");
}

each_back_end!(
    echoing_a_hundred_thousand_messages_allocates_nothing,
    large_messages_allocate_nothing,
    posts_and_broadcasts_allocate_nothing,
    connects_and_disconnects_allocate_nothing,
    back_pressure_and_idle_reaping_allocate_nothing,
    all_that_a_handler_may_call_allocates_nothing,
    errors_and_refusals_allocate_nothing,
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
        // Shown once, and itself not counted.
        WATCHED.set(false);
        eprintln!("allocated at {}", std::backtrace::Backtrace::force_capture());
        WATCHED.set(true);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates only with
// `WATCHED` cleared, so it does not recurse.
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
    let result = call();
    WATCHED.set(false);
    result
}

/// An echo server whose messages are broadcast if they begin with `*`, and whose links store their
/// ids.
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

const FRAMES: LengthPrefix = LengthPrefix::new(4, 10_000);
/// Of several buffers.
const LONG: usize = 5_000;

/// Replies by each function that queues output, as its lines say.
#[derive(Clone, Default)]
struct Everything {
    reply: Arc<util::Mutex<Option<Reply>>>,
}

impl Handler<u64> for Everything {
    fn on_worker_start(&self, _: &mut Worker<'_>) -> Result {
        WATCHED.set(true);
        Ok(())
    }

    fn on_connect(&self, link: &mut Link<'_>) -> Result<u64> {
        link.out.set_limit_bytes(64 * 1024);
        Ok(0)
    }

    fn on_receive(&self, link: &mut Link<'_, u64>, input: &mut Input<'_>) -> Result {
        input.mark();
        let Some(word) = input.line(10)? else { return Ok(()) };
        match word {
            b"text" => write!(link.out, "{:>5000}", 1)?,
            b"build" => link.out.build(|to| to.write_all(&[b'b'; LONG]))?,
            b"source" => drop(link.out.read_from(&[b's'; LONG][..], u64::MAX)?),
            b"some" => drop(link.out.send_some(&[b's'; LONG])),
            b"parts" => link.out.send(("p", [b'p'; LONG - 2], format_args!("{}", 'p')))?,
            b"frame" => match input.frame(FRAMES)? {
                Some(body) => link.out.send(body)?,
                None => input.rewind(),
            },
            b"until" => match input.until(b"--", LONG)? {
                Some(body) => link.out.send(body)?,
                None => input.rewind(),
            },
            b"ended" => match input.frame(Delimiter::new(b"--", LONG))? {
                Some(body) => link.out.send(body)?,
                None => input.rewind(),
            },
            b"peek" => match input.peek(LONG)? {
                Some(body) => {
                    link.out.send(body)?;
                    input.consume(LONG);
                }
                None => input.rewind(),
            },
            b"post" => {
                let message = link.server.message([b'm'; LONG])?;
                link.server.link(link.id()).try_post(&message)?;
            }
            b"ensure" if link.out.ensure(LONG)? => link.out.send([b'e'; LONG])?,
            b"writable" => {
                *link.state = LONG as u64;
                link.pause();
                link.out.notify();
            }
            b"defer" => {
                let reply = input.defer(&mut link.out, LONG)?;
                *self.reply.lock().unwrap() = Some(reply);
            }
            _ => return Err(Error::msg("a word of no known kind")),
        }
        Ok(())
    }

    fn on_writable(&self, link: &mut Link<'_, u64>) -> Result {
        let left = usize::try_from(*link.state).unwrap().min(100);
        link.out.send(&[b'w'; 100][..left])?;
        *link.state -= left as u64;
        if *link.state > 0 {
            link.out.notify();
        } else {
            link.server.link(link.id()).resume();
        }
        Ok(())
    }

    fn on_end(&self, link: &mut Link<'_, u64>, _: &mut Input<'_>) -> Result<Verdict> {
        link.out.finish();
        Ok(Verdict::Keep)
    }
}

fn all_that_a_handler_may_call_allocates_nothing(case: &Case) {
    const WORDS: [&str; 13] = [
        "text", "build", "source", "some", "parts", "frame", "until", "ended", "peek", "post",
        "ensure", "writable", "defer",
    ];
    case.alone(|| {
        let handler = Everything::default();
        let builder = case.builder(handler.clone()).shards(2).links_max(16);
        let server = TestServer::start(builder);
        let head = u32::try_from(LONG).unwrap().to_be_bytes();
        let requests: Vec<Vec<u8>> = WORDS
            .iter()
            .map(|word| {
                let (head, tail): (&[u8], &[u8]) = match *word {
                    "frame" => (&head, &[b'x'; LONG]),
                    "until" | "ended" => (b"", &[&[b'x'; LONG][..], b"--"].concat()),
                    "peek" => (b"", &[b'x'; LONG]),
                    _ => (b"", b""),
                };
                [word.as_bytes(), b"\n", head, tail].concat()
            })
            .collect();
        let rounds = |rounds: usize| {
            for _ in 0..rounds {
                let mut client = server.connect();
                let mut got = vec![0; LONG];
                for (word, request) in WORDS.iter().zip(&requests) {
                    // In two pieces, so that the handler is called for half of it.
                    let (half, rest) = request.split_at(request.len() / 2);
                    server.deliver(&client, half);
                    client.write_all(rest).unwrap();
                    if *word == "defer" {
                        eventually(|| handler.reply.lock().unwrap().is_some(), "it defers");
                        let reply = handler.reply.lock().unwrap().take().unwrap();
                        watched(|| reply.send([b'd'; LONG])).unwrap();
                    }
                    std::io::Read::read_exact(&mut client, &mut got).unwrap();
                }
                finish(&mut client);
            }
        };
        rounds(2);
        let count = allocations(|| rounds(20));
        assert_eq!(count, 0, "allocations after the start");
        assert_eq!(server.stop().handler_panics, 0);
    });
}

/// Ends its links in each way that allocates no text.
#[derive(Clone)]
struct Refusing;

impl Handler for Refusing {
    fn on_worker_start(&self, _: &mut Worker<'_>) -> Result {
        WATCHED.set(true);
        Ok(())
    }

    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(word) = input.line(10)? else { return Ok(()) };
        match word {
            b"full" => loop {
                link.out.send([0; 1_000])?;
            },
            b"closed" => {
                link.close();
                link.out.send("x")?;
            }
            b"post" => loop {
                link.server.all().try_post([0; 1_000])?;
            },
            b"long" => return Err(TooLong::new(1).into()),
            b"text" => return Err(Error::msg("a constant text")),
            b"io" => return Err(std::io::Error::from(std::io::ErrorKind::Other).into()),
            b"drop" => drop(input.defer(&mut link.out, 10)?),
            b"abort" => link.abort(),
            _ => return Err(PostError::Closed.into()),
        }
        Ok(())
    }
}

fn errors_and_refusals_allocate_nothing(case: &Case) {
    case.alone(|| {
        let server = TestServer::start(case.builder(Refusing).shards(2).links_max(16));
        let rounds = |rounds: usize| {
            for _ in 0..rounds {
                let words =
                    ["full", "closed", "post", "long", "text", "io", "drop", "abort", "other"];
                for word in words {
                    let mut client = server.connect();
                    writeln!(client, "{word}").unwrap();
                    let _end_or_reset = std::io::copy(&mut client, &mut std::io::sink());
                }
                // Longer than a line may be.
                let mut client = server.connect();
                client.write_all(&[b'x'; 100]).unwrap();
                util::expect_end(&mut client);
                drop(client);
                server.wait_for_links(0);
            }
        };
        rounds(2);
        let count = allocations(|| rounds(20));
        assert_eq!(count, 0, "allocations after the start");
        server.stop();
    });
}
