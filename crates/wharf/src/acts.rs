//! Requests through the public interface, reported to a simulation.
//!
//! A simulation keeps records of its own to check the engine: each method of the interface that
//! requests something reports it here, before it changes the engine's state. Without the feature `sim`
//! the reports compile to nothing.

use crate::vocabulary::id::LinkId;
use std::time::Duration;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// `Link::pause`.
    Pause,
    /// `Link::resume`, `Recipients::resume`.
    Resume,
    /// `Link::close`, `Recipients::close`.
    Close,
    /// `Link::abort`, `Recipients::abort`.
    Abort,
    /// `Link::set_idle_timeout`.
    IdleTimeout(Duration),
    /// `Input::take` or a like method returned `None`: it needs so many bytes, counted from the first
    /// that was unread when the callback began.
    Wants(usize),
    /// `Input::defer` returned a reply, with so many bytes unread behind what it replies to.
    Defers { unread: usize },
    /// `Output::ensure` returned `false` for so many bytes.
    Ensures(usize),
    /// An `on_writable` is due, by `Full`, `send_some`, `read_from` or `notify`.
    Owes,
    /// An `on_writable` is due, because `Recipients::try_post` failed with `Full`.
    PostRefused,
    /// `Output::finish`.
    Finish,
    /// `Output::set_limit_bytes` has set this limit.
    Limit(usize),
    /// `Reply::send` of so many bytes; `Reply::none` is one of 0 bytes.
    Reply(usize),
    /// `Reply::close` with so many bytes.
    ReplyAndClose(usize),
    /// A reply was dropped, or was longer than the reserved bytes.
    ReplyDropped,
}

/// The link of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The link of the running callback.
    Own,
    Link(LinkId),
    AllBut(Option<LinkId>),
}

/// Reports a request of the running callback to its own link.
#[inline]
pub(crate) fn tell(act: Act) {
    tell_of(Whom::Own, act);
}

/// Reports a request to a link, from any code.
#[cfg(not(feature = "sim"))]
#[inline]
pub(crate) fn tell_of(_: Whom, _: Act) {}

#[cfg(feature = "sim")]
pub(crate) use told::{Revoked, Watch, tell_of};

#[cfg(feature = "sim")]
mod told {
    use super::{Act, LinkId, Whom};
    use std::cell::{Cell, RefCell};
    use std::sync::PoisonError;

    #[expect(clippy::disallowed_types, reason = "of simulations, where no other thread waits")]
    type Lock<T> = std::sync::Mutex<T>;

    thread_local! {
        static WATCHES: Cell<u32> = const { Cell::new(0) };
        static TOLD: RefCell<Vec<(Whom, Act)>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn tell_of(whom: Whom, act: Act) {
        if WATCHES.get() > 0 {
            TOLD.with_borrow_mut(|told| told.push((whom, act)));
        }
    }

    /// The links that the engine closed to revoke their loans or messages.
    #[derive(Debug, Default)]
    pub(crate) struct Revoked(Lock<Vec<LinkId>>);

    impl Revoked {
        pub(crate) fn note(&self, link: LinkId) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(link);
        }

        pub(crate) fn contains(&self, link: LinkId) -> bool {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&link)
        }
    }

    /// While it lives, requests on this thread are recorded. Two simulations on one thread would record
    /// each other's.
    #[derive(Debug)]
    pub(crate) struct Watch(());

    impl Watch {
        pub(crate) fn new() -> Self {
            WATCHES.set(WATCHES.get() + 1);
            Self(())
        }

        /// Takes the recorded requests.
        #[expect(clippy::unused_self, reason = "only one that listens may ask")]
        pub(crate) fn take(&self) -> Vec<(Whom, Act)> {
            TOLD.take()
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            WATCHES.set(WATCHES.get() - 1);
            if WATCHES.get() == 0 {
                TOLD.take();
            }
        }
    }
}
