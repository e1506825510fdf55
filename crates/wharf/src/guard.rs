//! Runs the program's code so that its panic ends no thread.

use crate::vocabulary::error::{Error, Result};
use std::any::Any;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `act` and catches its panic, which the panic hook reports. Returns whether there was none.
pub(crate) fn catch_user_panic(act: impl FnOnce()) -> bool {
    // The drop of the payload could panic again.
    catch_unwind(AssertUnwindSafe(act)).map_err(ManuallyDrop::new).is_ok()
}

/// Calls `make`; a panic becomes an error.
pub(crate) fn call_user<T>(make: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|payload| {
        let payload = ManuallyDrop::new(payload);
        Err(Error::msg(format!("panicked{}", said(&**payload))))
    })
}

/// The text of a panic behind a colon; empty if its payload is no text.
pub(crate) fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.map_or_else(String::new, |text| format!(": {text}"))
}
