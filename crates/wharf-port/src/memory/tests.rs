//! The pool and the message pool, one property per test.

use super::*;
use crate::conformance::network::skip;
use crate::range::refusal;

fn pool(buffers: u32) -> BufferPool {
    BufferPool::new(PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(buffers) }).unwrap()
}

fn messages(buffers: u32) -> MessagePool {
    MessagePool::new(MessagePoolConfig { buffers, buffer_size_bytes: 64 }).unwrap()
}

fn bytes(message: &Message) -> Vec<u8> {
    message.slices().flatten().copied().collect()
}

#[test]
fn an_empty_pool_gives_none_and_recovers() {
    let pool = pool(2);
    let a = pool.acquire(Owner::Application).unwrap();
    let b = pool.acquire(Owner::SendQueue).unwrap();
    assert!(pool.acquire(Owner::Application).is_none());
    assert_eq!(
        pool.ledger(),
        BufferCounts { application: 1, send_queue: 1, ..BufferCounts::default() }
    );
    drop(a);
    assert!(pool.acquire(Owner::Application).is_some());
    drop(b);
    assert_eq!(pool.ledger(), BufferCounts { free: 2, ..BufferCounts::default() });
}

#[test]
fn the_buffer_that_was_released_last_is_acquired_first() {
    let pool = pool(3);
    let (a, b) = (pool.acquire(Owner::Application), pool.acquire(Owner::Application));
    let address = a.as_ref().unwrap().bytes();
    drop(b);
    drop(a);
    assert_eq!(pool.acquire(Owner::Application).unwrap().bytes(), address);
}

#[test]
fn append_stops_at_the_size_of_the_buffer() {
    let pool = pool(1);
    let mut buffer = pool.acquire(Owner::Application).unwrap();
    assert_eq!(buffer.append(&[7; 60]), 60);
    assert_eq!(buffer.append(&[8; 60]), 4);
    assert_eq!(buffer.append(&[9; 60]), 0);
    assert_eq!((buffer.spare_capacity(), buffer.len()), (0, 64));
    assert_eq!(*buffer, [[7; 60].as_slice(), [8; 4].as_slice()].concat());
}

#[test]
fn a_buffer_outlives_its_pool_and_the_last_one_frees_it() {
    let pool = pool(2);
    let view = pool.ledger_view();
    let other = pool.clone();
    let mut buffer = pool.acquire(Owner::Application).unwrap();
    let chain = pool.chain_of(b"in a chain", Owner::SendQueue).unwrap();
    drop(pool);
    drop(other);
    assert_eq!(buffer.append(b"still here"), 10);
    assert_eq!(
        view.ledger(),
        BufferCounts { application: 1, send_queue: 1, ..BufferCounts::default() }
    );
    drop(buffer);
    assert_eq!(chain.front(), b"in a chain");
    drop(chain);
    assert_eq!(view.ledger(), BufferCounts { free: 2, ..BufferCounts::default() });
}

#[test]
fn another_thread_reads_the_ledger_also_when_the_pool_is_gone() {
    let pool = pool(3);
    let view = pool.ledger_view();
    let buffer = pool.acquire(Owner::KernelReceive).unwrap();
    buffer.set_owner(Owner::KernelSend);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(view.ledger(), BufferCounts { kernel_send: 1, free: 2, ..view.ledger() })
        });
    });
    buffer.set_owner(Owner::Free);
    assert_eq!(view.ledger().application, 1, "only a release makes a buffer free");
    drop((pool, buffer));
    let seen = std::thread::scope(|scope| scope.spawn(|| view.ledger()).join().unwrap());
    assert_eq!(seen, BufferCounts { free: 3, ..BufferCounts::default() });
}

#[test]
fn a_write_into_a_free_buffer_is_caught_at_the_next_acquire() {
    if !cfg!(debug_assertions) {
        skip("the pattern is written with debug assertions only");
        return;
    }
    let pool = pool(1);
    let stray = pool.acquire(Owner::Application).unwrap().bytes();
    // SAFETY: the slot has 64 bytes.
    let stray = unsafe { stray.add(9) };
    // SAFETY: the address lies in the pool's mapping, which exists; the write to a free buffer is
    // the bug that the pool shall detect.
    unsafe { stray.write(1) };
    let caught =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.acquire(Owner::Application)));
    let text = *caught.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("first at byte Some(9)"), "{text}");
}

#[test]
fn the_acquire_that_is_named_fails_and_no_other() {
    let pool = pool(3);
    assert_eq!(pool.fail_nth_acquire(2), 0);
    // Only acquires for receives count.
    drop(pool.acquire(Owner::SendQueue).unwrap());
    drop(pool.acquire(Owner::SendQueue).unwrap());
    let first = pool.acquire(Owner::KernelReceive);
    assert!(first.is_some());
    assert!(pool.acquire(Owner::KernelReceive).is_none());
    assert!(pool.acquire(Owner::KernelReceive).is_some());
    assert_eq!((pool.fail_nth_acquire(5), pool.fail_nth_acquire(0)), (0, 5));
}

