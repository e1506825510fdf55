//! Posts and bits, which are applied at the begin of a turn, posts first.

use super::{LinkEnd, Model};
use crate::bug::{ModelBug, planted};
use crate::interface::{Bits, DisconnectReason, Handler, LinkId, Post, To, WhenSlow};

impl<H, S, W> Model<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// Whether there was something.
    pub(super) fn deliver(&mut self) -> bool {
        let posts = std::mem::take(&mut self.server.lock().inbox);
        let drain = self.server.lock().drain;
        if let Some(drain) = drain {
            let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
            self.drain_until_ms.get_or_insert(self.now_ms.saturating_add(drain_ms));
        }
        let mut moved = !posts.is_empty();
        for post in posts {
            for at in self.recipients(&post) {
                self.deliver_to(at, &post);
            }
        }
        let bits: Vec<(LinkId, Bits)> =
            self.server.lock().bits.iter().map(|(link, bits)| (*link, *bits)).collect();
        for (LinkId(at), bits) in bits {
            // While the pool has the link, they wait.
            if self.slots[at].pool_turns == 0 {
                self.server.lock().bits.remove(&LinkId(at));
                self.apply_bits(at, bits);
                moved = true;
            }
        }
        moved
    }

    fn recipients(&self, post: &Post) -> Vec<usize> {
        let posts = self.server.lock();
        let all = 0..self.slots.len();
        let to = all.filter(|at| match post.to {
            To::Link(link) => link == LinkId(*at),
            To::Group(group) => {
                posts.groups.get(&group).is_some_and(|members| members.contains(&LinkId(*at)))
            }
            To::All => true,
        });
        to.filter(|at| post.except != Some(LinkId(*at))).collect()
    }

    fn deliver_to(&mut self, at: usize, post: &Post) {
        let slot = &mut self.slots[at];
        if !slot.is_open() || slot.out.is_over() || slot.out.push_post(post.message.share()) {
            return;
        }
        slot.out.missed += 1;
        slot.facts.totals.missed += 1;
        let policy = post.when_slow.or(slot.out.when_slow).unwrap_or(WhenSlow::Skip);
        self.server.lock().stats.missed += 1;
        if policy == WhenSlow::Disconnect {
            self.close_now(at, DisconnectReason::SlowReader);
        }
    }

    fn apply_bits(&mut self, at: usize, bits: Bits) {
        let slot = &mut self.slots[at];
        if bits.resume {
            slot.wakes |= slot.is_paused || !planted(ModelBug::ResumeNeedsPause);
            slot.is_paused = false;
        }
        if bits.abort {
            self.close_now(at, DisconnectReason::Kicked);
        } else if bits.close && slot.is_open() {
            slot.input.discard();
            slot.end = LinkEnd::Flushing(DisconnectReason::Kicked);
        }
    }
}
