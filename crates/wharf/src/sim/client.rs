//! The clients of a simulation.

use wharf_port::port::Time;
use wharf_port::sim::SimClient;

/// A client. The simulation calls it when it may have something to do; it must not block.
pub trait Client {
    /// Reads and writes until both would block.
    ///
    /// Called after the connect, and again when bytes, the end of the stream, a reset or capacity to
    /// write arrived, or when a [sleep](Next::Sleep) is over. It may be called without a cause.
    ///
    /// # Errors
    ///
    /// What the server did wrong; that ends the simulation. An early end of the connection is no error
    /// by itself: see [`Next::EndedEarly`].
    fn ready(&mut self, connection: &mut SimClient, now: Time) -> Result<Next, String>;

    /// Bytes that the client lacks of the replies to the first `delivered` bytes that it sent; at least
    /// one if it lacks any. A server that has received these bytes must send the replies, also when it
    /// stops.
    fn lacks(&self, delivered: u64) -> u64 {
        let _ = delivered;
        0
    }

    /// Whether the workload has closed the client's link, or may close it if the client is slow.
    fn is_kicked(&self) -> bool {
        false
    }

    /// What the client waits for, for the text of a failure.
    fn waits_for(&self) -> String {
        "the server".to_owned()
    }
}

/// What a client does after a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// It waits for an event of its connection.
    Wait,
    /// It waits for an event, at most until this time.
    Sleep(Time),
    /// It has ended, and closes the connection; with unread bytes that is a reset, as in TCP.
    Close,
    /// It has ended, and resets the connection.
    Reset,
    /// The connection ended before the client got what it waits for.
    ///
    /// That is a failure, unless it has a [cause](super::EarlyEndCause).
    EndedEarly(String),
}
