//! A handle to one buffer.

use super::ledger::Owner;
use super::pool::{BufferPool, Inner};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

/// The only handle to one buffer of a [`BufferPool`]; it dereferences to the bytes that were
/// written.
///
/// It stays on the thread of its pool. Dropping it releases the buffer.
///
/// ```compile_fail,E0277
/// fn elsewhere<T: Send>() {}
/// elsewhere::<wharf_port::memory::Buffer>();
/// ```
pub struct Buffer {
    pool: NonNull<Inner>,
    index: u32,
    len: u32,
}

const _: () = assert!(size_of::<Option<Buffer>>() == 16);

impl Buffer {
    /// The handle to a buffer that was just acquired.
    #[inline]
    pub(super) fn new(pool: NonNull<Inner>, index: u32) -> Self {
        Self { pool, index, len: 0 }
    }

    /// Appends as much of `data` as fits, and returns how many bytes.
    #[inline]
    pub fn append(&mut self, data: &[u8]) -> usize {
        let taken = &data[..data.len().min(self.spare_capacity() as usize)];
        if taken.is_empty() {
            return 0;
        }
        // SAFETY: `taken` is not empty, so `len` < size, and the address lies in this buffer's
        // slot.
        let end = unsafe { self.bytes().add(self.len as usize) };
        // SAFETY: `taken.len()` ≤ the slot's spare capacity; `data` is a shared slice and cannot
        // overlap bytes of a slot that only `&mut self` gives access to (INV-POOL-1).
        unsafe { end.copy_from_nonoverlapping(NonNull::from(taken).cast(), taken.len()) };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most `spare_capacity`, which is a u32"
        )]
        {
            self.len += taken.len() as u32;
        }
        taken.len()
    }

    /// Lets `read` append at most `len_max` bytes, and returns how many it did; a greater number
    /// than the length of its slice counts as that length. Calls it again on `Interrupted`. With
    /// `zero` the slice is zeroed first.
    pub(super) fn read_from(
        &mut self,
        len_max: usize,
        zero: bool,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let len = len_max.min(self.spare_capacity() as usize);
        // SAFETY: `len` ≤ size, so the address lies in this buffer's slot or at its end.
        let start = unsafe { self.bytes().add(self.len as usize) };
        if zero {
            // SAFETY: `len` ≤ the slot's spare capacity, which only `&mut self` gives access to
            // (INV-POOL-1).
            unsafe { start.write_bytes(0, len) };
        }
        // SAFETY: `len` ≤ the slot's spare capacity; the slot is initialised memory and outlives
        // this handle (INV-POOL-3). Only `&mut self` gives access to it (INV-POOL-1) and is
        // borrowed while `read` runs, and the kernel does not write, because no port holds it
        // (INV-POOL-2).
        let spare = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) };
        loop {
            match read(spare) {
                Ok(claimed) => {
                    let taken = claimed.min(len);
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "at most `spare_capacity`, a u32"
                    )]
                    {
                        self.len += taken as u32;
                    }
                    return Ok(taken);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Spare capacity: bytes that can still be appended.
    #[inline]
    #[must_use]
    pub fn spare_capacity(&self) -> u32 {
        self.capacity() - self.len
    }

    /// Bytes that the buffer can hold.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner().slots.size_bytes()
    }

    /// Whether it is one of the large buffers of `pool`.
    #[inline]
    #[must_use]
    pub fn is_large(&self, pool: &BufferPool) -> bool {
        self.capacity() > pool.buffer_size_bytes()
    }

    /// Whether fewer than an eighth of the buffers of its kind (small or large) are free, or none.
    /// Provided buffers are not free.
    #[inline]
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.inner().free_count() < (self.inner().capacity() / 8).max(1)
    }

    /// Sets the owner under which the pool's ledger counts the buffer. [`Owner::Free`] counts as
    /// [`Owner::Application`].
    #[inline]
    pub fn set_owner(&self, owner: Owner) {
        self.inner().tags.set_out(self.index, owner);
    }

    /// The address of the first byte, for a system call.
    #[inline]
    pub(crate) fn bytes(&self) -> NonNull<u8> {
        self.inner().slots.bytes_of(self.index)
    }

    /// Sets how many bytes are valid, from the start.
    ///
    /// All of the slot is initialised memory, so a wrong number exposes old bytes and is not
    /// undefined behaviour.
    #[inline]
    pub(crate) fn set_len(&mut self, len: u32) {
        assert!(len <= self.capacity(), "{len} bytes in a buffer of {}", self.capacity());
        self.len = len;
    }

    /// Drops the first `len` bytes and moves the others to the start.
    pub(super) fn remove_front(&mut self, len: u32) {
        assert!(len <= self.len, "{len} bytes of {}", self.len);
        if len == 0 {
            return;
        }
        self.len -= len;
        // SAFETY: `len` ≤ the bytes that were there, so the address lies in the slot or at its end.
        let rest = unsafe { self.bytes().add(len as usize) };
        // SAFETY: both ranges lie in the slot, which only `&mut self` gives access to (INV-POOL-1);
        // they may overlap.
        unsafe { rest.copy_to(self.bytes(), self.len as usize) };
    }

    #[inline]
    fn inner(&self) -> &Inner {
        // SAFETY: a pool outlives its buffers (INV-POOL-3). On a parcel's thread this reference
        // reads only `slots`, which has no cell (INV-PARCEL-2).
        unsafe { self.pool.as_ref() }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` ≤ size of the slot, which is initialised memory and outlives this handle
        // (INV-POOL-3). This is the only handle (INV-POOL-1), so nothing writes while it is
        // borrowed: `append` takes `&mut self`, and the kernel writes only while a port holds the
        // handle and gives out no reference to it (INV-POOL-2).
        unsafe { std::slice::from_raw_parts(self.bytes().as_ptr(), self.len as usize) }
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this handle is the only one to the buffer (INV-POOL-1), and it ends here.
        unsafe { Inner::release(self.pool, self.index) };
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("index", &self.index).field("len", &self.len).finish()
    }
}
