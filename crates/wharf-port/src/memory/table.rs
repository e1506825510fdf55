//! Tables that are allocated fallibly, so that a lack of memory is an error and not the end of the
//! process.

use super::error::MemoryError;
use std::io;

/// An empty vector with exactly this capacity, for `what`, which an error names.
///
/// # Errors
///
/// [`MemoryError`] if the allocator has not as much, or the size exceeds what it can have.
pub fn try_with_capacity<T>(what: &'static str, capacity: usize) -> Result<Vec<T>, MemoryError> {
    let mut table = Vec::new();
    match table.try_reserve_exact(capacity) {
        Ok(()) => Ok(table),
        Err(_) => Err(MemoryError {
            what,
            size_bytes: (capacity as u64).saturating_mul(size_of::<T>() as u64),
            source: io::ErrorKind::OutOfMemory.into(),
        }),
    }
}

/// A table of `items`, in one allocation, for `what`, which an error names.
///
/// # Errors
///
/// As [`try_with_capacity`].
pub fn try_table<T>(
    what: &'static str,
    items: impl ExactSizeIterator<Item = T>,
) -> Result<Box<[T]>, MemoryError> {
    let mut table = try_with_capacity(what, items.len())?;
    table.extend(items);
    // Full, so that nothing is allocated again.
    Ok(table.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter::repeat_n;

    #[test]
    fn a_table_that_no_memory_holds_is_an_error_with_its_name_and_size() {
        let most = isize::MAX.unsigned_abs();
        let error = try_with_capacity::<u8>("the test", most).unwrap_err();
        assert_eq!((error.what(), error.size_bytes()), ("the test", most as u64));
        let error = try_table("the test", repeat_n(0_u64, most)).unwrap_err();
        assert_eq!(error.size_bytes(), u64::MAX, "more than a size can say");
        let text = error.to_string();
        assert!(text.contains("bytes for the test: out of memory"), "{text}");
    }

    #[test]
    fn a_table_is_as_large_as_its_items() {
        assert_eq!(*try_table("the test", [1, 2, 3].into_iter()).unwrap(), [1, 2, 3]);
        let table = try_with_capacity::<u64>("the test", 1_000).unwrap();
        assert_eq!((table.len(), table.capacity()), (0, 1_000));
        assert!(try_table("the test", repeat_n((), 0)).unwrap().is_empty());
    }
}
