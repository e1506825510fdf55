//! The server, from callbacks and from any thread: posts, groups, and the bits that others set in a
//! link's slot.

use super::{Group, LinkId, Payload, PostError, WhenSlow};
use crate::sync::Locked;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

/// A server: say whom, then what. `server.link(id).post("hello\n")`.
///
/// The same in a callback (as [`Link::server`](crate::Link::server)) and in any thread. Cheap to
/// clone; dropping it stops nothing.
#[derive(Clone, Debug)]
pub struct Handle {
    posts: Locked<Posts>,
}

/// The requests of handles to the worker.
#[derive(Debug, Default)]
pub(crate) struct Posts {
    pub(crate) inbox: Vec<Post>,
    pub(crate) inbox_max: usize,
    /// Bytes of the longest post: the lower half of an output.
    pub(crate) post_bytes_max: usize,
    pub(crate) buffer_size_bytes: usize,
    pub(crate) buffers_max: usize,
    /// Buffers of the posts' account that are in use.
    pub(crate) buffers_used: Arc<AtomicUsize>,
    pub(crate) bits: BTreeMap<LinkId, Bits>,
    pub(crate) groups: BTreeMap<Group, BTreeSet<LinkId>>,
    pub(crate) ended: BTreeSet<LinkId>,
    /// How long the links have to finish, once the server stops.
    pub(crate) drain: Option<Duration>,
    pub(crate) stats: Stats,
    /// A post of the callback that runs was refused as `Full`.
    pub(crate) refused: bool,
}

/// Whom a post is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    Link(LinkId),
    Group(Group),
    All,
}

/// An entry of the inbox.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) to: To,
    pub(crate) except: Option<LinkId>,
    pub(crate) when_slow: Option<WhenSlow>,
    pub(crate) message: Message,
}

/// What others have asked of a link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bits {
    pub(crate) close: bool,
    pub(crate) abort: bool,
    pub(crate) resume: bool,
}

impl Handle {
    pub(crate) fn new(posts: Posts) -> Self {
        Self { posts: Locked::new(posts) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Posts> {
        self.posts.lock()
    }

    /// One link.
    pub fn link(&self, link: LinkId) -> Recipients<'_> {
        self.to(To::Link(link))
    }

    /// Every open link, when the post is delivered.
    pub fn all(&self) -> Recipients<'_> {
        self.to(To::All)
    }

    /// The members of a group, when the post is delivered.
    pub fn group(&self, group: Group) -> Recipients<'_> {
        self.to(To::Group(group))
    }

    /// Copies a payload into shared buffers once, to be sent many times.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`] if the shared buffers are used up; [`PostError::TooLarge`] if no output could
    /// ever hold it.
    pub fn message(&self, payload: impl Payload) -> Result<Message, PostError> {
        self.lock().message(payload)
    }

    /// Asks the server to stop, and returns at once: [`on_drain`](crate::Handler::on_drain) is called
    /// for each link; what has arrived is handled; links that are open after `drain` are force-closed.
    /// Posts that began before are delivered, later ones are refused.
    pub fn stop(&self, drain: Duration) {
        self.lock().drain.get_or_insert(drain);
    }

    /// Whether the server has been asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.lock().drain.is_some()
    }

    /// Reads all counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.lock().stats
    }

    fn to(&self, to: To) -> Recipients<'_> {
        Recipients { handle: self, to, except: None, when_slow: None }
    }
}

impl Posts {
    fn message(&self, payload: impl Payload) -> Result<Message, PostError> {
        let bytes = payload.bytes().filter(|bytes| bytes.len() <= self.post_bytes_max);
        let bytes = bytes.ok_or(PostError::TooLarge)?;
        let buffer_count = bytes.len().div_ceil(self.buffer_size_bytes);
        if self.buffers_used.load(Ordering::Relaxed) + buffer_count > self.buffers_max {
            return Err(PostError::Full);
        }
        self.buffers_used.fetch_add(buffer_count, Ordering::Relaxed);
        let buffers_used = Arc::clone(&self.buffers_used);
        Ok(Message(Arc::new(SharedBuffers { bytes, buffer_count, buffers_used })))
    }
}

