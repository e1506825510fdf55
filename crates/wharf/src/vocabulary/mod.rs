//! Plain types that all other modules use; they import nothing from the rest of the crate.

pub(crate) mod address;
pub(crate) mod back_end;
pub(crate) mod error;
pub(crate) mod id;
pub(crate) mod origin;
pub(crate) mod policy;
pub(crate) mod reason;
pub(crate) mod totals;
