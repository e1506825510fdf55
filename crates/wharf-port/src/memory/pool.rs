//! The buffer pool: equal buffers, taken and given back in a few instructions from any thread.

use super::chain::{Chain, NoRoom, Node};
use super::free_list::FreeList;
use super::region::{MemoryError, Region};
use crate::sync::{AtomicU8, AtomicU32, Ordering};
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

/// How large a pool is. All of it is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolConfig {
    /// How many buffers; 1 to 16,777,216.
    pub buffers: u32,
    /// Bytes in each buffer; 64 to 1,048,576.
    pub buffer_size_bytes: u32,
    /// How many more chain entries than buffers: what clones of shared buffers may take up in
    /// queues.
    pub shared_entries: u32,
}

impl PoolConfig {
    /// `buffers` buffers of 2,048 bytes, and as many entries for shared ones.
    #[must_use]
    pub fn new(buffers: u32) -> Self {
        Self { buffers, buffer_size_bytes: 2048, shared_entries: buffers }
    }

    /// Bytes that a pool of this shape takes, tables included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        // A free-list entry is 4 bytes, beside each header and each chain entry.
        let header = size_of::<Header>() as u64 + 4;
        let node = size_of::<Node>() as u64 + 4;
        let buffers = u64::from(self.buffers);
        buffers * (u64::from(self.buffer_size_bytes).next_multiple_of(64) + header)
            + (buffers + u64::from(self.shared_entries)) * node
    }

    /// Buffers start at whole cache lines, so that two of them never share one.
    fn stride_bytes(&self) -> u32 {
        self.buffer_size_bytes.next_multiple_of(64)
    }
}

/// Who holds a buffer now. A leak thus has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Owner {
    /// On the free list.
    Free = 0,
    /// The kernel may write received bytes to it.
    KernelReceive = 1,
    /// The program: a handler reads it or fills it.
    Application = 2,
    /// It waits in a link's send queue.
    SendQueue = 3,
    /// The kernel may read bytes to be sent from it.
    KernelSend = 4,
    /// Several queues or threads share it: a posted message or a broadcast.
    Shared = 5,
}

impl Owner {
    /// The tag of a buffer that is out: it becomes free by being dropped, and not by saying so.
    fn of_one_out(self) -> Self {
        if self == Self::Free { Self::Application } else { self }
    }

    const ALL: [Self; 6] = [
        Self::Free,
        Self::KernelReceive,
        Self::Application,
        Self::SendQueue,
        Self::KernelSend,
        Self::Shared,
    ];
}

/// How many buffers each owner holds. The sum is the pool's capacity, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ledger {
    /// On the free list.
    pub free: u32,
    /// With the kernel, to receive into.
    pub kernel_receive: u32,
    /// With the program.
    pub application: u32,
    /// In send queues.
    pub send_queue: u32,
    /// With the kernel, to send from.
    pub kernel_send: u32,
    /// Posted or broadcast.
    pub shared: u32,
}

impl Ledger {
    /// The sum over all owners.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.free
            + self.kernel_receive
            + self.application
            + self.send_queue
            + self.kernel_send
            + self.shared
    }
}

/// The pool serves another port already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InUse;

/// A fixed set of equal I/O buffers, taken at start and never grown.
///
/// A clone is another handle to the same pool. Buffers are handed out last in, first out. The
/// memory goes back to the system with the last handle, if all buffers are home by then; else it
/// stays mapped until the process ends.
///
/// # Invariants
///
/// INV-POOL-1 to INV-POOL-3, see the source of the module `memory`. In builds with debug
/// assertions a buffer is filled with a pattern when it is released, and the pattern is checked
/// when the buffer is taken again: a late write, by the kernel or by us, is caught there.
///
/// # Cost
///
/// Taking or returning a buffer: two uncontended atomic operations, no lock, no system call.
pub struct BufferPool {
    inner: NonNull<Inner>,
}

pub(super) struct Inner {
    region: Region,
    config: PoolConfig,
    stride_bytes: usize,
    free: FreeList,
    headers: Box<[Header]>,
    pub(super) free_nodes: FreeList,
    pub(super) nodes: Box<[Node]>,
    /// How many [`BufferPool`] handles there are.
    handles: AtomicU32,
    /// 1 while a port sleeps and wants to know of the next buffer that comes home.
    waiting: AtomicU8,
    waiter: OnceLock<Arc<dyn Fn() + Send + Sync>>,
    /// Which take from now on fails, counted from 1; 0 if none does.
    #[cfg(any(test, feature = "sim"))]
    failing_take: AtomicU32,
}

