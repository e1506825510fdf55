//! Dispatches a completion to its link, its listener or its command.

use crate::engine::worker::Worker;
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::id::LinkKey;
use crate::vocabulary::reason::DisconnectReason;
use std::io::ErrorKind;
use wharf_port::port::{Completion, Key, OsError, Outcome};

impl<P: ShardPort, V: Service> Worker<P, V> {
    pub(super) fn dispatch(&mut self, completion: Completion<P::Stream, P::Packet>) {
        let Completion { key, outcome } = completion;
        match outcome {
            Outcome::Received { buffer, last } => {
                if let Some(index) = self.link_of(key) {
                    self.received(index, buffer, last);
                }
            }
            Outcome::Sent { chain, sent, end } => {
                if let Some(index) = self.link_of(key) {
                    self.sent(index, chain, sent, end);
                }
            }
            Outcome::ReceiveEnded(end) => {
                if let Some(index) = self.link_of(key) {
                    self.receive_ended(index, end);
                }
            }
            Outcome::Closed if LinkKey::from_key(key).is_some() => {
                if let Some(index) = self.link_of(key) {
                    self.finish_close(index);
                }
            }
            Outcome::Posted(command) => self.handle_command(command),
            outcome => self.listener_completed(key, outcome),
        }
    }

    /// The slot of a completion's link.
    #[inline]
    fn link_of(&self, key: Key) -> Option<u32> {
        let link = LinkKey::from_key(key)?;
        let found = self.core.slots.find(link.index(), link.generation()).is_some();
        debug_assert!(found, "a completion for {link}, which is gone");
        found.then(|| link.index())
    }
}

/// The reason for the end of a link whose operation failed.
pub(super) fn disconnect_reason(error: OsError) -> DisconnectReason {
    match error.kind() {
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::TimedOut
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown => DisconnectReason::PeerReset,
        _ => DisconnectReason::SystemError,
    }
}
