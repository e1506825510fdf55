//! The handle of a server, for any thread and any callback.

use crate::acts;
use crate::acts::{Act, tell, tell_of};
use crate::shared::Shared;
use crate::shared::current;
use crate::shared::marks::Mark;
use crate::shared::message::Message;
use crate::shared::payload::Payload;
use crate::shared::service_thread::StalledCallback;
use crate::stats::Stats;
use crate::vocabulary::error::PostError;
use crate::vocabulary::id::{LinkId, LinkKey};
use crate::vocabulary::origin::WorkerId;
use crate::vocabulary::policy::WhenSlow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A handle of a server: name the recipients, then the action, as in `server.link(id).post("hello\n")`.
///
/// Callbacks (by [`Link::server`](crate::Link::server)) and all threads use the same handle. A clone is
/// one reference count; dropping it does not stop the server. A thread takes a clone and the link's id:
///
/// ```
/// # use wharf::{Link, Result};
/// # fn callback(link: &mut Link<'_>) -> Result {
/// let (server, id) = (link.server.clone(), link.id());
/// std::thread::spawn(move || server.link(id).post("done\n"));
/// # Ok(())
/// # }
/// ```
///
/// Start a thread that posts while the server runs in [`Handler::on_start`](crate::Handler::on_start),
/// and end it when [`is_stopping`](Self::is_stopping) returns `true`.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The server has ended: releases its buffers for posts.
    pub(crate) fn end(&self) {
        self.shared.release_post_pools();
    }

    /// Counts a panic of the drop of the handler. The workers are gone, so no other thread writes the
    /// counter.
    pub(crate) fn count_handler_panic(&self) {
        self.shared.shards[0].stats.handler_panics.add(1);
    }

    /// The callbacks that have not returned for
    /// [`Builder::report_callbacks_after`](crate::Builder::report_callbacks_after), by worker.
    #[must_use]
    pub fn stalled(&self) -> Vec<StalledCallback> {
        self.shared.stalled()
    }

    /// One link.
    pub fn link(&self, link: LinkId) -> Recipients<'_> {
        self.recipients(Whom::Link(link.key_in(self.shared.id)))
    }

    /// All links that are open when the post is delivered.
    pub fn all(&self) -> Recipients<'_> {
        self.recipients(Whom::All)
    }

    fn recipients(&self, whom: Whom) -> Recipients<'_> {
        Recipients { shared: &self.shared, whom, except: None, when_slow: None }
    }

    /// Copies a payload into shared buffers, to send it many times.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`] if the buffers for posts are used up; [`PostError::TooLarge`] if the payload
    /// is longer than half of [`Builder::output_bytes`](crate::Builder::output_bytes);
    /// [`PostError::Closed`] if the server has ended.
    pub fn message(&self, payload: impl Payload) -> Result<Message, PostError> {
        self.shared.copy_to_post_pool(&payload).map(|inner| Message { inner })
    }

    /// The ids of the workers, one for each shard.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + use<> {
        // There are at most 256 shards.
        let count = u16::try_from(self.shared.shards.len()).unwrap_or(u16::MAX);
        (0..count).map(|index| WorkerId { index })
    }

    /// Reads all counters.
    ///
    /// # Cost
    ///
    /// Reads every buffer's owner tag: tens of microseconds for 10,000 buffers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Whether [`stop`](Self::stop) was called, or the server stops by itself.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping().is_some()
    }

    /// Stops the server; returns at once. The server stops accepting, calls
    /// [`on_drain`](crate::Handler::on_drain) for each link, handles the input that has arrived,
    /// flushes and closes the links. At the drain timeout it force-closes those that are still open.
    /// Posts from before the call are delivered; later ones fail with [`PostError::Stopping`]. A link
    /// whose last bytes are sent waits at most 2 s for its peer to close.
    ///
    /// A later call can only shorten the timeout. With [`Duration::ZERO`] the links are force-closed at
    /// once.
    pub fn stop(&self, drain: impl Into<Drain>) {
        self.shared.stop(drain.into().timeout);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
enum Whom {
    /// `None`: a link of another server.
    Link(Option<LinkKey>),
    All,
}

/// The recipients of a post or a request. It is `Copy`; only its last method has an effect.
///
/// Posts of one thread to one link keep their order, broadcasts included. A post of a callback to its
/// own link is delivered after what the callback queues. All links get broadcasts in the same order,
/// and a post in response to a broadcast comes after it.
#[derive(Clone, Copy)]
#[must_use = "it says whom; `post` or `close` says what"]
pub struct Recipients<'a> {
    shared: &'a Shared,
    whom: Whom,
    except: Option<LinkId>,
    when_slow: Option<WhenSlow>,
}