#[test]
fn a_message_is_copied_once_and_freed_by_its_last_handle() {
    let pool = messages(4);
    let data: Vec<u8> = (0..150).collect();
    let one = pool.message_of(&data).unwrap();
    assert_eq!((one.len(), one.slices().count(), pool.free_count()), (150, 3, 1));
    assert_eq!(pool.ledger(), BufferCounts { free: 1, shared: 3, ..BufferCounts::default() });
    let two = one.clone();
    assert_eq!(one.slices().next().unwrap().as_ptr(), two.slices().next().unwrap().as_ptr());
    drop(one);
    assert_eq!((bytes(&two), pool.free_count()), (data, 1));
    drop(two);
    assert_eq!((pool.free_count(), pool.capacity()), (4, 4));
}

#[test]
fn a_message_is_made_whole_or_not_at_all() {
    let pool = messages(3);
    let small = pool.message_of(b"small").unwrap();
    assert_eq!(pool.message_of(&[1; 129]).unwrap_err(), NoBuffers);
    assert_eq!(pool.free_count(), 2);
    let exact = pool.message_of(&[1; 128]).unwrap();
    assert_eq!(exact.slices().map(<[u8]>::len).collect::<Vec<_>>(), [64, 64]);
    assert_eq!(pool.message_of(b"").unwrap_err(), NoBuffers);
    drop(small);
    let empty = pool.message_of(b"").unwrap();
    assert!(empty.is_empty() && empty.slices().next().is_none() && pool.free_count() == 0);
    drop((exact, empty));
    assert_eq!(pool.free_count(), 3);
}

#[test]
fn a_message_outlives_its_pool() {
    let message = messages(2).message_of(&[7; 100]).unwrap();
    let other = message.clone();
    drop(message);
    assert_eq!(bytes(&other), [7; 100]);
}

#[test]
fn four_threads_make_read_and_drop_messages_of_one_pool() {
    let pool = messages(16);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Message>(4);
    std::thread::scope(|scope| {
        for thread in 1..=3_u8 {
            let (pool, sender) = (pool.clone(), sender.clone());
            scope.spawn(move || {
                for round in 0..5_000_usize {
                    let Ok(message) = pool.message_of(&vec![thread; round % 300]) else { continue };
                    sender.send(message.clone()).unwrap();
                    assert!(message.slices().flatten().all(|byte| *byte == thread));
                }
            });
        }
        drop(sender);
        for message in &receiver {
            let bytes = bytes(&message);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{bytes:?}");
        }
    });
    assert_eq!(pool.free_count(), 16);
}

#[test]
fn the_plans_sums_count_every_table() {
    let config = PoolConfig { buffer_size_bytes: 100, shared_entries: 5, ..PoolConfig::new(10) };
    let without = 10 * (128 + 4 + 1) + 15 * 32;
    assert_eq!(config.size_bytes(), without);
    let config = PoolConfig { large_buffers: 3, large_size_bytes: 1_000, ..config };
    // Each has an entry in the chains' table, and one in its own pool's table, which is unused.
    assert_eq!(config.size_bytes(), without + 3 * (1_024 + 4 + 1) + 2 * 3 * 32);
    let config = MessagePoolConfig { buffer_size_bytes: 100, ..MessagePoolConfig::new(10) };
    assert_eq!(config.size_bytes(), 10 * (128 + 4 + 64));
}

#[test]
fn a_message_is_built_piece_by_piece() {
    use std::fmt::Write;
    let messages = messages(5);
    let mut builder = messages.builder().unwrap();
    let mut expected = Vec::new();
    for (byte, len) in (0_u8..).zip([0, 10, 54, 1, 130, 0, 40]) {
        builder.write(&vec![byte; len]).unwrap();
        expected.extend(vec![byte; len]);
        assert_eq!((builder.len(), builder.is_empty()), (expected.len(), expected.is_empty()));
        assert_eq!(messages.free_count() as usize, 5 - expected.len().div_ceil(64).max(1));
    }
    write!(builder, "{}, {:?}", 17, "text").unwrap();
    expected.extend(b"17, \"text\"");
    let message = builder.finish();
    assert_eq!((bytes(&message), messages.free_count()), (expected, 1));
    let other = message.clone();
    drop(message);
    std::thread::scope(|scope| drop(scope.spawn(move || drop(other))));
    assert_eq!(messages.free_count(), 5);
    assert_eq!(bytes(&messages.message_of(&[1; 320]).unwrap()), [1; 320]);
}

#[test]
fn messages_that_are_built_at_once_have_their_own_buffers() {
    let messages = messages(8);
    let mut builders = [0_u8, 1].map(|_| messages.builder().unwrap());
    for _ in 0..5 {
        for (byte, builder) in (0..).zip(&mut builders) {
            builder.write(&[byte; 50]).unwrap();
        }
    }
    assert_eq!(messages.free_count(), 0);
    for (byte, builder) in (0..).zip(builders) {
        assert_eq!(bytes(&builder.finish()), [byte; 250]);
    }
    assert_eq!(messages.free_count(), 8);
    assert_eq!(bytes(&messages.message_of(&[2; 512]).unwrap()), [2; 512]);
}

