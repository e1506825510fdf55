//! The handle: what any thread, and any callback, can do with a server.

use crate::acts;
use crate::acts::{Act, tell, tell_of};
use crate::shared::Shared;
use crate::shared::current;
use crate::shared::marks::Mark;
use crate::shared::message::Message;
use crate::shared::payload::Payload;
use crate::stats::Stats;
use crate::vocabulary::error::PostError;
use crate::vocabulary::id::{LinkId, LinkKey};
use crate::vocabulary::origin::WorkerId;
use crate::vocabulary::policy::WhenSlow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A server: say whom, then what. `server.link(id).post("hello\n")`.
///
/// The same in a callback (as [`Link::server`](crate::Link::server)) and in any thread. Cheap to
/// clone; dropping it stops nothing. A thread takes a clone of it and the link's id with it:
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
/// A thread that posts for as long as the server runs is started by
/// [`Handler::on_start`](crate::Handler::on_start), asks [`is_stopping`](Self::is_stopping), and ends
/// when that is so.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// One link.
    pub fn link(&self, link: LinkId) -> Recipients<'_> {
        self.recipients(Whom::Link(link.key_in(self.shared.id)))
    }

    /// Every open link, when the post is delivered.
    pub fn all(&self) -> Recipients<'_> {
        self.recipients(Whom::All)
    }

    fn recipients(&self, whom: Whom) -> Recipients<'_> {
        Recipients { shared: &self.shared, whom, except: None, when_slow: None }
    }

    /// Copies a payload into shared buffers once, to be sent many times.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`] if the shared buffers are used up; [`PostError::TooLarge`] if no output could
    /// ever hold it as a post.
    pub fn message(&self, payload: impl Payload) -> Result<Message, PostError> {
        self.shared.message(&payload).map(|inner| Message { inner })
    }

    /// The workers, of which each shard has one.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + use<> {
        // There are at most 256 shards.
        let count = u16::try_from(self.shared.shards.len()).unwrap_or(u16::MAX);
        (0..count).map(|index| WorkerId { index })
    }

    /// Reads all counters.
    ///
    /// # Cost
    ///
    /// Looks at every buffer's owner tag: some ten microseconds for 10,000 buffers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Whether the server has been asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping().is_some()
    }

    /// Asks the server to stop, and returns at once: it accepts no more;
    /// [`on_drain`](crate::Handler::on_drain) is called for each link; what has arrived is handled; links
    /// that are open after `drain` are force-closed. Posts that began before are delivered, later ones
    /// are refused. A link whose last bytes are sent waits for its peer to close, for 2 s at most.
    ///
    /// A later call can shorten the time; with [`Duration::ZERO`] links are force-closed at once.
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
    /// `None`: a link of another server, which is none here.
    Link(Option<LinkKey>),
    All,
}

/// Whom something is for. `Copy`: nothing happens before its last method.
///
/// Posts of one thread to one link keep their order, broadcasts among them. A post to the link whose
/// callback makes it is delivered after all that the callback queues. Broadcasts reach all links of the
/// server in one order, and what is posted as an answer to one comes after it.
#[derive(Clone, Copy)]
#[must_use = "it says whom; `post` or `close` says what"]
pub struct Recipients<'a> {
    shared: &'a Shared,
    whom: Whom,
    except: Option<LinkId>,
    when_slow: Option<WhenSlow>,
}

impl Recipients<'_> {
    /// All of them but one. A second call replaces the first.
    pub fn except(self, link: LinkId) -> Self {
        Self { except: Some(link), ..self }
    }

    /// What happens to the post where there is no capacity, instead of what the link says
    /// ([`Output::set_when_slow`](crate::Output::set_when_slow)).
    pub fn when_slow(self, policy: WhenSlow) -> Self {
        Self { when_slow: Some(policy), ..self }
    }

    /// Posts a payload to them, after what is queued there. One copy serves all.
    ///
    /// It fits if the output stays within its high-water mark, half of its limit: a post never takes
    /// the capacity that the link's own handler was promised. Where it does not fit, or the shared
    /// buffers or an inbox are used up, it is skipped as the policy says, and counted in
    /// [`Totals::missed`](crate::Totals::missed) and [`Stats::missed`]. So posts are lossy: a peer that
    /// reads, but less fast than others post, misses some, and nothing slows the sender. A protocol
    /// that needs each message acknowledges them, or closes who missed one
    /// ([`WhenSlow::Disconnect`]).
    ///
    /// Each post takes whole buffers of those that are for posts, of 512 bytes or an eighth of
    /// [`Builder::buffer_size_bytes`](crate::Builder::buffer_size_bytes), until all its recipients have
    /// sent it. Of these each shard has a part, and all other threads together have one; the callbacks of
    /// one link can take a quarter of their shard's part in a turn. With default settings and two shards
    /// a thread can have 1,664 short posts out at once, and a callback makes 416. Who has the same for
    /// many links posts one [`Message`]; who has more raises
    /// [`Builder::buffer_count`](crate::Builder::buffer_count).
    ///
    /// # Cost
    ///
    /// One copy of the bytes (of a [`Message`] none), and one entry for each recipient, whatever the
    /// length. A system call only if a shard sleeps.
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

    /// As [`post`](Self::post), and says whether it was posted. For several links, each that has no
    /// capacity skips it, and counts.
    ///
    /// # Errors
    ///
    /// - [`PostError::Full`]: the one link's half for posts, shared buffers or an inbox are used up;
    ///   with several recipients, some may have it.
    /// - [`PostError::Closed`]: the one link is closed, or the server has stopped.
    /// - [`PostError::Stopping`]: the server is stopping.
    /// - [`PostError::TooLarge`]: no output could ever hold it as a post.
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
        let message = self.shared.message(payload)?;
        if message.is_empty() || self.excepted() == Some(link) {
            return Ok(());
        }
        self.shared.post(link, message, self.when_slow)
    }

    /// Posts to all; links that miss it are counted, and if `counts` says so, also where there were no
    /// buffers for it at all.
    fn broadcast(self, payload: &impl Payload, counts: bool) -> Result<(), PostError> {
        self.check_stopping()?;
        let message = self.shared.message(payload).inspect_err(|error| {
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

    /// The one link that is meant, if it is one; `None` in it if it is none of this server's.
    fn one(&self) -> Option<Option<LinkKey>> {
        match self.whom {
            Whom::Link(link) => Some(link),
            Whom::All => None,
        }
    }

    fn excepted(&self) -> Option<LinkKey> {
        self.except?.key_in(self.shared.id)
    }

    /// What `writeln!(server.link(id), …)` calls: [`post`](Self::post).
    pub fn write_fmt(self, text: fmt::Arguments<'_>) {
        self.post(text);
    }

    /// Closes them in good order, with [`DisconnectReason::Kicked`](crate::DisconnectReason::Kicked),
    /// after what this thread posted to them before; `on_disconnect` comes as after
    /// [`Link::close`](crate::Link::close). Cannot fail: a bit in the link's place.
    pub fn close(self) {
        self.mark(Mark::CLOSE, Act::Close);
    }

    /// Closes them at once, without sending what is queued, those that [`close`](Self::close) has
    /// begun to close, too. Cannot fail.
    pub fn abort(self) {
        self.mark(Mark::ABORT, Act::Abort);
    }

    /// Ends their pauses and has `on_receive` called for what is unread, paused or not. Cannot fail.
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

/// How a server stops: how long its links have to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drain {
    /// After this, links that are still open are force-closed.
    pub timeout: Duration,
}

impl From<Duration> for Drain {
    fn from(timeout: Duration) -> Self {
        Self { timeout }
    }
}
