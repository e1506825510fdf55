//! One mapping of memory, which is made and unmapped as a whole.

use super::error::MemoryError;
use std::io;
use std::ptr::NonNull;

/// Page-aligned, zeroed memory that keeps its address until it is dropped.
///
/// `new` populates all its pages, so that a lack of memory shows at startup and not later.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    size_bytes: usize,
}

// SAFETY: a region is an address range without thread affinity; the types that hand out its bytes
// decide which thread may access them.
unsafe impl Send for Region {}
// SAFETY: as above; a shared region offers nothing but its address.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `size_bytes` (at least 1).
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn new(size_bytes: usize) -> Result<Self, MemoryError> {
        assert!(size_bytes > 0, "every system rejects an empty mapping");
        match map(size_bytes) {
            Ok(base) => Ok(Self { base, size_bytes }),
            Err(source) => Err(MemoryError { size_bytes, source }),
        }
    }

    /// The address of the byte at `offset`, which lies inside the region.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.size_bytes, "offset {offset} of {}", self.size_bytes);
        // SAFETY: just checked; the mapping is one allocated object of `size_bytes`.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        unmap(self.base, self.size_bytes);
    }
}

#[cfg(unix)]
fn map(size_bytes: usize) -> io::Result<NonNull<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
    // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches no
    // memory that exists already (mmap(2)).
    let address = unsafe {
        mmap_anonymous(std::ptr::null_mut(), size_bytes, ProtFlags::READ | ProtFlags::WRITE, flags)
    }?;
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))
}

#[cfg(unix)]
fn unmap(base: NonNull<u8>, size_bytes: usize) {
    // SAFETY: `base` and `size_bytes` are the whole of one mapping made by `map`; the owner of the
    // region drops it, so no reference to it exists any more (INV-POOL-3).
    let result = unsafe { rustix::mm::munmap(base.as_ptr().cast(), size_bytes) };
    // Only a leak if it fails, and only for a range that is no mapping.
    debug_assert!(result.is_ok(), "munmap: {result:?}");
}

#[cfg(windows)]
fn map(size_bytes: usize) -> io::Result<NonNull<u8>> {
    use windows_sys::Win32::System::Memory::{
        MEM_COMMIT, MEM_RESERVE, PAGE_READWRITE, VirtualAlloc,
    };
    // SAFETY: new pages at an address of the system's choice touch no memory that exists already
    // (VirtualAlloc page: lpAddress).
    let address = unsafe {
        VirtualAlloc(std::ptr::null(), size_bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE)
    };
    let base = NonNull::new(address.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
    // A committed page becomes resident at the first access.
    for offset in (0..size_bytes).step_by(PAGE_SIZE_BYTES) {
        // SAFETY: the offset lies inside the allocation just made.
        let page = unsafe { base.add(offset) };
        // SAFETY: the byte is writable memory (PAGE_READWRITE) to which no other code has access
        // yet.
        unsafe { page.write_volatile(0) };
    }
    Ok(base)
}

#[cfg(windows)]
fn unmap(base: NonNull<u8>, size_bytes: usize) {
    use windows_sys::Win32::System::Memory::{MEM_RELEASE, VirtualFree};
    // SAFETY: `base` is from `VirtualAlloc`, and size 0 with MEM_RELEASE frees that whole
    // allocation (VirtualFree page: dwSize); the owner of the region drops it, so no reference to
    // it exists any more (INV-POOL-3).
    let freed = unsafe { VirtualFree(base.as_ptr().cast(), 0, MEM_RELEASE) };
    // Only a leak if it fails.
    debug_assert!(freed != 0, "VirtualFree of {size_bytes}: {}", io::Error::last_os_error());
}

/// The smallest page of Windows on x86-64 and ARM64.
#[cfg(windows)]
const PAGE_SIZE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_the_system_cannot_give_is_an_error_with_the_size() {
        let error = Region::new(1 << 60).unwrap_err();
        assert_eq!(error.size_bytes(), 1 << 60);
        assert!(error.to_string().contains("1152921504606846976 bytes"), "{error}");
    }
}
