//! Buffers that are acquired on the pool's thread, filled on another, and then sent.

use super::{Chain, Kept, table_of};
use crate::memory::buffer::Buffer;
use crate::memory::error::NoBuffers;
use crate::memory::ledger::Owner;
use crate::memory::pool::{BufferPool, Entry};
use std::fmt;
use std::mem::ManuallyDrop;

/// Buffers of a [`BufferPool`] that one other thread at a time may fill.
///
/// It is for bytes that another thread writes and the pool's thread sends. The buffers are acquired
/// in advance, so that writing up to [`len_max`](Self::len_max) bytes cannot fail; sending them
/// copies nothing.
///
/// ```text
///   the pool's thread                                  another thread
///   Parcel::new(&pool, owner, len_max) ──────────────► write, write, ...
///   into_chain(&pool) ◄─────────────────────────────── returns the parcel
///        └► Chain
/// ```
///
/// # Return it to the pool's thread
///
/// Only the pool's thread may release buffers, and a parcel does not know on which thread it is
/// dropped. So **dropping a parcel leaks its buffers and their entries**, on any thread: they are
/// never free again, the pool's [ledger](BufferPool::ledger) counts them under their owner, and the
/// pool's memory is never unmapped. Make each parcel a [chain](Self::into_chain), also if its bytes
/// are not needed.
///
/// # Invariants
///
/// INV-PARCEL-1 and INV-PARCEL-2, see the source of the module `memory`.
///
/// # Cost
///
/// Writing uses no lock, no locked instruction and no allocation, and accesses no data that another
/// thread writes. Two chain entries share a cache line, so an entry of the pool's thread may be
/// beside one of the parcel.
///
/// # Examples
///
/// ```
/// use wharf_port::memory::{BufferPool, Owner, Parcel, PoolConfig};
///
/// let pool = BufferPool::new(PoolConfig::new(16))?;
/// let mut parcel = Parcel::new(&pool, Owner::Application, 5000)?;
/// let parcel = std::thread::spawn(move || {
///     parcel.write(b"a reply").expect("it is shorter than 5000 bytes");
///     parcel
/// });
/// let chain = parcel.join().expect("the thread does not panic").into_chain(&pool);
/// assert_eq!(chain.front(), b"a reply");
/// assert_eq!(pool.free_count(), 15);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a parcel that does not become a chain leaks its buffers"]
pub struct Parcel {
    /// The entries, each with a buffer, filled one after the other. Those after `current` are
    /// empty, which no other chain has. Never dropped here.
    chain: ManuallyDrop<Chain>,
    /// The entry that is being filled; unspecified without entries.
    current: u32,
    len_max: usize,
}

const _: () = assert!(size_of::<Parcel>() <= 64);

const _: () = {
    const fn goes_to_other_threads<T: Send>() {}
    goes_to_other_threads::<Parcel>();
};

// SAFETY: all mutable data that a parcel accesses belongs to it alone (INV-PARCEL-1); the other
// data that it reads of the pool never changes, and it does not access the pool's cells
// (INV-PARCEL-2). The pool is not freed meanwhile, because the entries are not released
// (INV-POOL-3). `into_chain` does access the pool's cells, but only on the pool's thread: its
// argument is a `BufferPool` of this pool, which is not `Send`, and nor is a reference to it.
unsafe impl Send for Parcel {}

impl Parcel {
    /// Acquires as many buffers of `pool` as `len_max` bytes need, counted under `owner`, and an
    /// entry for each.
    ///
    /// # Errors
    ///
    /// [`NoBuffers`] if fewer are free; then none is taken.
    ///
    /// # Cost
    ///
    /// About 20 plain instructions for each buffer; allocates nothing.
    pub fn new(pool: &BufferPool, owner: Owner, len_max: usize) -> Result<Self, NoBuffers> {
        let needed = len_max.div_ceil(pool.buffer_size_bytes() as usize);
        if needed > pool.free_count() as usize {
            return Err(NoBuffers);
        }
        // Until it is complete it is a chain, whose drop releases its buffers.
        let mut chain = Chain::new();
        for _ in 0..needed {
            let buffer = pool.acquire(owner).ok_or(NoBuffers)?;
            chain.link(pool, Entry::Buffer(buffer)).map_err(|_| NoBuffers)?;
            chain.buffers += 1;
        }
        Ok(Self { current: chain.head, chain: ManuallyDrop::new(chain), len_max })
    }