#[derive(Debug)]
struct Header {
    /// How many [`Buffer`]s name this slot; 0 = free.
    references: AtomicU32,
    owner: AtomicU8,
}

// SAFETY: `Inner` is reached through shared references only, and its fields are atomics,
// constants, a region (an address), and nodes, which are touched only by the thread that took
// them from `free_nodes`.
unsafe impl Send for BufferPool {}
// SAFETY: as above.
unsafe impl Sync for BufferPool {}

impl BufferPool {
    /// Takes all memory of a pool of this shape from the system.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the system does not give that much.
    ///
    /// # Panics
    ///
    /// If a figure is outside the range that [`PoolConfig`] states.
    pub fn new(config: PoolConfig) -> Result<Self, MemoryError> {
        assert!((1..=1 << 24).contains(&config.buffers), "buffers: {}", config.buffers);
        let size = config.buffer_size_bytes;
        assert!((64..=1 << 20).contains(&size), "buffer_size_bytes: {size}");
        let stride_bytes = config.stride_bytes() as usize;
        let entries = config.buffers.saturating_add(config.shared_entries);
        let inner = Inner {
            region: Region::new(stride_bytes * config.buffers as usize)?,
            config,
            stride_bytes,
            free: FreeList::full(config.buffers),
            headers: (0..config.buffers).map(|_| Header::free()).collect(),
            free_nodes: FreeList::full(entries),
            nodes: (0..entries).map(|_| Node::empty()).collect(),
            handles: AtomicU32::new(1),
            waiting: AtomicU8::new(0),
            waiter: OnceLock::new(),
            #[cfg(any(test, feature = "sim"))]
            failing_take: AtomicU32::new(0),
        };
        if cfg!(debug_assertions) {
            (0..config.buffers).for_each(|index| inner.poison(index));
        }
        Ok(Self { inner: NonNull::from(Box::leak(Box::new(inner))) })
    }

    /// Takes a buffer, empty and with its bytes unspecified, or `None` if all are out.
    #[must_use]
    pub fn acquire(&self, owner: Owner) -> Option<Buffer> {
        let inner = self.inner();
        #[cfg(any(test, feature = "sim"))]
        if inner.is_take_to_fail() {
            return None;
        }
        let index = inner.free.take()?;
        if cfg!(debug_assertions) {
            inner.check_poison(index);
        }
        let header = &inner.headers[index as usize];
        debug_assert_eq!(header.references.load(Ordering::Relaxed), 0, "buffer {index} was out");
        // Relaxed: the index came by an acquire from the free list, and nobody else has it.
        header.references.store(1, Ordering::Relaxed);
        header.owner.store(owner.of_one_out() as u8, Ordering::Relaxed);
        Some(Buffer { pool: self.inner, index, len: 0 })
    }

    /// Has the take with this number fail, counted from the next one, which is 1; 0 lets all
    /// succeed. Returns the number that was still to come, 0 if it has come: a run for each number
    /// from 1, until one returns another than 0 at its end, has failed every take once.
    #[cfg(any(test, feature = "sim"))]
    #[expect(clippy::must_use_candidate, reason = "whoever begins a run does not care")]
    pub fn fail_take(&self, number: u32) -> u32 {
        self.inner().failing_take.swap(number, Ordering::Relaxed)
    }

