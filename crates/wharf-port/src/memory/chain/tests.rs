//! Chains, one property per test; `model.rs` mixes the operations.

use super::*;
use crate::memory::message::{MessagePool, MessagePoolConfig};
use crate::memory::pool::PoolConfig;
use std::io::{self, Read};

fn pool(buffers: u32) -> BufferPool {
    let config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(buffers) };
    BufferPool::new(PoolConfig { shared_entries: 2, ..config }).unwrap()
}

fn messages(buffers: u32) -> MessagePool {
    MessagePool::new(MessagePoolConfig { buffers, buffer_size_bytes: 64 }).unwrap()
}

fn bytes(chain: &Chain) -> Vec<u8> {
    chain.slices().flatten().copied().collect()
}

#[test]
fn append_fills_the_last_buffer_before_it_takes_another() {
    let pool = pool(3);
    let mut chain = Chain::new();
    chain.append(&pool, &[1; 60], Owner::SendQueue, 9).unwrap();
    chain.append(&pool, &[2; 70], Owner::SendQueue, 9).unwrap();
    assert_eq!((chain.len(), chain.buffers(), pool.free_count()), (130, 3, 0));
    assert_eq!(bytes(&chain), [[1; 60].as_slice(), [2; 70].as_slice()].concat());
    drop(chain);
    assert_eq!((pool.free_count(), pool.free_entry_count()), (3, 5));
}

#[test]
fn append_is_all_or_nothing() {
    let pool = pool(2);
    let mut chain = pool.chain_of(&[1; 10], Owner::SendQueue).unwrap();
    assert_eq!(chain.append(&pool, &[2; 119], Owner::SendQueue, 9), Err(NoBuffers));
    assert_eq!(chain.append(&pool, &[2; 55], Owner::SendQueue, 0), Err(NoBuffers));
    pool.fail_nth_acquire(1);
    assert_eq!(chain.append(&pool, &[2; 55], Owner::KernelReceive, 9), Err(NoBuffers));
    assert_eq!((bytes(&chain), chain.buffers(), pool.free_count()), (vec![1; 10], 1, 1));
    chain.append(&pool, &[2; 118], Owner::SendQueue, 1).unwrap();
    assert_eq!(chain.len(), 128);
}

#[test]
fn a_source_is_read_into_the_spare_capacity_and_no_further() {
    let pool = pool(4);
    let mut chain = pool.chain_of(&[1; 60], Owner::SendQueue).unwrap();
    let mut source = io::repeat(2);
    let mut shown = Vec::new();
    let mut read = |target: &mut [u8]| {
        shown.push(target.len());
        source.read(target)
    };
    let filled = chain.append_from(&pool, Owner::Application, 9, 100, &mut read);
    assert_eq!((filled.len, filled.ended, chain.len(), chain.buffers()), (100, false, 160, 3));
    assert!(filled.error.is_none());
    let filled = chain.append_from(&pool, Owner::Application, 0, 1000, &mut read);
    assert_eq!(
        (filled.len, filled.ended, chain.spare_capacity(), pool.free_count()),
        (32, false, 0, 1)
    );
    let filled = chain.append_from(&pool, Owner::Application, 9, 1000, &mut read);
    assert_eq!((filled.len, filled.ended, chain.buffers(), pool.free_count()), (64, false, 4, 0));
    assert_eq!(chain.append_from(&pool, Owner::Application, 9, 0, &mut read).len, 0);
    assert_eq!(shown, [4, 64, 32, 32, 64]);
    assert_eq!(bytes(&chain), [[1; 60].as_slice(), &[2; 196]].concat());
    assert_eq!((pool.ledger().send_queue, pool.ledger().application), (1, 3));
}

#[test]
fn bytes_before_an_error_stay_and_an_empty_buffer_is_released() {
    let pool = pool(3);
    for (kind, is_error) in [(io::ErrorKind::WouldBlock, false), (io::ErrorKind::BrokenPipe, true)]
    {
        let mut chain = Chain::new();
        let mut results =
            [Ok(64), Err(io::ErrorKind::Interrupted.into()), Err(kind.into())].into_iter();
        let mut read = |_: &mut [u8]| results.next().unwrap();
        let filled = chain.append_from(&pool, Owner::Application, 9, 200, &mut read);
        assert_eq!((filled.len, filled.ended, filled.error.is_some()), (64, false, is_error));
        assert_eq!(
            (bytes(&chain), pool.free_count(), pool.free_entry_count()),
            (vec![0; 64], 2, 4)
        );
    }
}

