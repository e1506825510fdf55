//! A model-based test: a chain and a model of it, under the same random operations.
//!
//! The model is a list of entries: the bytes of each, and whether it is a buffer or a message. Each
//! operation is followed by a comparison of the bytes, the counts and the pools; at the end of each
//! run all buffers and entries must be free.

use super::*;
use crate::memory::message::{MessagePool, MessagePoolConfig};
use crate::memory::pool::PoolConfig;
use std::collections::VecDeque;

const SIZE: usize = 64;

/// A generator of pseudo-random numbers: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    /// Six times in eight below half a buffer, else up to 5 buffers.
    fn len(&mut self) -> usize {
        match self.below(8) {
            0 => self.below(5 * SIZE),
            1 => SIZE * self.below(4),
            _ => self.below(SIZE / 2),
        }
    }
}

struct Tested {
    chain: Chain,
    /// For each entry: whether it is a message, and its unconsumed bytes.
    entries: VecDeque<(bool, Vec<u8>)>,
    /// The last buffer's spare capacity.
    spare_capacity: usize,
}

impl Tested {
    fn new() -> Self {
        Self { chain: Chain::new(), entries: VecDeque::new(), spare_capacity: 0 }
    }

    fn bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|(_, bytes)| bytes).copied().collect()
    }

    fn buffers(&self) -> usize {
        self.entries.iter().filter(|(is_message, _)| !is_message).count()
    }

    fn check(&self, what: &str) {
        let chain = &self.chain;
        let expected = self.bytes();
        let found: Vec<u8> = chain.slices().flatten().copied().collect();
        assert_eq!(found, expected, "{what}");
        assert!(chain.slices().all(|slice| !slice.is_empty()), "{what}");
        assert_eq!(chain.front(), chain.slices().next().unwrap_or_default(), "{what}");
        let counts = [
            chain.len(),
            chain.buffers() as usize,
            chain.messages() as usize,
            chain.spare_capacity(),
        ];
        let messages = self.entries.len() - self.buffers();
        assert_eq!(
            counts,
            [expected.len(), self.buffers(), messages, self.spare_capacity],
            "{what}"
        );
        assert_eq!(chain.is_empty(), expected.is_empty(), "{what}");
        assert_eq!(chain.entry_count() as usize, self.entries.len(), "{what}");
    }

    fn check_from(&self, at: usize, what: &str) {
        let expected = self.bytes().split_off(at.min(self.chain.len()));
        assert_eq!(self.chain.slices_from(at).collect::<Vec<_>>().concat(), expected, "{what}");
        assert!(self.chain.slices_from(at).all(|slice| !slice.is_empty()), "{what}");
    }

    fn appended(&mut self, data: &[u8]) {
        let (here, rest) = data.split_at(data.len().min(self.spare_capacity));
        if let Some((_, last)) = self.entries.back_mut() {
            last.extend(here);
        }
        self.spare_capacity -= here.len();
        for piece in rest.chunks(SIZE) {
            self.pushed(false, piece.to_vec());
        }
    }

    fn pushed(&mut self, is_message: bool, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.spare_capacity = if is_message { 0 } else { SIZE - bytes.len() };
            self.entries.push_back((is_message, bytes));
        }
    }

    fn advance(&mut self, len: usize) {
        self.chain.advance(len);
        let mut rest = len;
        while let Some((_, first)) = self.entries.front_mut()
            && rest > 0
        {
            let taken = rest.min(first.len());
            first.drain(..taken);
            rest -= taken;
            if first.is_empty() {
                self.entries.pop_front();
            }
        }
        if self.entries.is_empty() {
            self.spare_capacity = 0;
        }
    }

    fn truncate(&mut self, len: usize) {
        let is_cut = len < self.chain.len();
        self.chain.truncate(len);
        let mut left = len;
        for (_, bytes) in &mut self.entries {
            bytes.truncate(left);
            left -= bytes.len();
        }
        self.entries.retain(|(_, bytes)| !bytes.is_empty());
        if is_cut {
            self.spare_capacity = self.chain.spare_capacity();
            match self.entries.back() {
                // Consumed bytes of the buffer are not spare capacity.
                Some((false, last)) => assert!(self.spare_capacity <= SIZE - last.len()),
                Some((true, _)) | None => assert_eq!(self.spare_capacity, 0),
            }
        }
    }

    /// Sets the model's entries from the chain.
    fn set_entries(&mut self) {
        let mut bytes = self.chain.slices().flatten().copied();
        self.entries = self
            .chain
            .walk()
            .map(|(_, entry, left)| {
                (matches!(entry, Entry::Message(_)), bytes.by_ref().take(left).collect())
            })
            .collect();
        self.spare_capacity = self.chain.spare_capacity();
    }

    fn take_front(&mut self, len_max: usize) -> Self {
        let chain = self.chain.take_front(len_max);
        let mut front = Self { chain, ..Self::new() };
        let mut len = 0;
        while let Some((_, first)) = self.entries.front()
            && (len == 0 || len + first.len() <= len_max)
        {
            len += first.len();
            front.entries.extend(self.entries.pop_front());
        }
        front.spare_capacity = front.chain.spare_capacity();
        if self.entries.is_empty() {
            self.spare_capacity = 0;
        }
        front
    }
}

