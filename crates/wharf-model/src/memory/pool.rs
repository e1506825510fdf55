//! A shard's buffers.

use std::cell::Cell;
use std::rc::Rc;

/// A fixed number of equal buffers.
#[derive(Debug)]
pub(crate) struct Pool {
    buffer_size_bytes: usize,
    free_count: Cell<usize>,
}

impl Pool {
    pub(crate) fn new(buffer_size_bytes: usize, buffer_count: usize) -> Rc<Self> {
        Rc::new(Self { buffer_size_bytes, free_count: Cell::new(buffer_count) })
    }

    pub(crate) fn buffer_size_bytes(&self) -> usize {
        self.buffer_size_bytes
    }

    pub(crate) fn free_count(&self) -> usize {
        self.free_count.get()
    }

    /// Takes a buffer.
    ///
    /// # Panics
    ///
    /// If none is free: the accounts have lent one that is not there.
    pub(crate) fn acquire(self: &Rc<Self>) -> Buffer {
        let free = self.free_count.get().checked_sub(1);
        assert!(free.is_some(), "the pool is empty, but the accounts say that it is not");
        self.free_count.set(free.unwrap_or(0));
        let bytes = vec![0; self.buffer_size_bytes].into_boxed_slice();
        Buffer { bytes, begin: 0, end: 0, pool: Rc::clone(self) }
    }
}

/// A buffer, and the part of it that is in use. Its drop releases it.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    begin: usize,
    end: usize,
    pool: Rc<Pool>,
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    /// Bytes that can be written after those in use.
    pub(crate) fn spare_capacity(&self) -> usize {
        self.bytes.len() - self.end
    }

    /// Whether all of it is in use.
    pub(crate) fn is_full(&self) -> bool {
        self.end - self.begin == self.bytes.len()
    }

    /// Copies as much of `data` as fits; returns how many bytes.
    pub(crate) fn fill(&mut self, data: &[u8]) -> usize {
        let len = data.len().min(self.spare_capacity());
        self.bytes[self.end..self.end + len].copy_from_slice(&data[..len]);
        self.end += len;
        len
    }

    pub(crate) fn consume(&mut self, len: usize) {
        self.begin += len;
        assert!(self.begin <= self.end, "consumed more than there is");
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.free_count.set(self.pool.free_count.get() + 1);
    }
}
