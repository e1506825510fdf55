//! One mapping of memory, which is made and unmapped as a whole.

use super::error::MemoryError;
use std::io;
use std::ptr::NonNull;

/// Page-aligned, zeroed memory that keeps its address until it is dropped.
///
/// `new` populates all its pages, so that a lack of memory is an error at startup, and not the end of
/// the process later.
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
    /// Maps `size_bytes` (at least 1), and makes all pages present.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn new(size_bytes: u64) -> Result<Self, MemoryError> {
        let what = "buffers";
        let region = Self::reserve(what, size_bytes)?;
        populate(region.base, region.size_bytes).map_err(|source| MemoryError {
            what,
            size_bytes,
            source,
        })?;
        Ok(region)
    }

    /// Maps `size_bytes` (at least 1). A page becomes present at the first access.
    fn reserve(what: &'static str, size_bytes: u64) -> Result<Self, MemoryError> {
        assert!(size_bytes > 0, "every system rejects an empty mapping");
        // On 32 bits a pool can be larger than the address space.
        usize::try_from(size_bytes)
            .map_err(|_| io::ErrorKind::OutOfMemory.into())
            .and_then(|size_bytes| Ok(Self { base: map(size_bytes)?, size_bytes }))
            .map_err(|source| MemoryError { what, size_bytes, source })
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

/// Memory that the process may use and does not: limits and the system's account of promised memory
/// count it, no page is present.
///
/// When it is dropped, as much can be allocated in parts, if no other code takes it.
#[derive(Debug)]
pub struct Reservation(#[expect(dead_code, reason = "is dropped")] Region);

impl Reservation {
    /// Reserves `size_bytes`, at least 1.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn new(size_bytes: u64) -> Result<Self, MemoryError> {
        Region::reserve("all buffers and tables", size_bytes.max(1)).map(Self)
    }
}

#[cfg(unix)]
fn map(size_bytes: usize) -> io::Result<NonNull<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches no
    // memory that exists already (mmap(2)).
    let address = unsafe {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        mmap_anonymous(std::ptr::null_mut(), size_bytes, access, MapFlags::PRIVATE)
    }?;
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))
}

/// Makes the pages of a mapping present. MAP_POPULATE would not report that the system has too few.
#[cfg(unix)]
fn populate(base: NonNull<u8>, size_bytes: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};
        // SAFETY: the pages are of the caller's mapping, and keep their content.
        let done = unsafe { madvise(base.as_ptr().cast(), size_bytes, Advice::LinuxPopulateWrite) };
        // Before Linux 5.14 the call is unknown.
        if done != Err(rustix::io::Errno::INVAL) {
            return Ok(done?);
        }
    }
    touch(base, size_bytes);
    Ok(())
}

/// A committed page becomes resident at the first access.
#[cfg(windows)]
#[expect(clippy::unnecessary_wraps, reason = "as on the other systems")]
fn populate(base: NonNull<u8>, size_bytes: usize) -> io::Result<()> {
    touch(base, size_bytes);
    Ok(())
}

/// Writes to each page of a new mapping.
fn touch(base: NonNull<u8>, size_bytes: usize) {
    for offset in (0..size_bytes).step_by(PAGE_SIZE_BYTES) {
        // SAFETY: the offset lies inside the mapping.
        let page = unsafe { base.add(offset) };
        // SAFETY: the byte is writable memory to which no other code has access yet.
        unsafe { page.write_volatile(0) };
    }
}

#[cfg(unix)]
fn unmap(base: NonNull<u8>, size_bytes: usize) {
    // SAFETY: `base` and `size_bytes` are the whole of one mapping made by `map`; the owner of the
    // region drops it, so no reference to it exists any more (INV-POOL-3).
    let result = unsafe { rustix::mm::munmap(base.as_ptr().cast(), size_bytes) };
    // Not `assert`: if it fails, which it does only for a range that is no mapping, the pages leak,
    // and the program can continue.
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
    NonNull::new(address.cast::<u8>()).ok_or_else(io::Error::last_os_error)
}

#[cfg(windows)]
fn unmap(base: NonNull<u8>, size_bytes: usize) {
    use windows_sys::Win32::System::Memory::{MEM_RELEASE, VirtualFree};
    // SAFETY: `base` is from `VirtualAlloc`, and size 0 with MEM_RELEASE frees that whole
    // allocation (VirtualFree page: dwSize); the owner of the region drops it, so no reference to
    // it exists any more (INV-POOL-3).
    let freed = unsafe { VirtualFree(base.as_ptr().cast(), 0, MEM_RELEASE) };
    // Not `assert`: if it fails, the pages leak, and the program can continue.
    debug_assert!(freed != 0, "VirtualFree of {size_bytes}: {}", io::Error::last_os_error());
}

/// The smallest page of x86-64 and ARM64.
const PAGE_SIZE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_the_system_cannot_give_is_an_error_with_the_size() {
        let error = Region::new(1 << 60).unwrap_err();
        assert_eq!(error.size_bytes(), 1 << 60);
        assert!(error.to_string().contains("1152921504606846976 bytes"), "{error}");
        assert_eq!(Reservation::new(1 << 60).unwrap_err().size_bytes(), 1 << 60);
        drop(Reservation::new(0).unwrap());
    }

    /// The file behind the mapping has no bytes, so the system has no page for it: an access would
    /// end the process.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_page_that_the_system_cannot_give_is_an_error_and_not_the_end_of_the_process() {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let path = std::env::temp_dir().join(format!("wharf-region-{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(std::ptr::null_mut(), 4096, access, flags, &file, 0) }.unwrap();
        let base = NonNull::new(base.cast()).unwrap();
        let error = populate(base, 4096).unwrap_err();
        unmap(base, 4096);
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        // A region has all its pages; a second time nothing is to be done.
        let region = Region::new(1 << 20).unwrap();
        populate(region.at(0), 1 << 20).unwrap();
    }
}