    /// How many buffers are free; exact while no other thread takes or returns one.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.inner().free.free()
    }

    /// How many more entries the pool's chains can hold.
    #[must_use]
    pub fn free_entries(&self) -> u32 {
        self.inner().free_nodes.free()
    }

    /// How many buffers there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner().config.buffers
    }

    /// Bytes in each buffer.
    #[must_use]
    pub fn buffer_size_bytes(&self) -> u32 {
        self.inner().config.buffer_size_bytes
    }

    /// Counts the buffers by owner.
    ///
    /// # Cost
    ///
    /// Looks at every buffer's tag: for statistics and tests, not for the message path. While
    /// other threads work, the counts may be a moment apart from each other.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let mut counts = [0_u32; Owner::ALL.len()];
        for header in &self.inner().headers {
            counts[usize::from(header.owner.load(Ordering::Relaxed))] += 1;
        }
        let [free, kernel_receive, application, send_queue, kernel_send, shared] = counts;
        Ledger { free, kernel_receive, application, send_queue, kernel_send, shared }
    }

    /// Fills a new chain with `data`, with `owner` on its buffers.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if buffers or entries are missing; then nothing was taken.
    pub fn chain_of(&self, data: &[u8], owner: Owner) -> Result<Chain, NoRoom> {
        let mut chain = Chain::new();
        chain.append(self, data, owner, u32::MAX)?;
        Ok(chain)
    }

    /// Whether no buffer is free; ordered after [`set_waiting`](Self::set_waiting).
    pub(crate) fn is_empty(&self) -> bool {
        self.inner().free.is_empty()
    }

    /// Names what is to be called, from whichever thread, when a buffer comes home while
    /// [`set_waiting`](Self::set_waiting) is on.
    ///
    /// # Errors
    ///
    /// [`InUse`] if that has been named already: a pool serves one port.
    pub(crate) fn set_waiter(&self, wake: Arc<dyn Fn() + Send + Sync>) -> Result<(), InUse> {
        self.inner().waiter.set(wake).map_err(|_| InUse)
    }

    /// Asks for one wake-up at the next buffer that comes home.
    ///
    /// The caller sets the mark, then looks once more whether the pool is still empty, and only
    /// then sleeps; a return pushes first and looks at the mark after. Both orders are `SeqCst`,
    /// so one of the two always sees the other.
    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.inner().waiting.store(u8::from(waiting), Ordering::SeqCst);
    }

    pub(super) fn inner(&self) -> &Inner {
        // SAFETY: made by `Box::leak` in `new`; freed only by the last handle (INV-POOL-3), and
        // `self` is one.
        unsafe { self.inner.as_ref() }
    }

    pub(super) fn pointer(&self) -> NonNull<Inner> {
        self.inner
    }
}

impl Clone for BufferPool {
    fn clone(&self) -> Self {
        // Relaxed: the clone is made from a handle, so the count cannot be on its way to 0.
        if self.inner().handles.fetch_add(1, Ordering::Relaxed) > u32::MAX / 2 {
            // Only handles that were forgotten get here. A count that wraps would free what is in
            // use, so there is nothing left but to end, as `Arc` does.
            std::process::abort();
        }
        Self { inner: self.inner }
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        // AcqRel: pairs with itself in the other handles' drops.
        if self.inner().handles.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        if self.inner().free.all_home() && self.inner().free_nodes.all_home() {
            // SAFETY: this was the last handle, so nothing can be taken any more; and all that was
            // taken is home, with every thread out of the free lists. Nobody else can reach
            // the pool, which `new` leaked from a box.
            drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
        }
        // Else a buffer is still somewhere, perhaps with the kernel: its memory stays mapped for
        // ever. A leak is a fault that can be counted; a write into freed memory is a disaster.
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("config", &self.inner().config)
            .field("ledger", &self.ledger())
            .finish()
    }
}

impl Header {
    fn free() -> Self {
        Self { references: AtomicU32::new(0), owner: AtomicU8::new(Owner::Free as u8) }
    }
}

impl Inner {
    #[cfg(any(test, feature = "sim"))]
    fn is_take_to_fail(&self) -> bool {
        let number = &self.failing_take;
        // Relaxed: a test aid; the run that uses it has one thread.
        number.load(Ordering::Relaxed) != 0 && number.fetch_sub(1, Ordering::Relaxed) == 1
    }

    fn bytes_of(&self, index: u32) -> NonNull<u8> {
        self.region.at(index as usize * self.stride_bytes)
    }

    fn release(&self, index: u32) {
        if cfg!(debug_assertions) {
            self.poison(index);
        }
        self.headers[index as usize].owner.store(Owner::Free as u8, Ordering::Relaxed);
        self.free.give_back(index, || {
            if self.waiting.load(Ordering::SeqCst) != 0
                && self.waiting.swap(0, Ordering::SeqCst) != 0
                && let Some(wake) = self.waiter.get()
            {
                wake();
            }
        });
    }

