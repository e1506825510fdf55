//! Packets from other threads: a bounded queue, and a wake-up that is made only while the owner
//! sleeps.

use super::completion::{Completion, Outcome};
use super::operation::Key;
use super::wake::{Wake, WakeState};
use crate::memory::error::MemoryError;
use crate::memory::table::try_with_capacity;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// The receiving side of the queue, and the owner's wake state.
///
/// The queue is std's bounded channel, which allocates its slots when it is created.
pub(crate) struct Inbox<T> {
    packets: Receiver<T>,
    poster: Poster<T>,
    /// This dequeue appends packets before the sockets' completions.
    packets_first: bool,
}

impl<T: Send> Inbox<T> {
    pub(crate) fn new(capacity: u32, wake: Arc<dyn Wake>) -> Result<Self, MemoryError> {
        let capacity = capacity as usize;
        // The channel takes its slots, a stamp and a packet each, in one allocation that ends the
        // process if it fails. As much is allocated and freed here just before, so that the allocator
        // has it; what remains is that another thread takes it in between.
        drop(try_with_capacity::<(AtomicUsize, MaybeUninit<T>)>("the inbox", capacity)?);
        let (sender, packets) = sync_channel(capacity);
        let waker = Waker { state: Arc::new(WakeState::new()), wake };
        let poster = Poster { packets: sender, waker };
        Ok(Self { packets, poster, packets_first: false })
    }

    pub(crate) fn poster(&self) -> Poster<T> {
        self.poster.clone()
    }

    /// In every other dequeue appends posted packets before the sockets' completions; in each the
    /// back end calls [`take_packets`](Self::take_packets) after them. So neither uses all of the
    /// spare capacity in each dequeue. Returns whether the owner was notified since the last call.
    pub(crate) fn take_packets_first<S>(
        &mut self,
        completions: &mut Vec<Completion<S, T>>,
    ) -> bool {
        self.packets_first = !self.packets_first;
        self.packets_first && self.take_packets(completions)
    }

    /// Appends posted packets to `completions`, up to its capacity; returns whether the owner was
    /// notified since the last call.
    pub(crate) fn take_packets<S>(&mut self, completions: &mut Vec<Completion<S, T>>) -> bool {
        self.take_packets_up_to(completions, usize::MAX)
    }

    /// As [`take_packets`](Self::take_packets), but at most `count_max`.
    pub(crate) fn take_packets_up_to<S>(
        &mut self,
        completions: &mut Vec<Completion<S, T>>,
        count_max: usize,
    ) -> bool {
        if !self.take_notification() {
            return false;
        }
        let spare = completions.capacity() - completions.len();
        for _ in 0..spare.min(count_max) {
            let Some(packet) = self.take() else { return true };
            completions.push(Completion { key: Key(0), outcome: Outcome::Posted(packet) });
        }
        // Packets may be left in the queue.
        self.notify_again();
        true
    }

    /// Lets the next dequeue begin with packets.
    #[cfg(all(test, target_os = "linux", not(loom)))]
    pub(crate) fn packets_first_next(&mut self) {
        self.packets_first = false;
    }

    /// The next packet. After `None` the owner may [`fall_asleep`](Self::fall_asleep).
    pub(crate) fn take(&mut self) -> Option<T> {
        self.packets.try_recv().ok()
    }

    /// Whether the owner was notified since the last call. After `true` the owner takes packets
    /// until there are none, or calls [`notify_again`](Self::notify_again).
    pub(crate) fn take_notification(&self) -> bool {
        self.poster.waker.state.clear()
    }

    /// Restores the notification, because packets may be left in the queue.
    pub(crate) fn notify_again(&self) {
        self.poster.waker.state.notify();
    }

    /// The owner does not sleep any more, or did not. A notification stays.
    #[cfg(target_os = "linux")]
    pub(crate) fn wake_up(&self) {
        if self.take_notification() {
            self.notify_again();
        }
    }

    /// Whether the owner has announced that it sleeps, and was not notified since.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn is_asleep(&self) -> bool {
        self.poster.waker.state.is_asleep()
    }

    /// Announces that the owner will sleep. `false` if it was notified meanwhile: it must not
    /// sleep.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.poster.waker.state.fall_asleep()
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.poster.waker.wake.close();
    }
}

/// Posts packets to a port from any thread. A clone costs three atomic increments.
pub struct Poster<T> {
    packets: SyncSender<T>,
    waker: Waker,
}

/// Notifies a port's owner, and ends its wait if it sleeps.
#[derive(Clone)]
struct Waker {
    state: Arc<WakeState>,
    wake: Arc<dyn Wake>,
}

impl Waker {
    /// Whether the owner slept.
    fn wake(&self) -> bool {
        let slept = self.state.notify();
        if slept {
            self.wake.wake();
        }
        slept
    }
}

impl<T: Send> Poster<T> {
    /// Whether the port's owner sleeps: then the next packet wakes it.
    #[cfg(any(target_os = "linux", all(test, windows)))]
    pub(crate) fn is_owner_asleep(&self) -> bool {
        self.waker.state.is_asleep()
    }

    /// Puts `packet` into the port's inbox and wakes the owner if it sleeps. Does not wait.
    ///
    /// # Errors
    ///
    /// [`PostError`] with the packet, if the inbox is full or the port is gone.
    ///
    /// # Cost
    ///
    /// Never blocks, never allocates. One system call if the owner sleeps and has not been woken
    /// yet, else none.
    pub fn post(&self, packet: T) -> Result<(), PostError<T>> {
        self.post_quietly(packet)?;
        self.wake();
        Ok(())
    }

    /// As [`post`](Self::post), but does not notify the owner, which takes the packet only after
    /// the next [`wake`](Self::wake) or [`post`](Self::post). It is for packets to several ports
    /// that the owners shall take when all are posted.
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

    /// As [`wake`](Self::wake); whether the owner slept.
    #[cfg(target_os = "linux")]
    pub(crate) fn wake_owner(&self) -> bool {
        self.waker.wake()
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

/// A packet was not posted; it is returned.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostError<T> {
    /// The inbox has no free slot.
    Full(T),
    /// The port was dropped.
    Closed(T),
}

impl<T> PostError<T> {
    /// The same refusal of what `map` makes of the packet.
    #[cfg(target_os = "linux")]
    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> PostError<U> {
        match self {
            Self::Full(packet) => PostError::Full(map(packet)),
            Self::Closed(packet) => PostError::Closed(map(packet)),
        }
    }

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
            Self::Closed(_) => "the port was dropped",
        })
    }
}

impl<T> std::error::Error for PostError<T> {}