    /// Appends a copy of `data`.
    ///
    /// # Errors
    ///
    /// [`NoBuffers`] if that would exceed [`len_max`](Self::len_max) bytes; then nothing is written.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes.
    pub fn write(&mut self, data: &[u8]) -> Result<(), NoBuffers> {
        if data.len() > self.len_max - self.chain.len {
            return Err(NoBuffers);
        }
        let mut rest = data;
        while !rest.is_empty() {
            rest = &rest[self.buffer_mut(self.current).append(rest)..];
            if !rest.is_empty() {
                // The buffer is full, and there is a next one, because together they hold
                // `len_max`.
                self.current = self.behind(self.current);
            }
        }
        self.chain.len += data.len();
        Ok(())
    }

    /// Removes all bytes, so that [`len_max`](Self::len_max) bytes can be written again.
    ///
    /// # Cost
    ///
    /// Walks over the buffers.
    pub fn clear(&mut self) {
        let mut index = self.chain.head;
        for _ in 0..self.chain.entries {
            self.buffer_mut(index).set_len(0);
            index = self.behind(index);
        }
        self.current = self.chain.head;
        self.chain.len = 0;
    }

    /// A chain of the buffers that have bytes, under the same owner; releases the others.
    ///
    /// # Panics
    ///
    /// If the buffers are another pool's; then they are leaked.
    ///
    /// # Cost
    ///
    /// Walks over the buffers; copies nothing.
    #[must_use]
    pub fn into_chain(self, pool: &BufferPool) -> Chain {
        // A parcel without entries has no pool.
        let is_same = self.chain.entries == 0 || self.chain.pool == Some(pool.pointer());
        assert!(is_same, "the parcel's buffers are another pool's");
        let mut chain = ManuallyDrop::into_inner(self.chain);
        let mut filled = Kept::default();
        for (index, entry, len) in chain.walk().take_while(|(_, _, len)| *len > 0) {
            filled.add(index, entry, len);
        }
        drop(chain.split_off(filled));
        chain
    }

