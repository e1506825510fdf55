//! Promise: a table for which there is no memory is an error of the start, and never the end of the
//! process.
//!
//! Method: a global allocator that fails one allocation of more than 4 KiB of a start: the first, the
//! second, and so on, until a start makes fewer.
#![cfg(target_os = "linux")]
#![cfg(test)]
#![expect(unsafe_code, reason = "a global allocator is unsafe to implement")]

mod util;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use util::{Case, each_back_end};
use wharf::{Handler, Input, Link, OnPost, Result, StartErrorKind, Worker};

each_back_end!(each_table_that_finds_no_memory_is_told);

struct Failing;

#[global_allocator]
static ALLOCATOR: Failing = Failing;
/// A start runs, whose allocations count.
static COUNTS: AtomicBool = AtomicBool::new(false);
/// Large allocations of this start, and which of them fails, counted from 1.
static NUMBER: AtomicU32 = AtomicU32::new(0);
static FAILS: AtomicU32 = AtomicU32::new(0);
/// Large allocations that are not failed: see `is_tried`.
static TRIED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// The size of the large block that this thread's allocator freed last, until it allocates again.
    static FREED: Cell<usize> = const { Cell::new(0) };
}

/// std itself allocates without a remedy in a few places, all of them smaller, and in one that is not:
/// its bounded channel, the queue of an inbox, allocates its slots. The start has allocated as much just
/// before, as an error of its own, and freed it. That first allocation is failed, the second is not.
fn is_tried(size: usize) -> bool {
    let is_tried = FREED.try_with(Cell::take).is_ok_and(|freed| freed == size);
    TRIED.fetch_add(u32::from(is_tried), Ordering::SeqCst);
    is_tried
}

/// Whether an allocation of this size fails.
fn fails(size: usize) -> bool {
    const LARGE: usize = 4_096;
    if size <= LARGE || !COUNTS.load(Ordering::SeqCst) || is_tried(size) {
        return false;
    }
    NUMBER.fetch_add(1, Ordering::SeqCst) + 1 == FAILS.load(Ordering::SeqCst)
}

// SAFETY: every call is passed on to the system's allocator unchanged, or returns null, as an allocator
// without memory may.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails(layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _the_thread_may_end = FREED.try_with(|freed| freed.set(layout.size()));
        // SAFETY: the caller's promises are those of `System`, which made the block.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if fails(size) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's promises are those of `System`, which made the block.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// A handler with packets.
struct Posted;

impl Handler for Posted {
    fn on_receive(&self, _: &mut Link<'_>, _: &mut Input<'_>) -> Result {
        Ok(())
    }
}

impl OnPost<[u8; 64]> for Posted {
    fn on_post(&self, _: &mut Worker<'_>, _: [u8; 64]) {}
}

/// Starts and stops a server whose tables are large, while one allocation fails. Returns whether the
/// start got that far, and its error.
fn start(case: &Case, shards: u32, fails: u32) -> (bool, Option<wharf::StartError>) {
    let (_poster, packets) = wharf::inbox(4_096);
    let builder = case.short(Posted).inbox(packets).every(util::PATIENCE, [0; 64]);
    let builder = builder.shards(shards).links_max(5_000).buffer_size_bytes(256);
    FAILS.store(fails, Ordering::SeqCst);
    NUMBER.store(0, Ordering::SeqCst);
    TRIED.store(0, Ordering::SeqCst);
    COUNTS.store(true, Ordering::SeqCst);
    let started = builder.start();
    COUNTS.store(false, Ordering::SeqCst);
    // Of the port, and of the packets.
    let inboxes = 2 * shards;
    assert!(TRIED.load(Ordering::SeqCst) <= inboxes, "only the inboxes' slots are not failed");
    let error = match started {
        Ok(running) => {
            assert_eq!(TRIED.load(Ordering::SeqCst), inboxes, "the inboxes' slots");
            running.handle().stop(util::PATIENCE);
            running.wait().unwrap();
            None
        }
        Err(error) => Some(error),
    };
    (NUMBER.load(Ordering::SeqCst) >= fails, error)
}

fn each_table_that_finds_no_memory_is_told(case: &Case) {
    case.alone(|| {
        for shards in [1, 2] {
            let mut names = Vec::new();
            let mut fails = 1;
            loop {
                let (is_reached, error) = start(case, shards, fails);
                if let Some(error) = error {
                    assert_eq!(error.kind(), StartErrorKind::Resources, "{error}");
                    let text = error.to_string();
                    let (_, name) =
                        text.split_once(" of memory for ").unwrap_or_else(|| panic!("{text}"));
                    names.push(name.split(':').next().unwrap_or_default().to_owned());
                } else if !is_reached {
                    break;
                }
                fails += 1;
            }
            assert!(names.len() > 20, "{names:?}");
        }
    });
}