    fn poison(&self, index: u32) {
        let bytes = self.bytes_of(index);
        let len = self.config.buffer_size_bytes as usize;
        // SAFETY: the slot lies in the region; it is free and in nobody's hands but ours
        // (INV-POOL-1).
        unsafe { bytes.write_bytes(POISON, len) };
    }

    fn check_poison(&self, index: u32) {
        let len = self.config.buffer_size_bytes as usize;
        // SAFETY: the slot lies in the region, which is initialised memory; it has just been
        // taken, so nobody writes to it (INV-POOL-1) unless the fault that this looks for is there.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes_of(index).as_ptr(), len) };
        let late = bytes.iter().position(|byte| *byte != POISON);
        assert!(late.is_none(), "buffer {index} was written while free, first at byte {late:?}");
    }
}

/// What free buffers are filled with in builds with debug assertions: no valid UTF-8, no zero.
const POISON: u8 = 0xD5;

/// A handle to one buffer of a pool; reading it gives the bytes filled in so far.
///
/// A clone shares the bytes and costs no copy; bytes can be added only through a handle that is
/// the only one. The last handle gives the buffer back, on whichever thread.
pub struct Buffer {
    pool: NonNull<Inner>,
    index: u32,
    len: u32,
}

// SAFETY: the pool is reachable from any thread (see `BufferPool`); the bytes follow INV-POOL-2,
// as in `Arc<[u8]>`.
unsafe impl Send for Buffer {}
// SAFETY: as above; `&Buffer` reads bytes that nobody writes, or clones with an atomic count.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Copies as much of `data` behind the bytes that are there as fits, and says how much.
    ///
    /// Copies nothing if the buffer is shared.
    pub fn append(&mut self, data: &[u8]) -> usize {
        let room = self.room();
        let taken = &data[..data.len().min(room as usize)];
        if taken.is_empty() {
            return 0;
        }
        // SAFETY: `len` ≤ size, so the address lies in this buffer's slot, or at its end when
        // there is no room, which has been excluded.
        let end = unsafe { self.bytes().add(self.len as usize) };
        // SAFETY: `taken.len()` ≤ room left in the slot; `data` is a shared slice and cannot
        // overlap bytes that no handle has shown yet; `room` is positive only if this is the only
        // handle (INV-POOL-2).
        unsafe { end.copy_from_nonoverlapping(NonNull::from(taken).cast(), taken.len()) };
        #[expect(clippy::cast_possible_truncation, reason = "at most `room`, which is a u32")]
        {
            self.len += taken.len() as u32;
        }
        taken.len()
    }

    /// Bytes that can still be appended; 0 if the buffer is shared.
    #[must_use]
    pub fn room(&self) -> u32 {
        if self.is_shared() { 0 } else { self.capacity() - self.len }
    }

    /// Bytes that the buffer can hold.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner().config.buffer_size_bytes
    }

    /// Whether another handle names the same bytes.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        // Acquire pairs with the release in another handle's drop: its reads are over.
        self.header().references.load(Ordering::Acquire) != 1
    }

    /// Marks who holds the buffer now; the mark [`Owner::Shared`] stays until it is free.
    pub fn set_owner(&self, owner: Owner) {
        let tag = &self.header().owner;
        if tag.load(Ordering::Relaxed) != Owner::Shared as u8 {
            tag.store(owner.of_one_out() as u8, Ordering::Relaxed);
        }
    }

    /// The address of the first byte, for a system call.
    pub(crate) fn bytes(&self) -> NonNull<u8> {
        self.inner().bytes_of(self.index)
    }

    /// Says how many bytes the kernel has written from the start.
    ///
    /// All of the slot is initialised memory, so a wrong figure shows old bytes, not undefined
    /// behaviour.
    pub(crate) fn set_len(&mut self, len: u32) {
        assert!(len <= self.capacity(), "{len} bytes in a buffer of {}", self.capacity());
        self.len = len;
    }

    fn header(&self) -> &Header {
        &self.inner().headers[self.index as usize]
    }

    fn inner(&self) -> &Inner {
        // SAFETY: a pool outlives its buffers (INV-POOL-3).
        unsafe { self.pool.as_ref() }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` ≤ size of the slot, which is initialised memory and outlives this handle
        // (INV-POOL-3). Bytes below a handle's `len` are never written while a handle exists:
        // `append` writes behind the `len` of the only handle, and the kernel writes only while a
        // port holds the only handle and shows it to nobody (INV-POOL-2).
        unsafe { std::slice::from_raw_parts(self.bytes().as_ptr(), self.len as usize) }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        // Relaxed: made from a handle, so the count cannot be on its way to 0.
        let before = self.header().references.fetch_add(1, Ordering::Relaxed);
        if before > u32::MAX / 2 {
            std::process::abort(); // As for the pool's handles.
        }
        self.header().owner.store(Owner::Shared as u8, Ordering::Relaxed);
        Self { pool: self.pool, index: self.index, len: self.len }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // AcqRel: pairs with itself in the other handles' drops, so that the bytes are reused only
        // after the last read.
        if self.header().references.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.inner().release(self.index);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("index", &self.index).field("len", &self.len).finish()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn pool(buffers: u32) -> BufferPool {
        BufferPool::new(PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(buffers) }).unwrap()
    }

    #[test]
    fn an_empty_pool_gives_none_and_recovers() {
        let pool = pool(2);
        let a = pool.acquire(Owner::Application).unwrap();
        let b = pool.acquire(Owner::SendQueue).unwrap();
        assert!(pool.acquire(Owner::Application).is_none());
        assert_eq!(pool.ledger(), Ledger { application: 1, send_queue: 1, ..Ledger::default() });
        drop(a);
        assert!(pool.acquire(Owner::Application).is_some());
        drop(b);
        assert_eq!(pool.ledger(), Ledger { free: 2, ..Ledger::default() });
    }

    #[test]
    fn a_shared_buffer_cannot_be_written_and_is_freed_by_its_last_handle() {
        let pool = pool(1);
        let mut one = pool.acquire(Owner::Application).unwrap();
        assert_eq!(one.append(b"hello"), 5);
        let two = one.clone();
        assert_eq!(one.append(b"!"), 0);
        drop(one);
        assert_eq!((&*two, pool.free()), (&b"hello"[..], 0));
        drop(two);
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn append_stops_at_the_size_of_the_buffer() {
        let pool = pool(1);
        let mut buffer = pool.acquire(Owner::Application).unwrap();
        assert_eq!(buffer.append(&[7; 60]), 60);
        assert_eq!(buffer.append(&[8; 60]), 4);
        assert_eq!(buffer.room(), 0);
        assert_eq!(buffer.len(), 64);
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = pool(1);
        let mut buffer = pool.acquire(Owner::Application).unwrap();
        drop(pool);
        assert_eq!(buffer.append(b"still here"), 10);
        assert_eq!(&*buffer, b"still here");
    }

    #[test]
    fn a_write_into_a_free_buffer_is_caught_at_the_next_take() {
        if !cfg!(debug_assertions) {
            println!("skipped, because the pattern is written with debug assertions only");
            return;
        }
        let pool = pool(1);
        let stray = pool.acquire(Owner::Application).unwrap().bytes();
        // SAFETY: the slot has 64 bytes.
        let stray = unsafe { stray.add(9) };
        // SAFETY: the address lies in the pool's mapping, which is alive; that the buffer is free
        // is the very fault that this test plants.
        unsafe { stray.write(1) };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.acquire(Owner::Application)
        }));
        let text = *caught.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains("first at byte Some(9)"), "{text}");
    }

    #[test]
    fn the_take_that_is_named_fails_and_no_other() {
        let pool = pool(3);
        assert_eq!(pool.fail_take(2), 0);
        let first = pool.acquire(Owner::Application);
        assert!(first.is_some());
        assert!(pool.acquire(Owner::Application).is_none());
        assert!(pool.acquire(Owner::Application).is_some());
        assert_eq!((pool.fail_take(5), pool.fail_take(0)), (0, 5));
    }

    #[test]
    fn a_return_wakes_the_waiter_once() {
        let pool = pool(2);
        let calls = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&calls);
        pool.set_waiter(Arc::new(move || {
            seen.fetch_add(1, Ordering::Relaxed);
        }))
        .unwrap();
        pool.set_waiter(Arc::new(|| ())).unwrap_err();
        let (a, b) = (pool.acquire(Owner::Application), pool.acquire(Owner::Application));
        pool.set_waiting(true);
        drop(a);
        drop(b);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
