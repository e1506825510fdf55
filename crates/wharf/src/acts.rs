//! What handlers and others ask for by the interface, told to a simulation that watches.
//!
//! A simulation's contract keeps a book of its own and trusts nothing that the engine keeps: each
//! method of the interface that asks for something tells it here, before the engine notes it.
//! Without the feature `sim` nothing is told, and the lines are gone.

use crate::vocabulary::id::LinkId;
use std::time::Duration;

/// What was asked for.
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
    /// `Input::take` and its like returned `None`: they want so many bytes, counted from the first
    /// that was unread when the callback began.
    Wants(usize),
    /// `Input::defer` returned a reply, with so many bytes unread behind what it replies to.
    Defers { unread: usize },
    /// `Output::ensure` returned `false` for so many bytes.
    Ensures(usize),
    /// An `on_writable` is owed: `Full`, `send_some`, `read_from`, `notify`.
    Owes,
    /// An `on_writable` is owed because `Recipients::try_post` found others full.
    PostRefused,
    /// `Output::finish`.
    Finish,
    /// `Output::set_limit_bytes` has set this.
    Limit(usize),
    /// `Reply::send` of so many bytes; `Reply::none` is one of 0 bytes.
    Reply(usize),
    /// `Reply::close` with so many bytes.
    ReplyAndClose(usize),
    /// A reply was dropped, or was longer than what was set aside.
    ReplyDropped,
}

/// Of which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// That of the callback that runs.
    Own,
    Link(LinkId),
    AllBut(Option<LinkId>),
}

/// The callback that runs asks for something of its own link.
#[inline]
pub(crate) fn tell(act: Act) {
    tell_of(Whom::Own, act);
}

/// Something is asked for of a link, from wherever.
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

    #[expect(clippy::disallowed_types, reason = "of simulations, where nobody else waits")]
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

    /// The links that the engine closed because they held what others waited for.
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

    /// A simulation of this thread listens while it lives. Two at a time hear each other.
    #[derive(Debug)]
    pub(crate) struct Watch(());

    impl Watch {
        pub(crate) fn new() -> Self {
            WATCHES.set(WATCHES.get() + 1);
            Self(())
        }

        /// What was told since the last time.
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