#[test]
fn a_piece_of_a_message_is_written_whole_or_not_at_all() {
    use std::fmt::Write;
    let messages = messages(3);
    let mut builder = messages.builder().unwrap();
    builder.write(&[1; 60]).unwrap();
    assert_eq!(builder.write(&[2; 133]), Err(NoBuffers));
    assert_eq!(builder.write_str(&"x".repeat(200)), Err(std::fmt::Error));
    assert_eq!((builder.len(), messages.free_count()), (60, 2));
    builder.write(&[2; 132]).unwrap();
    assert_eq!((builder.write(&[3]), messages.free_count()), (Err(NoBuffers), 0));
    assert_eq!(messages.builder().unwrap_err(), NoBuffers);
    assert_eq!(bytes(&builder.finish()), [[1; 60].as_slice(), &[2; 132]].concat());
    assert_eq!(messages.free_count(), 3);
}

#[test]
fn a_builder_that_is_not_finished_releases_its_buffers() {
    let messages = messages(3);
    let mut builder = messages.builder().unwrap();
    builder.write(&[1; 130]).unwrap();
    assert_eq!(messages.free_count(), 0);
    drop(builder);
    assert_eq!(messages.free_count(), 3);
    let empty = messages.builder().unwrap().finish();
    assert_eq!((empty.is_empty(), empty.slices().count(), messages.free_count()), (true, 0, 2));
    let last = messages.builder().unwrap();
    drop((messages, empty));
    assert!(last.finish().is_empty(), "the builder keeps the pool allocated");
}

fn with_large(large_buffers: u32) -> BufferPool {
    let config = PoolConfig { buffer_size_bytes: 64, shared_entries: 0, ..PoolConfig::new(2) };
    BufferPool::new(PoolConfig { large_buffers, large_size_bytes: 256, ..config }).unwrap()
}

#[test]
fn large_buffers_are_beside_the_others_and_have_entries_in_the_same_chains() {
    let pool = with_large(2);
    assert_eq!((pool.free_count(), pool.free_entry_count()), (2, 4));
    let mut chain = Chain::new();
    while let Some(mut buffer) = pool.acquire_large(Owner::Application) {
        assert!(buffer.is_large(&pool) && buffer.append(&[1; 300]) == 256);
        chain.push(&pool, buffer).unwrap();
    }
    assert!(chain.ends_in_large(&pool));
    chain.append(&pool, &[2; 128], Owner::SendQueue, 2).unwrap();
    assert!(!chain.ends_in_large(&pool));
    let large = pool.large().unwrap();
    assert_eq!((chain.len(), chain.buffers()), (2 * 256 + 128, 4));
    assert_eq!((large.free_count(), pool.free_count(), pool.free_entry_count()), (0, 0, 0));
    drop(chain);
    assert_eq!((large.free_count(), pool.free_count(), pool.free_entry_count()), (2, 2, 4));
    assert!(with_large(0).acquire_large(Owner::Application).is_none());
}

#[test]
fn a_large_buffer_outlives_its_pools_handles() {
    let pool = with_large(1);
    let mut buffer = pool.acquire_large(Owner::Application).unwrap();
    drop(pool);
    buffer.append(&[7; 256]);
    assert_eq!(buffer[..], [7; 256]);
}

#[test]
fn large_buffers_are_scarce_when_fewer_than_an_eighth_are_free_or_none() {
    for (all, not_scarce) in [(1, 0), (4, 3), (8, 7), (16, 14), (40, 35)] {
        let pool = with_large(all);
        let mut held = Vec::new();
        while let Some(buffer) = pool.acquire_large(Owner::Application) {
            held.push(buffer);
            assert_eq!(held[0].is_scarce(), held.len() > not_scarce, "{} of {all}", held.len());
        }
    }
}

#[test]
fn a_pools_value_out_of_its_range_is_refused_before_memory_is_taken() {
    let refused = |set: fn(&mut PoolConfig)| {
        let mut config = PoolConfig::new(8);
        set(&mut config);
        refusal(|| BufferPool::new(config))
    };
    let buffers = "it must be 1 to 16777216";
    assert_eq!(refused(|c| c.buffers = 0), format!("buffers is 0; {buffers}"));
    assert_eq!(refused(|c| c.buffers = u32::MAX), format!("buffers is 4294967295; {buffers}"));
    let size = "it must be 64 to 1048576";
    assert_eq!(refused(|c| c.buffer_size_bytes = 63), format!("buffer_size_bytes is 63; {size}"));
    let entries = refused(|c| c.shared_entries = u32::MAX);
    assert_eq!(entries, "shared_entries is 4294967295; it must be 0 to 1073741824");
    let large = refused(|c| c.large_buffers = u32::MAX);
    assert_eq!(large, "large_buffers is 4294967295; it must be 0 to 16777216");
    let large = refused(|c| (c.large_buffers, c.large_size_bytes) = (1, 2048));
    assert_eq!(large, "large_size_bytes is 2048; it must be 2049 to 1048576");
    let config = MessagePoolConfig { buffers: 0, ..MessagePoolConfig::new(1) };
    assert_eq!(refusal(|| MessagePool::new(config)), format!("buffers is 0; {buffers}"));
}
