//! The words that everything else is said in: plain types that know nothing of links, shards or threads.

pub(crate) mod address;
pub(crate) mod back_end;
pub(crate) mod error;
pub(crate) mod id;
pub(crate) mod origin;
pub(crate) mod policy;
pub(crate) mod reason;
pub(crate) mod totals;