#[test]
fn a_source_that_misreports_or_ends_or_panics_changes_nothing_else() {
    let pool = pool(2);
    pool.chain_of(&[7; 128], Owner::Application).unwrap();
    let mut chain = Chain::new();
    let mut results = [Ok(1000), Ok(9), Ok(0)].into_iter();
    let mut read = |target: &mut [u8]| {
        assert!(target.iter().all(|byte| *byte == 0), "old bytes are shown");
        results.next().unwrap_or_else(|| std::panic::resume_unwind(Box::new("planned")))
    };
    let filled = chain.append_from(&pool, Owner::Application, 9, 99, &mut read);
    assert_eq!((filled.len, filled.ended, bytes(&chain)), (73, true, vec![0; 73]));
    for sent in [0, 9, 64] {
        chain.advance(sent);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            chain.append_from(&pool, Owner::Application, 9, 99, &mut read)
        }));
        assert!(caught.is_err());
        assert_eq!(bytes(&chain).len(), chain.len());
        assert_eq!(pool.free_count() + chain.buffers(), 2);
    }
    assert!(chain.is_empty());
}

#[test]
#[should_panic(expected = "another pool's table")]
fn a_source_is_not_read_into_another_pools_buffers() {
    let mut chain = pool(1).chain_of(b"x", Owner::Application).unwrap();
    chain.append_from(&pool(1), Owner::Application, 1, 1, &mut |_| Ok(1));
}

/// The address of each buffer's bytes.
fn addresses(chain: &Chain) -> Vec<*const u8> {
    chain.slices().map(<[u8]>::as_ptr).collect()
}

#[test]
fn full_buffers_move_themselves_and_a_part_is_copied() {
    let pool = pool(6);
    let all: Vec<u8> = (0..=255).collect();
    let mut from = pool.chain_of(&all[..200], Owner::Application).unwrap();
    let before = addresses(&from);
    let mut to = Chain::new();
    assert_eq!(from.move_front(&pool, &mut to, 150, Owner::SendQueue, 9), 150);
    assert_eq!((bytes(&to), bytes(&from)), (all[..150].to_vec(), all[150..200].to_vec()));
    assert_eq!((addresses(&to)[..2].to_vec(), to.buffers()), (before[..2].to_vec(), 3));
    assert_eq!((pool.ledger().send_queue, pool.ledger().application, pool.free_count()), (3, 2, 1));
    // The third buffer's other 42 bytes are more than half a buffer and move; the fourth's 8 bytes
    // are copied after them.
    assert_eq!(from.move_front(&pool, &mut to, usize::MAX, Owner::SendQueue, 1), 50);
    assert_eq!((bytes(&to), to.buffers(), pool.free_count()), (all[..200].to_vec(), 4, 2));
    assert_eq!((from.len(), from.entry_count(), pool.ledger().application), (0, 0, 0));
}

#[test]
fn moving_stops_at_the_limit_of_buffers_and_at_an_empty_pool() {
    let pool = pool(4);
    let all: Vec<u8> = (0..=255).collect();
    let mut from = pool.chain_of(&all[..190], Owner::Application).unwrap();
    let mut to = pool.chain_of(&[7; 60], Owner::SendQueue).unwrap();
    // As many bytes as fit after the 60 are copied, because `buffers_max` is 0.
    assert_eq!(from.move_front(&pool, &mut to, 100, Owner::SendQueue, 0), 4);
    assert_eq!(from.move_front(&pool, &mut to, 100, Owner::SendQueue, 0), 0);
    // The pool is empty: the partly consumed buffer moves, and no byte of the next can.
    assert_eq!(from.move_front(&pool, &mut to, 80, Owner::SendQueue, 9), 64);
    assert_eq!((from.len(), to.len(), to.spare_capacity()), (122, 128, 0));
    assert_eq!(bytes(&to)[60..], all[..68]);
    assert_eq!(from.move_front(&pool, &mut to, 9, Owner::SendQueue, 9), 0);
    assert_eq!(from.move_front(&pool, &mut to, 999, Owner::SendQueue, 1), 64);
    assert_eq!(from.move_front(&pool, &mut to, 999, Owner::SendQueue, 1), 58);
    assert_eq!(bytes(&to)[60..], all[..190]);
    assert_eq!(from.move_front(&pool, &mut to, 999, Owner::SendQueue, 1), 0);
}

