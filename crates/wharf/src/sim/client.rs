//! The clients of a simulation: whatever talks to the server.

use wharf_port::port::Time;
use wharf_port::sim::SimClient;

/// A client. It is called when it may be able to go on, and never waits itself.
pub trait Client {
    /// Goes on as far as it can: reads and writes until both would block.
    ///
    /// Called at once, and again when bytes, an end, a reset or room to write came, or when a
    /// [sleep](Next::Sleep) is over. It may be called for nothing.
    ///
    /// # Errors
    ///
    /// What the server did wrong; that ends the simulation. An *early end* is none by itself, see
    /// [`Next::Cut`].
    fn ready(&mut self, connection: &mut SimClient, now: Time) -> Result<Next, String>;

    /// How many bytes the client lacks of the answers to the first `delivered` bytes that it sent; at
    /// least one if it lacks any. A server that has received those owes them, also when it stops.
    fn lacks(&self, delivered: u64) -> u64 {
        let _ = delivered;
        0
    }

    /// Whether the workload itself has thrown the client out, or has it thrown out if it is slow.
    fn is_kicked(&self) -> bool {
        false
    }

    /// What the client waits for, to be told when it waits for ever.
    fn waits_for(&self) -> String {
        "the server".to_owned()
    }
}

/// What a client wants after it was called.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// To be called when something has come.
    Wait,
    /// To be called at this time at the latest.
    Sleep(Time),
    /// Nothing more: it closes. Bytes that it has not read make a reset of that, as TCP does.
    Close,
    /// Nothing more: it breaks the connection off with a reset.
    Reset,
    /// The connection ended before the client got what it waits for.
    ///
    /// That is a failure, unless this very client has an [`Excuse`](super::Excuse).
    Cut(String),
}