    /// Bytes written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chain.len
    }

    /// Whether no bytes were written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chain.len == 0
    }

    /// The most bytes that can be written.
    #[must_use]
    pub fn len_max(&self) -> usize {
        self.len_max
    }

    /// Buffers of the parcel.
    #[must_use]
    pub fn buffers(&self) -> u32 {
        self.chain.buffers
    }

    /// The buffer in one of this parcel's entries.
    fn buffer_mut(&mut self, index: u32) -> &mut Buffer {
        let content = table_of(self.chain.pool).content(index);
        // SAFETY: the entry is this parcel's, and only `&mut self` gives access to it
        // (INV-PARCEL-1).
        let entry = unsafe { &mut *content };
        let Entry::Buffer(buffer) = entry else {
            unreachable!("each entry of a parcel has a buffer")
        };
        buffer
    }

    /// The parcel's next entry; unspecified for the last.
    fn behind(&self, index: u32) -> u32 {
        table_of(self.chain.pool).next(index)
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parcel")
            .field("buffers", &self.buffers())
            .field("len", &self.len())
            .field("len_max", &self.len_max)
            .finish()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::memory::ledger::BufferCounts;
    use crate::memory::pool::PoolConfig;
    use std::sync::mpsc;
    use std::thread;

    fn pool(buffers: u32) -> BufferPool {
        let config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(buffers) };
        BufferPool::new(PoolConfig { shared_entries: 1, ..config }).unwrap()
    }

    fn bytes(chain: &Chain) -> Vec<u8> {
        chain.slices().flatten().copied().collect()
    }

    /// Runs `work` on another thread.
    fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    #[test]
    fn what_another_thread_writes_comes_back_as_a_chain_without_a_copy() {
        let all: Vec<u8> = (0..=255).collect();
        for len in [0, 1, 63, 64, 65, 128, 200, 256] {
            let pool = pool(6);
            let mut parcel = Parcel::new(&pool, Owner::Application, 256).unwrap();
            assert_eq!((parcel.buffers(), parcel.len_max(), parcel.is_empty()), (4, 256, true));
            assert_eq!((pool.free_count(), pool.free_entry_count()), (2, 3));
            let start = parcel.buffer_mut(parcel.current).bytes();
            let parcel = elsewhere(|| {
                all[..len].chunks(50).for_each(|piece| parcel.write(piece).unwrap());
                parcel
            });
            assert_eq!((parcel.len(), pool.ledger().application), (len, 4));
            let mut chain = parcel.into_chain(&pool);
            let buffers = u32::try_from(len.div_ceil(64)).unwrap();
            assert_eq!((bytes(&chain), chain.len()), (all[..len].to_vec(), len));
            assert_eq!(
                (chain.buffers(), chain.entry_count(), pool.free_count()),
                (buffers, buffers, 6 - buffers)
            );
            assert_eq!(pool.free_entry_count(), 7 - buffers);
            assert_eq!(pool.ledger().application, buffers);
            assert!(len == 0 || chain.front().as_ptr() == start.as_ptr());
            chain.append(&pool, b"more", Owner::SendQueue, 1).unwrap();
            assert_eq!(bytes(&chain), [&all[..len], b"more"].concat());
            drop(chain);
            assert_eq!((pool.free_count(), pool.free_entry_count()), (6, 7));
        }
    }

    #[test]
    fn a_parcel_takes_no_more_than_was_promised_and_a_piece_whole_or_not_at_all() {
        let pool = pool(2);
        let mut parcel = Parcel::new(&pool, Owner::Application, 100).unwrap();
        assert_eq!(parcel.write(&[1; 101]), Err(NoBuffers));
        parcel.write(&[1; 64]).unwrap();
        parcel.write(&[]).unwrap();
        assert_eq!((parcel.write(&[2; 37]), parcel.len()), (Err(NoBuffers), 64));
        parcel.clear();
        assert_eq!(parcel.len(), 0);
        parcel.write(&[3; 99]).unwrap();
        parcel.write(&[4; 1]).unwrap();
        assert_eq!((parcel.write(&[5; 1]), parcel.write(&[])), (Err(NoBuffers), Ok(())));
        assert_eq!(bytes(&parcel.into_chain(&pool)), [[3; 99].as_slice(), &[4]].concat());
        let mut parcel = Parcel::new(&pool, Owner::Application, 100).unwrap();
        parcel.write(&[6; 100]).unwrap();
        parcel.clear();
        assert!(parcel.into_chain(&pool).is_empty());
        assert_eq!((pool.free_count(), pool.free_entry_count()), (2, 3));
    }

    #[test]
    fn a_parcel_that_the_pool_has_no_buffers_for_takes_none() {
        let pool = pool(3);
        let held = pool.acquire(Owner::Application);
        assert_eq!(Parcel::new(&pool, Owner::Application, 129).unwrap_err(), NoBuffers);
        assert_eq!(Parcel::new(&pool, Owner::Application, usize::MAX).unwrap_err(), NoBuffers);
        pool.fail_nth_acquire(2);
        assert_eq!(Parcel::new(&pool, Owner::KernelReceive, 128).unwrap_err(), NoBuffers);
        assert_eq!((pool.free_count(), pool.free_entry_count()), (2, 4));
        drop(held);
        let mut none = Parcel::new(&pool, Owner::Application, 0).unwrap();
        assert_eq!(
            (none.buffers(), none.write(b"x"), none.write(b"")),
            (0, Err(NoBuffers), Ok(()))
        );
        none.clear();
        assert!(none.into_chain(&pool).is_empty());
    }

    #[test]
    fn a_parcel_does_not_become_a_chain_of_another_pool() {
        let (pool, other) = (pool(2), pool(2));
        let parcel = Parcel::new(&pool, Owner::Application, 65).unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            drop(parcel.into_chain(&other));
        }));
        let text = *caught.unwrap_err().downcast::<&str>().unwrap();
        assert_eq!(text, "the parcel's buffers are another pool's");
        assert_eq!((pool.free_count(), other.free_count()), (0, 2));
    }

    #[test]
    fn a_parcel_that_is_dropped_leaks_its_buffers_and_keeps_the_pools_memory() {
        let pool = pool(3);
        let view = pool.ledger_view();
        let mut parcel = Parcel::new(&pool, Owner::Application, 100).unwrap();
        elsewhere(move || parcel.write(&[7; 80]).unwrap());
        let chain = pool.chain_of(b"goes on", Owner::SendQueue).unwrap();
        assert_eq!(Parcel::new(&pool, Owner::Application, 1).unwrap_err(), NoBuffers);
        drop((pool, chain));
        assert_eq!(
            view.ledger(),
            BufferCounts { application: 2, free: 1, ..BufferCounts::default() }
        );
        assert!(!view.is_last());
    }

    #[test]
    fn the_last_parcel_that_becomes_a_chain_frees_the_pool() {
        let pool = pool(4);
        let view = pool.ledger_view();
        let [mut one, two] =
            [65, 128].map(|len| Parcel::new(&pool, Owner::Application, len).unwrap());
        one.write(&[1; 65]).unwrap();
        drop(two.into_chain(&pool));
        let chain = one.into_chain(&pool);
        drop(pool);
        assert!(!view.is_last());
        assert_eq!(bytes(&chain), [1; 65]);
        drop(chain);
        assert!(view.is_last());
    }

    #[test]
    fn threads_fill_parcels_while_the_pools_thread_uses_the_pool() {
        let (rounds, threads) = if cfg!(miri) { (3, 2) } else { (300, 3) };
        let pool = pool(24);
        let (to_here, here) = mpsc::channel();
        thread::scope(|scope| {
            let outs: Vec<_> = (0..threads)
                .map(|thread| {
                    let (out, parcels) = mpsc::channel::<(u8, Parcel)>();
                    let to_here = to_here.clone();
                    scope.spawn(move || {
                        for (byte, mut parcel) in parcels {
                            parcel.write(&[0; 100]).unwrap();
                            parcel.clear();
                            while parcel.write(&[byte; 7]).is_ok() {}
                            to_here.send((thread, byte, parcel)).unwrap();
                        }
                    });
                    out
                })
                .collect();
            let send = |thread: usize, byte: u8| {
                let len_max = 100 + usize::from(byte);
                let parcel = Parcel::new(&pool, Owner::Application, len_max).unwrap();
                outs[thread].send((byte, parcel)).unwrap();
            };
            (0..threads).for_each(|thread| send(thread, 0));
            for round in 0..rounds {
                let mut chain = pool.chain_of(&[9; 130], Owner::SendQueue).unwrap();
                let (thread, byte, parcel) = here.recv().unwrap();
                let filled = parcel.into_chain(&pool);
                assert_eq!(filled.len(), (100 + usize::from(byte)) / 7 * 7);
                assert!(filled.slices().flatten().all(|found| *found == byte));
                chain.append_chain(filled);
                chain.advance(150);
                if round + threads < rounds {
                    send(thread, byte.wrapping_add(1));
                }
            }
        });
        assert_eq!((pool.free_count(), pool.free_entry_count()), (24, 25));
    }
}
