//! Dispatches a completion to its link or its command.

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
            Outcome::Received { buffer, last } => self.received(self.slot_of(key), buffer, last),
            Outcome::Sent { chain, sent, end } => self.sent(self.slot_of(key), chain, sent, end),
            Outcome::ReceiveEnded(end) => self.receive_ended(self.slot_of(key), end),
            Outcome::Closed => self.finish_close(self.slot_of(key)),
            Outcome::Posted(command) => self.handle_command(command),
            outcome => unreachable!("{outcome:?} on a shard's port"),
        }
    }

    /// The slot of a completion's link.
    ///
    /// # Panics
    ///
    /// If there is no such link: a slot is released after `Closed`, the last completion of its socket.
    #[inline]
    fn slot_of(&self, key: Key) -> u32 {
        match LinkKey::from_key(key) {
            Some(link) if self.core.slots.find(link.index(), link.generation()).is_some() => {
                link.index()
            }
            link => unreachable!("a completion for a link that is gone: {link:?}"),
        }
    }

    /// The reason for the end of a link whose operation failed. Logs the error, because the reason
    /// names neither the call nor its code.
    pub(super) fn disconnect_reason(&self, index: u32, error: OsError) -> DisconnectReason {
        let (link, peer) = (self.core.key(index), self.core.slots[index].peer);
        tracing::debug!(%link, %peer, %error, "an operation of a link failed");
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
}
