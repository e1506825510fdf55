//! Opens a link for a connection that the service thread has accepted.

use crate::engine::worker::Worker;
use crate::link::slot::Phase;
use crate::service::Service;
use crate::shared::ShardPort;
use crate::shared::accepted::{Accepted, Connection};
use crate::vocabulary::policy::WhenSlow;
use std::net::SocketAddr;
use wharf_port::port::Socket;

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Opens a link for a connection, for which a slot is reserved.
    pub(super) fn open_link(&mut self, accepted: Accepted<P::Stream>) {
        let shard = usize::from(self.core.shard);
        if self.drain.is_due() {
            self.core.stats().refused_stopping.add(1);
            accepted.refuse("the server is stopping");
            return self.core.shared.release_slot(shard);
        }
        let (peer, listener) = (accepted.peer, accepted.listener);
        let (name, address) = self.core.shared.listener(listener);
        let key = self.core.next_key();
        let socket = match self.port.associate(accepted.into_stream(), key.key()) {
            Ok(socket) => socket,
            Err(refused) => {
                self.core.stats().accept_failures.add(1);
                tracing::debug!(%peer, error = %refused, "the port does not take a connection");
                refused.socket.refuse();
                return self.core.shared.release_slot(shard);
            }
        };
        let local = self.local_address(socket, address);
        let is_proxied = self.core.shared.settings.proxies.contain(peer);
        let phase = if is_proxied { Phase::Header } else { Phase::Open };
        let index = self.core.slots.open(phase, peer, name.0, self.core.now);
        let slot = &mut self.core.slots[index];
        (slot.socket, slot.local) = (Some(socket), local);
        if is_proxied {
            self.await_header(index);
        } else {
            self.connect_link(index);
        }
    }

    /// Makes a link known to other threads and to the handler.
    pub(super) fn connect_link(&mut self, index: u32) {
        let key = self.core.key(index);
        let slot = &self.core.slots[index];
        let disconnects = slot.posts.when_slow == WhenSlow::Disconnect;
        self.core.quotas().open(index, key.generation(), slot.posts.published_capacity);
        self.core.quotas().set_disconnects(index, disconnects);
        self.core.marks().open(index, key.generation());
        self.start_timeout(index);
        let slot = &self.core.slots[index];
        tracing::debug!(link = %key, peer = %slot.peer, listener = slot.listener, "link opened");
        match self.run_on_connect(index) {
            Some(Ok(())) => {
                self.core.slots[index].connected = true;
                self.core.stats().connects.add(1);
                self.apply_result(index, Some(Ok(())));
                self.serve(index);
            }
            refused => {
                self.core.stats().rejects.add(1);
                self.apply_result(index, refused);
            }
        }
        self.update_receiving(index);
    }

    /// The local address: the listener's, or, if that is unspecified, the socket's.
    fn local_address(&mut self, socket: Socket, listener: SocketAddr) -> SocketAddr {
        if listener.ip().is_unspecified() {
            self.port.local_address(socket).unwrap_or(listener)
        } else {
            listener
        }
    }
}
