//! What a port offers beside the contract to be one of several that threads pass to each other.

use super::contract::Port;
use super::error::PortError;

/// A port on which a thread can wait together with other ports.
pub(crate) trait SeatPort: Port {
    /// Prepares a wait outside of [`dequeue`](Port::dequeue): submits what is queued, and announces
    /// that the owner sleeps. `false` if the next dequeue must come first.
    ///
    /// After `true`, until [`end_wait`](Self::end_wait) or the next dequeue, whatever a dequeue
    /// would return at once ends the wait.
    fn prepare_wait(&mut self) -> Result<bool, PortError>;

    /// The wait is over, or there is none: the owner is awake, and a notification of meanwhile
    /// stays.
    fn end_wait(&mut self);
}

/// A port that one thread after the other may own, and whose waits the system can combine.
///
/// # Safety
///
/// A value of the type, with the only handles to its pool and with all buffers and chains of that
/// pool, may move to another thread between two calls: nothing that it contains, and nothing that
/// the kernel has of it, depends on which thread calls.
#[expect(unsafe_code, reason = "code that moves a port relies on it")]
pub(crate) unsafe trait MovablePort: SeatPort {
    /// A descriptor that is readable when something ends a prepared wait.
    fn watch(&self) -> Result<rustix::fd::OwnedFd, super::error::OsError>;
}
