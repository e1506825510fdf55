//! Packets from other threads: a bounded queue, and a wake-up that is sent only to a sleeper.

use super::completion::{Completion, Outcome};
use super::operation::Key;
use super::wake::{Wake, WakeState};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// The owner's end: what was posted, and the state of its sleep.
///
/// The queue is the array kind of std's channel: its places are taken when it is made.
pub(crate) struct Inbox<T> {
    packets: Receiver<T>,
    poster: Poster<T>,
}

impl<T: Send> Inbox<T> {
    pub(crate) fn new(capacity: u32, wake: Arc<dyn Wake>) -> Self {
        let (sender, packets) = sync_channel(capacity.max(1) as usize);
        let waker = Waker { state: Arc::new(WakeState::new()), wake };
        let poster = Poster { packets: sender, waker };
        Self { packets, poster }
    }

    pub(crate) fn poster(&self) -> Poster<T> {
        self.poster.clone()
    }

    /// Hands over what was posted, at most `count_max` packets and as far as there is room; says
    /// whether anything was posted since the last call.
    pub(crate) fn take_packets<S>(
        &mut self,
        completions: &mut Vec<Completion<S, T>>,
        count_max: usize,
    ) -> bool {
        if !self.take_notification() {
            return false;
        }
        let room = completions.capacity() - completions.len();
        for _ in 0..room.min(count_max) {
            let Some(packet) = self.take() else { return true };
            completions.push(Completion { key: Key(0), outcome: Outcome::Posted(packet) });
        }
        // Nobody has looked whether there are more.
        self.notify_again();
        true
    }

    /// The next packet. Whoever has seen `None` may [`fall_asleep`](Self::fall_asleep).
    pub(crate) fn take(&mut self) -> Option<T> {
        self.packets.try_recv().ok()
    }

    /// Whether anything was posted since the last call; clears the mark. When it says yes the
    /// owner takes packets until there are none, or calls [`notify_again`](Self::notify_again).
    pub(crate) fn take_notification(&self) -> bool {
        self.poster.waker.state.clear()
    }

    /// Sets the mark again, because packets were left in the queue.
    pub(crate) fn notify_again(&self) {
        self.poster.waker.state.notify();
    }

    /// Announces sleep. `false`: something was posted meanwhile, so the owner must not sleep.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.poster.waker.state.fall_asleep()
    }
}

/// Posts packets to a port from any thread. Cheap to clone.
pub struct Poster<T> {
    packets: SyncSender<T>,
    waker: Waker,
}

/// Ends the sleep of a port's owner, if it sleeps.
#[derive(Clone)]
struct Waker {
    state: Arc<WakeState>,
    wake: Arc<dyn Wake>,
}

impl Waker {
    fn wake(&self) {
        if self.state.notify() {
            self.wake.wake();
        }
    }
}

impl<T: Send> Poster<T> {
    /// Hands `packet` to the port's owner and returns at once.
    ///
    /// # Errors
    ///
    /// [`PostError`] with the packet, if the inbox is full or the port is gone.
    ///
    /// # Cost
    ///
    /// Never blocks, never allocates. A system call only if the owner sleeps and nobody has
    /// woken it yet.
    pub fn post(&self, packet: T) -> Result<(), PostError<T>> {
        self.post_quietly(packet)?;
        self.wake();
        Ok(())
    }

    /// As [`post`](Self::post), but the owner sleeps on, and looks for the packet only after the next
    /// [`wake`](Self::wake): for packets to several ports that are to be seen when all are posted.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    pub fn post_quietly(&self, packet: T) -> Result<(), PostError<T>> {
        self.packets.try_send(packet).map_err(|refused| match refused {
            TrySendError::Full(packet) => PostError::Full(packet),
            TrySendError::Disconnected(packet) => PostError::Closed(packet),
        })
    }

    /// Ends the owner's wait, or its next one, without a packet.
    pub fn wake(&self) {
        self.waker.wake();
    }
}

impl<T> Clone for Poster<T> {
    fn clone(&self) -> Self {
        Self { packets: self.packets.clone(), waker: self.waker.clone() }
    }
}

impl<T> fmt::Debug for Poster<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").field("state", &self.waker.state).finish_non_exhaustive()
    }
}

/// A packet was not posted; it is given back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostError<T> {
    /// The inbox has no place left; the owner is behind.
    Full(T),
    /// The port is gone.
    Closed(T),
}

impl<T> PostError<T> {
    /// The packet.
    pub fn into_packet(self) -> T {
        match self {
            Self::Full(packet) | Self::Closed(packet) => packet,
        }
    }
}

impl<T> fmt::Debug for PostError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}

impl<T> fmt::Display for PostError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the port's inbox is full",
            Self::Closed(_) => "the port is gone",
        })
    }
}

impl<T> std::error::Error for PostError<T> {}