/// Whom something is for. `Copy`: nothing happens before its last method.
///
/// Posts of one thread to one link keep their order. A post to the link whose callback makes it is
/// delivered after all that the callback queues.
#[derive(Clone, Copy)]
#[must_use = "it says whom; `post` or `close` says what"]
pub struct Recipients<'a> {
    handle: &'a Handle,
    to: To,
    except: Option<LinkId>,
    when_slow: Option<WhenSlow>,
}

impl Recipients<'_> {
    /// All of them but one.
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
    /// It fits if the output stays within its high-water mark, half of its limit, and leaves free what
    /// [`ensure`](crate::Output::ensure) asked for. Where it does not fit, or the shared buffers or the
    /// inbox are used up, it is skipped as the policy says, and counted.
    pub fn post(self, payload: impl Payload) {
        if self.try_post(payload).is_err() {
            self.handle.lock().stats.missed += 1;
        }
    }

    /// As [`post`](Self::post), and says whether it was posted. Each link that has no capacity skips
    /// it, and counts.
    ///
    /// # Errors
    ///
    /// - [`PostError::Full`]: shared buffers or the inbox are used up.
    /// - [`PostError::Closed`]: the one link is closed.
    /// - [`PostError::Stopping`]: the server drains.
    /// - [`PostError::TooLarge`]: no output could ever hold it and the grant.
    pub fn try_post(self, payload: impl Payload) -> Result<(), PostError> {
        let mut posts = self.handle.lock();
        if posts.drain.is_some() {
            return Err(PostError::Stopping);
        }
        if matches!(self.to, To::Link(link) if posts.ended.contains(&link)) {
            return Err(PostError::Closed);
        }
        let full = posts.inbox.len() >= posts.inbox_max;
        let message = if full { Err(PostError::Full) } else { posts.message(payload) };
        let message = message.inspect_err(|error| posts.refused |= *error == PostError::Full)?;
        let Self { to, except, when_slow, .. } = self;
        posts.inbox.push(Post { to, except, when_slow, message });
        Ok(())
    }

    /// What `writeln!(server.link(id), …)` calls: [`post`](Self::post).
    pub fn write_fmt(self, text: fmt::Arguments<'_>) {
        self.post(text);
    }

    /// Closes the one link gracefully, with
    /// [`DisconnectReason::Kicked`](crate::DisconnectReason::Kicked), after what this thread posted to
    /// it before. Cannot fail: a bit in the link's slot.
    pub fn close(self) {
        self.set(|bits| bits.close = true);
    }

    /// Closes the one link without sending what is queued. Cannot fail.
    pub fn abort(self) {
        self.set(|bits| bits.abort = true);
    }

    /// Ends the one link's pause and has `on_receive` called for what is unread, paused or not. Cannot
    /// fail.
    pub fn resume(self) {
        self.set(|bits| bits.resume = true);
    }

    fn set(self, set: impl Fn(&mut Bits)) {
        if let To::Link(link) = self.to {
            set(self.handle.lock().bits.entry(link).or_default());
        }
    }
}

impl fmt::Debug for Recipients<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipients").field("to", &self.to).finish_non_exhaustive()
    }
}

/// Bytes in shared buffers: made once, sent often, released with the last clone.
#[derive(Clone, Debug)]
pub struct Message(Arc<SharedBuffers>);

/// Buffers of the posts' account.
#[derive(Debug)]
struct SharedBuffers {
    bytes: Vec<u8>,
    buffer_count: usize,
    buffers_used: Arc<AtomicUsize>,
}

impl Message {
    /// Its length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty one is of no use")]
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    pub(crate) fn share(&self) -> crate::memory::SharedBytes {
        Arc::<SharedBuffers>::clone(&self.0)
    }
}

impl AsRef<[u8]> for SharedBuffers {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for SharedBuffers {
    fn drop(&mut self) {
        self.buffers_used.fetch_sub(self.buffer_count, Ordering::Relaxed);
    }
}

/// All counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Open links.
    pub links: u64,
    /// Posts that links missed, each counted for each link.
    pub missed: u64,
    /// Links that were closed because they held borrowed buffers without progress.
    pub loans_revoked: u64,
}