#[test]
fn large_buffers_move_themselves_and_are_copied_when_scarce() {
    let config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(8) };
    let config = PoolConfig { large_buffers: 4, large_size_bytes: 256, ..config };
    for (held, moves) in [(0, true), (2, true), (3, false)] {
        let pool = BufferPool::new(config).unwrap();
        let mut buffer = pool.acquire_large(Owner::Application).unwrap();
        let data: Vec<u8> = (0..200).collect();
        buffer.append(&data);
        let held: Vec<_> = (0..held).map(|_| pool.acquire_large(Owner::Application)).collect();
        let (mut from, mut to) = (Chain::new(), Chain::new());
        from.push(&pool, buffer).unwrap();
        assert_eq!(from.move_front(&pool, &mut to, usize::MAX, Owner::SendQueue, 8), 200);
        assert_eq!((bytes(&to), to.ends_in_large(&pool)), (data, moves), "{held:?}");
        assert_eq!(pool.free_count(), if moves { 8 } else { 4 });
    }
}

#[test]
fn small_buffers_that_move_are_packed() {
    let pool = pool(8);
    let mut from = Chain::new();
    for number in 0..7 {
        let mut buffer = pool.acquire(Owner::Application).unwrap();
        buffer.append(&[number; 20]);
        from.push(&pool, buffer).unwrap();
    }
    let (expected, mut to) = (bytes(&from), Chain::new());
    assert_eq!(from.move_front(&pool, &mut to, 999, Owner::SendQueue, 9), 140);
    assert_eq!((bytes(&to), to.buffers(), pool.free_count()), (expected, 3, 5));
}

#[test]
fn a_message_moves_whole_and_is_copied_in_part() {
    let (messages, pool) = (messages(4), pool(4));
    let all: Vec<u8> = (0..=255).collect();
    let mut from = Chain::new();
    from.push_message(&pool, messages.message_of(&all[..100]).unwrap()).unwrap();
    from.push_message(&pool, messages.message_of(&all[100..164]).unwrap()).unwrap();
    let mut to = Chain::new();
    assert_eq!(from.move_front(&pool, &mut to, 130, Owner::SendQueue, 0), 100);
    assert_eq!((to.messages(), to.buffers(), from.messages()), (1, 0, 1));
    assert_eq!(from.move_front(&pool, &mut to, 30, Owner::SendQueue, 1), 30);
    assert_eq!((to.messages(), to.buffers(), from.messages(), to.len()), (1, 1, 1, 130));
    assert_eq!(from.move_front(&pool, &mut to, 999, Owner::SendQueue, 9), 34);
    assert_eq!((bytes(&to), from.messages(), messages.free_count()), (all[..164].to_vec(), 0, 2));
    assert_eq!((to.buffers(), pool.ledger().send_queue), (1, 1));
}

#[test]
fn the_bytes_can_be_read_from_any_position() {
    let (messages, pool) = (messages(5), pool(4));
    let all: Vec<u8> = (0..=255).collect();
    let mut chain = pool.chain_of(&all[..70], Owner::SendQueue).unwrap();
    chain.push_message(&pool, messages.message_of(&all[70..200]).unwrap()).unwrap();
    chain.append(&pool, &all[200..], Owner::SendQueue, 9).unwrap();
    for sent in [0, 3, 64, 80, 130, 140, 199, 201] {
        chain.advance(sent + chain.len() - 256);
        for at in 0..=chain.len() + 1 {
            let found = chain.slices_from(at).collect::<Vec<_>>();
            assert_eq!(found.concat(), all[(sent + at).min(256)..], "{sent} sent, from {at}");
            assert!(found.iter().all(|slice| !slice.is_empty()), "{sent} sent, from {at}");
        }
    }
    assert_eq!(Chain::new().slices_from(0).count(), 0);
}