impl Recipients<'_> {
    /// Excludes one link. A second call replaces the first.
    pub fn except(self, link: LinkId) -> Self {
        Self { except: Some(link), ..self }
    }

    /// What the server does with this post if it exceeds the capacity of a link, in place of the link's
    /// own policy ([`Output::set_when_slow`](crate::Output::set_when_slow)).
    pub fn when_slow(self, policy: WhenSlow) -> Self {
        Self { when_slow: Some(policy), ..self }
    }

    /// Posts a payload, behind what is queued on each recipient.
    ///
    /// A post must not raise a link's output above its high-water mark, half of its limit, so it never
    /// takes the capacity that the link's own handler was promised. A link for which it does is skipped
    /// or closed, as the policy says. Without free buffers for posts, or with a full inbox, the post is
    /// skipped. A skip is counted in [`Totals::missed`](crate::Totals::missed) and [`Stats::missed`].
    /// So posts are lossy: a peer that reads more slowly than others post to it misses posts, and the
    /// sender is not slowed. A protocol that needs each message acknowledges them, or closes links that
    /// missed one ([`WhenSlow::Disconnect`]).
    ///
    /// A post takes whole buffers for posts, of 512 bytes or an eighth of
    /// [`Builder::buffer_size_bytes`](crate::Builder::buffer_size_bytes) if that is more, until all
    /// recipients have sent it. Each shard has a pool of these buffers, and all other threads share
    /// one; the callbacks of one link can take a quarter of their shard's pool in a turn. With default
    /// settings and two shards, threads can have 1,664 posts of up to 512 bytes unsent, and a callback
    /// can make 416. To post the same bytes to many links, use one [`Message`]; for more posts, raise
    /// [`Builder::buffer_count`](crate::Builder::buffer_count).
    ///
    /// # Cost
    ///
    /// One copy of the bytes into buffers for posts (none for a [`Message`]), and one entry for each
    /// recipient. A recipient with unsent bytes gets a copy of its own in buffers that it borrows, and
    /// shares the message only if it cannot borrow. One system call for each shard that sleeps.
    pub fn post(self, payload: impl Payload) {
        let posted = match self.one() {
            Some(link) => self.post_to(link, &payload),
            None => self.broadcast(&payload, true),
        };
        if matches!(posted, Err(PostError::Full | PostError::TooLarge))
            && let Some(Some(link)) = self.one()
        {
            self.shared.note_missed(link);
        }
    }

    /// As [`post`](Self::post), and returns whether it was posted. With several recipients, links
    /// without capacity skip it and are counted, and the result is `Ok`.
    ///
    /// # Errors
    ///
    /// - [`PostError::Full`]: the capacity of the one link, the buffers for posts or an inbox are used
    ///   up. With several recipients, other shards may have accepted it.
    /// - [`PostError::Closed`]: the one link is closed or closing, or the server has stopped.
    /// - [`PostError::Stopping`]: the server is stopping.
    /// - [`PostError::TooLarge`]: the payload is longer than half of
    ///   [`Builder::output_bytes`](crate::Builder::output_bytes), or its body does not fit its frame.
    pub fn try_post(self, payload: impl Payload) -> Result<(), PostError> {
        let Some(link) = self.one() else { return self.broadcast(&payload, false) };
        self.post_to(link, &payload).inspect_err(|error| {
            if *error == PostError::Full {
                tell(Act::PostRefused);
                current::note_refusal(self.shared.id);
            }
        })
    }

    fn post_to(self, link: Option<LinkKey>, payload: &impl Payload) -> Result<(), PostError> {
        let link = link.filter(|link| self.shared.is_alive(*link)).ok_or(PostError::Closed)?;
        self.check_stopping()?;
        let message = self.shared.copy_to_post_pool(payload)?;
        if message.is_empty() || self.excepted() == Some(link) {
            return Ok(());
        }
        self.shared.post(link, message, self.when_slow)
    }

    /// Posts to all links. `counts`: if no message can be made, count it as missed by all links.
    fn broadcast(self, payload: &impl Payload, counts: bool) -> Result<(), PostError> {
        self.check_stopping()?;
        let message = self.shared.copy_to_post_pool(payload).inspect_err(|error| {
            if counts && matches!(error, PostError::Full | PostError::TooLarge) {
                self.shared.note_all_missed(self.excepted());
            }
        })?;
        if message.is_empty() {
            return Ok(());
        }
        self.shared.broadcast(&message, self.excepted(), self.when_slow)
    }

    fn check_stopping(&self) -> Result<(), PostError> {
        match self.shared.stopping() {
            None => Ok(()),
            Some(_) if self.shared.has_stopped() => Err(PostError::Closed),
            Some(_) => Err(PostError::Stopping),
        }
    }

    /// The one recipient; `None` for all links, `Some(None)` for a link of another server.
    fn one(&self) -> Option<Option<LinkKey>> {
        match self.whom {
            Whom::Link(link) => Some(link),
            Whom::All => None,
        }
    }

    fn excepted(&self) -> Option<LinkKey> {
        self.except?.key_in(self.shared.id)
    }

    /// `writeln!(server.link(id), …)` calls this; as [`post`](Self::post).
    pub fn write_fmt(self, text: fmt::Arguments<'_>) {
        self.post(text);
    }

    /// Closes the recipients gracefully with
    /// [`DisconnectReason::Kicked`](crate::DisconnectReason::Kicked), after what this thread posted to
    /// them before; `on_disconnect` is called as after [`Link::close`](crate::Link::close). It sets a
    /// bit and cannot fail.
    pub fn close(self) {
        self.mark(Mark::CLOSE, Act::Close);
    }

    /// Resets the recipients without sending what is queued, also those that are closing gracefully. It
    /// cannot fail.
    pub fn abort(self) {
        self.mark(Mark::ABORT, Act::Abort);
    }

    /// Ends pauses of the recipients, and has `on_receive` called for unread input. It cannot fail.
    pub fn resume(self) {
        self.mark(Mark::RESUME, Act::Resume);
    }

    fn mark(self, mark: Mark, act: Act) {
        match self.one() {
            Some(link) => {
                if let Some(link) = link.filter(|link| self.excepted() != Some(*link)) {
                    tell_of(acts::Whom::Link(LinkId::new(self.shared.id, link)), act);
                    self.shared.mark(link, mark);
                }
            }
            None => {
                tell_of(acts::Whom::AllBut(self.except), act);
                self.shared.mark_all(self.excepted(), mark);
            }
        }
    }
}

impl fmt::Debug for Recipients<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipients").finish_non_exhaustive()
    }
}

/// The parameters of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drain {
    /// The drain timeout, at which the server force-closes the links that are still open.
    pub timeout: Duration,
}

impl From<Duration> for Drain {
    fn from(timeout: Duration) -> Self {
        Self { timeout }
    }
}
