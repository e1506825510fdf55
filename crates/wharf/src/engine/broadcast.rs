//! A broadcast that a shard has, and that is not yet in every inbox.

use crate::vocabulary::id::LinkKey;
use crate::vocabulary::policy::WhenSlow;
use wharf_port::memory::Message;

/// A message for every link.
#[derive(Debug)]
pub(super) struct Broadcast {
    pub(super) message: Message,
    pub(super) except: Option<LinkKey>,
    pub(super) when_slow: Option<WhenSlow>,
    pub(super) number: u64,
}
