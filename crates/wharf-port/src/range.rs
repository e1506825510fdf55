//! The check of a configured value, whose message names the value and its range.

use std::ops::RangeInclusive;

/// Panics if `value` is not in `range`.
#[track_caller]
pub(crate) fn check(name: &str, value: u32, range: &RangeInclusive<u32>) {
    let (min, max) = (range.start(), range.end());
    assert!(range.contains(&value), "{name} is {value}; it must be {min} to {max}");
}

/// Calls `make`, and returns the message with which it panics.
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) fn refusal<T>(make: impl FnOnce() -> T) -> String {
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(make())));
    let message = made.expect_err("a value out of range is refused");
    *message.downcast::<String>().expect("a message with the value")
}