#[test]
fn advance_drops_whole_buffers_and_skips_parts() {
    let pool = pool(3);
    let all: Vec<u8> = (0..150).collect();
    let mut chain = pool.chain_of(&all, Owner::SendQueue).unwrap();
    chain.advance(10);
    assert_eq!((bytes(&chain), pool.free_count()), (all[10..].to_vec(), 0));
    chain.advance(60);
    assert_eq!((bytes(&chain), pool.free_count()), (all[70..].to_vec(), 1));
    chain.advance(80);
    assert!(chain.is_empty());
    assert_eq!(pool.free_count(), 3);
}

#[test]
fn the_front_of_a_chain_can_be_taken_off_at_a_buffer() {
    let pool = pool(3);
    let all: Vec<u8> = (0..150).collect();
    let mut chain = pool.chain_of(&all, Owner::SendQueue).unwrap();
    chain.advance(10);
    let mut front = chain.take_front(60);
    assert_eq!((bytes(&front), bytes(&chain)), (all[10..64].to_vec(), all[64..].to_vec()));
    front.advance(54);
    front.append_chain(chain.take_front(1));
    assert_eq!((bytes(&front), bytes(&chain)), (all[64..128].to_vec(), all[128..].to_vec()));
    assert_eq!(bytes(&chain.take_front(1000)), all[128..]);
    assert!(chain.is_empty() && chain.take_front(1).is_empty());
    drop(front);
    assert_eq!((pool.free_count(), pool.free_entry_count()), (3, 5));
}

#[test]
fn chains_of_one_table_join_without_a_copy() {
    let pool = pool(4);
    let mut sent = pool.chain_of(&[1; 70], Owner::SendQueue).unwrap();
    sent.advance(66);
    sent.append_chain(pool.chain_of(&[2; 70], Owner::SendQueue).unwrap());
    assert_eq!(bytes(&sent), [[1; 4].as_slice(), [2; 70].as_slice()].concat());
    assert_eq!(sent.buffers(), 3);
}

#[test]
fn a_message_of_any_length_takes_one_entry_in_each_chain() {
    let (messages, pool) = (messages(4), pool(2));
    let news = messages.message_of(&[7; 200]).unwrap();
    let mut queue = pool.chain_of(b"old ", Owner::SendQueue).unwrap();
    queue.push_message(&pool, news.clone()).unwrap();
    let mut empty_queue = Chain::new();
    empty_queue.push_message(&pool, news.clone()).unwrap();
    assert_eq!(
        (queue.len(), queue.buffers(), queue.messages(), queue.entry_count()),
        (204, 1, 1, 2)
    );
    assert_eq!((empty_queue.slices().count(), empty_queue.front().len()), (4, 64));
    assert_eq!((messages.free_count(), pool.free_count(), pool.free_entry_count()), (0, 1, 1));
    // A message is immutable: bytes after it are copied to a buffer.
    queue.append(&pool, b"!", Owner::SendQueue, 9).unwrap();
    assert_eq!((queue.spare_capacity(), queue.buffers()), (63, 2));
    let again = empty_queue.push_message(&pool, news).unwrap_err();
    assert_eq!((again.len(), empty_queue.len(), empty_queue.messages()), (200, 200, 1));
    assert_eq!(bytes(&queue), [b"old ".as_slice(), &[7; 200], b"!"].concat());
    drop((queue, empty_queue));
    assert_eq!((messages.free_count(), pool.free_count(), pool.free_entry_count()), (0, 2, 4));
    drop(again);
    assert_eq!(messages.free_count(), 4);
}

#[test]
fn advance_stops_anywhere_in_a_message() {
    let (messages, pool) = (messages(5), pool(1));
    let all: Vec<u8> = (0..=255).collect();
    for step in [1, 7, 63, 64, 65, 129, 255] {
        let mut chain = Chain::new();
        chain.push_message(&pool, messages.message_of(&all).unwrap()).unwrap();
        chain.append(&pool, b"end", Owner::SendQueue, 1).unwrap();
        let expected = [&all[..], b"end"].concat();
        for sent in (0..expected.len()).step_by(step) {
            assert_eq!(bytes(&chain), expected[sent..]);
            let rest = &expected[sent..expected.len().min(sent.next_multiple_of(64).max(sent + 1))];
            assert!(chain.front().starts_with(&rest[..1]));
            assert_eq!(messages.free_count(), if sent < 256 { 1 } else { 5 });
            chain.advance(step.min(expected.len() - sent));
        }
        assert_eq!((chain.front(), chain.slices().count()), (&b""[..], 0));
    }
    assert_eq!((pool.free_count(), pool.free_entry_count()), (1, 3));
}