/// One run: the pools, the chain under test, and a chain of entries that were removed from its
/// front.
struct Run {
    random: Random,
    pool: BufferPool,
    messages: MessagePool,
    tested: Tested,
    taken: Tested,
    next_byte: u8,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(24) };
        config.shared_entries = 6;
        let messages = MessagePoolConfig { buffers: 30, buffer_size_bytes: 100 };
        Self {
            random: Random(0x9E37_79B9_7F4A_7C15 ^ seed.wrapping_mul(0xBF58_476D_1CE4_E5B9)),
            pool: BufferPool::new(config).unwrap(),
            messages: MessagePool::new(messages).unwrap(),
            tested: Tested::new(),
            taken: Tested::new(),
            next_byte: 0,
        }
    }

    /// One random operation; returns its number.
    fn step(&mut self) -> usize {
        let operation = self.random.below(12);
        match operation {
            0..=2 => self.append(operation),
            3 => self.push(),
            4 | 5 => self.push_message(),
            6 => {
                let len = self.random.len().min(self.tested.chain.len());
                self.tested.advance(len);
            }
            7 => self.take_front(),
            8 => {
                let len = self.random.below(self.tested.chain.len() + 2);
                self.tested.truncate(len);
            }
            9 => self.push_packed(),
            10 => self.append_from(),
            _ => self.move_front(),
        }
        operation
    }

    fn data(&mut self) -> Vec<u8> {
        let first = self.next_byte;
        let data: Vec<u8> =
            (0..=255).cycle().skip(usize::from(first)).take(self.random.len()).collect();
        self.next_byte = data.last().map_or(first, |last| last.wrapping_add(1));
        data
    }

    fn append(&mut self, operation: usize) {
        let data = self.data();
        let buffers_max = self.random.below(12);
        let needed = data.len().saturating_sub(self.tested.spare_capacity).div_ceil(SIZE);
        let free = self.pool.free_count().min(self.pool.free_entry_count()) as usize;
        let fits = needed <= buffers_max.min(free);
        let buffers_max = u32::try_from(buffers_max).unwrap();
        let (chain, owner) = (&mut self.tested.chain, Owner::SendQueue);
        let result = match operation {
            0 | 1 => chain.append(&self.pool, &data, owner, buffers_max),
            _ => {
                let Ok(message) = self.messages.message_of(&data) else { return };
                chain.append_copy_of(&self.pool, &message, owner, buffers_max)
            }
        };
        assert_eq!(result.is_ok(), fits);
        if fits {
            self.tested.appended(&data);
        }
    }

    /// From a source that returns too great a number, gives a byte at a time, or is interrupted,
    /// and at the end of its data would block, fails, ends, or panics.
    fn append_from(&mut self) {
        let data = self.data();
        let [at_end, buffers_max] = [4, 9].map(|limit| self.random.below(limit));
        let (len_max, mut read_len) = (self.random.len(), 0);
        let free = self.pool.free_count() as usize;
        let expected =
            self.tested.spare_capacity.saturating_add(buffers_max.min(free) * SIZE).min(len_max);
        let random = &mut self.random;
        let mut read = |target: &mut [u8]| {
            assert!(!target.is_empty() && target.iter().all(|byte| [0, 0xEE].contains(byte)));
            let rest = &data[read_len..];
            if rest.is_empty() {
                match at_end {
                    0 => return Ok(0),
                    1 => return Err(std::io::ErrorKind::WouldBlock.into()),
                    2 => return Err(std::io::ErrorKind::BrokenPipe.into()),
                    _ => std::panic::resume_unwind(Box::new("planned")),
                }
            }
            let style = random.below(4);
            if style == 0 {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            let len = rest.len().min(if style == 1 { 1 } else { target.len() });
            // The chain must not take bytes after the returned length.
            target.fill(0xEE);
            target[..len].copy_from_slice(&rest[..len]);
            read_len += len;
            Ok(if style == 3 && len == target.len() { usize::MAX } else { len })
        };
        let (chain, pool) = (&mut self.tested.chain, &self.pool);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let buffers_max = u32::try_from(buffers_max).unwrap();
            chain.append_from(pool, Owner::SendQueue, buffers_max, len_max, &mut read)
        }));
        assert_eq!(read_len, data.len().min(expected));
        let is_at_end = data.len() < expected;
        if let Ok(filled) = result {
            assert_eq!((filled.len, filled.ended), (read_len, is_at_end && at_end == 0));
            assert_eq!(filled.error.is_some(), is_at_end && at_end == 2);
        } else {
            assert!(is_at_end && at_end == 3);
        }
        self.tested.appended(&data[..read_len]);
    }

    fn push(&mut self) {
        let data = self.data();
        let Some(mut buffer) = self.pool.acquire(Owner::Application) else { return };
        let len = buffer.append(&data);
        match self.tested.chain.push(&self.pool, buffer) {
            Ok(()) => self.tested.pushed(false, data[..len].to_vec()),
            Err(back) => assert_eq!((&back[..], self.pool.free_entry_count()), (&data[..len], 0)),
        }
    }

    fn push_packed(&mut self) {
        let data = self.data();
        let Some(mut buffer) = self.pool.acquire(Owner::Application) else { return };
        let len = buffer.append(&data);
        self.tested.chain.push_packed(&self.pool, buffer).unwrap();
        self.tested.appended(&data[..len]);
    }

    fn push_message(&mut self) {
        let data = self.data();
        let Ok(message) = self.messages.message_of(&data) else { return };
        match self.tested.chain.push_message(&self.pool, message) {
            Ok(()) => self.tested.pushed(true, data),
            // Messages leave one entry for each buffer.
            Err(back) => {
                assert_eq!(back.len(), data.len());
                assert!(self.pool.free_entry_count() >= self.pool.free_count());
            }
        }
    }

    /// Removes entries from the front, and appends them to those removed before, if that is
    /// allowed, or drops them.
    fn take_front(&mut self) {
        let front = self.tested.take_front(self.random.len());
        front.check("a front");
        if self.taken.chain.is_empty() {
            self.taken = front;
        } else if front.chain.is_empty() || self.random.below(2) == 0 {
            self.taken = Tested::new();
        } else if front.chain.skipped == 0 {
            self.taken.chain.append_chain(front.chain);
            self.taken.entries.extend(front.entries);
            self.taken.spare_capacity = front.spare_capacity;
        }
    }

    /// The model does not predict which entries move and which are copied, only how many buffers
    /// that may take.
    fn move_front(&mut self) {
        let (tested, taken) = (&mut self.tested, &mut self.taken);
        let (mut from, mut to) = (tested.bytes(), taken.bytes());
        let (before, messages_before) = (taken.buffers(), taken.entries.len() - taken.buffers());
        let (len_max, buffers_max) = (self.random.len(), self.random.below(6));
        let limit = u32::try_from(buffers_max).unwrap();
        let moved = tested.chain.move_front(
            &self.pool,
            &mut taken.chain,
            len_max,
            Owner::KernelSend,
            limit,
        );
        to.extend(from.drain(..moved));
        taken.set_entries();
        tested.set_entries();
        assert_eq!((tested.bytes(), taken.bytes()), (from, to));
        let added = taken.buffers() - before;
        assert!(moved <= len_max && added <= buffers_max);
        if moved < len_max && !tested.entries.is_empty() {
            assert!(added == buffers_max || self.pool.free_count() == 0);
            assert_eq!(taken.spare_capacity, 0, "more bytes would have fitted");
        }
        // Of two adjacent buffers (messages end a row of them) at least one is half full.
        let rows = 1 + taken.entries.len() - taken.buffers() - messages_before;
        assert!(added <= 2 * rows + moved.div_ceil(SIZE / 2), "{added} buffers for {moved}");
    }

    fn check(&mut self, what: &str) {
        self.tested.check(what);
        let at = self.random.below(self.tested.chain.len() + 2);
        self.tested.check_from(at, &format!("{what}, from {at}"));
        self.taken.check(what);
        let held = self.tested.buffers() + self.taken.buffers();
        assert_eq!(self.pool.free_count() as usize + held, 24, "{what}");
        let entries = self.tested.entries.len() + self.taken.entries.len();
        assert_eq!(self.pool.free_entry_count() as usize + entries, 30, "{what}");
    }
}

#[test]
fn a_mixed_chain_does_what_a_list_of_byte_strings_does() {
    let (seeds, steps) = if cfg!(miri) { (2, 100) } else { (60, 400) };
    for seed in 1..=seeds {
        let mut run = Run::new(seed);
        for step in 0..steps {
            let operation = run.step();
            run.check(&format!("seed {seed}, step {step}, operation {operation}"));
        }
        let Run { pool, messages, tested, taken, .. } = run;
        drop((tested, taken));
        assert_eq!(
            (pool.free_count(), pool.free_entry_count(), messages.free_count()),
            (24, 30, 30)
        );
    }
}