#[test]
fn a_copy_of_a_message_fills_the_last_buffer_first_and_is_all_or_nothing() {
    let (messages, pool) = (messages(2), pool(5));
    let message = messages.message_of(&(0..100).collect::<Vec<u8>>()).unwrap();
    let blocker = pool.acquire(Owner::Application);
    let mut chain = pool.chain_of(&[7; 60], Owner::SendQueue).unwrap();
    assert_eq!(chain.append_copy_of(&pool, &message, Owner::SendQueue, 1), Err(NoBuffers));
    assert_eq!((chain.len(), pool.free_count()), (60, 3));
    chain.append_copy_of(&pool, &message, Owner::SendQueue, 2).unwrap();
    assert_eq!((bytes(&chain)[60..].to_vec(), chain.buffers()), ((0..100).collect(), 3));
    assert_eq!((chain.messages(), pool.free_count()), (0, 1));
    let two = messages.message_of(b"");
    assert_eq!(two.unwrap_err(), NoBuffers);
    assert_eq!(chain.append_copy_of(&pool, &message, Owner::SendQueue, 9), Err(NoBuffers));
    assert_eq!((chain.len(), pool.free_count()), (160, 1));
    drop(blocker);
}

#[test]
fn truncate_rolls_back_what_was_appended() {
    let (messages, pool) = (messages(2), pool(4));
    let mut chain = pool.chain_of(&[1; 70], Owner::SendQueue).unwrap();
    chain.advance(3);
    let before = bytes(&chain);
    let mark = chain.len();
    chain.append(&pool, &[2; 100], Owner::SendQueue, 9).unwrap();
    chain.push_message(&pool, messages.message_of(&[3; 100]).unwrap()).unwrap();
    chain.append(&pool, &[4; 10], Owner::SendQueue, 9).unwrap();
    chain.truncate(chain.len());
    assert_eq!((chain.len(), chain.entry_count()), (277, 5));
    chain.truncate(mark);
    assert_eq!((bytes(&chain), chain.buffers(), chain.messages()), (before, 2, 0));
    assert_eq!((pool.free_count(), pool.free_entry_count(), messages.free_count()), (2, 4, 2));
    chain.append(&pool, b"goes on", Owner::SendQueue, 0).unwrap();
    assert!(bytes(&chain).ends_with(b"\x01goes on"));
    chain.truncate(0);
    assert_eq!((chain.len(), pool.free_count(), pool.free_entry_count()), (0, 4, 6));
}

#[test]
fn what_is_pushed_packed_takes_no_more_buffers_than_its_bytes_need() {
    let pool = pool(8);
    let mut chain = Chain::new();
    let mut expected = Vec::new();
    for (number, len) in (0_u8..).zip([20, 50, 64, 1, 40, 33, 64]) {
        let mut buffer = pool.acquire(Owner::SendQueue).unwrap();
        buffer.append(&vec![number; len]);
        expected.extend_from_slice(&buffer);
        chain.push_packed(&pool, buffer).unwrap();
        if number == 3 {
            expected.drain(..70);
            chain.advance(70);
        }
        assert_eq!(bytes(&chain), expected);
        // One more because of the first buffer's consumed bytes.
        assert!(chain.buffers() as usize <= expected.len().div_ceil(64) + 1, "{chain:?}");
        assert_eq!(pool.free_count(), 8 - chain.buffers());
    }
}

#[test]
fn the_owner_of_every_buffer_is_marked() {
    let (messages, pool) = (messages(1), pool(3));
    let mut chain = pool.chain_of(&[1; 70], Owner::SendQueue).unwrap();
    chain.push_message(&pool, messages.message_of(b"x").unwrap()).unwrap();
    chain.append(&pool, b"y", Owner::Application, 9).unwrap();
    chain.set_owner(Owner::KernelSend);
    assert_eq!(pool.ledger().kernel_send, 3);
}
