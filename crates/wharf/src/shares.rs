//! The division of a shard's buffers: guarantees and loans. All rules about it are in this comment.
//!
//! The start divides the buffers of a shard:
//!
//! ```text
//!   receive buffers +  guarantees  +  surplus  =  the shard's pool
//!   (for the port,     (one buffer of input     (lent to links, for
//!    and one more)      and the grant of         input and output)
//!                       output, for each link)
//! ```
//!
//! 1. Each link is **guaranteed** one buffer of unread input and the *grant* of unsent output, whatever
//!    other links hold. No other link takes these.
//! 2. What a link holds beyond its guarantee is a **loan** from the surplus. Loans of input are limited
//!    to half of the surplus, or to what the longest message needs (plus 3 buffers) if that is more,
//!    and always leave what the longest output needs. So a link that holds a whole message can borrow
//!    the buffers for its reply, and two links do not wait for each other.
//! 3. While loans are not *tight* ([`Shares::is_tight`]), links receive without a request, up to their
//!    input credit, and the received buffers are counted as loans afterwards. These loans must leave
//!    what the longest message needs: otherwise many links could hold parts of messages of which none
//!    can be completed. Before a cancelled receive ends, up to twice the receive buffers can arrive, so
//!    loans become tight when less than that is left, and until all cancelled receives have ended the
//!    port gets only buffers that can be lent. While loans are tight, a link receives one buffer at a
//!    time: the guaranteed one without a request, further ones against a loan. The loan for a message
//!    that a handler waits for is granted whole or not at all; a handler that waits for no message is
//!    lent one buffer at a time.
//! 4. A link whose loan cannot be granted **waits**; loans are granted in the order of the requests. A
//!    link that needs a loan for its reply and holds one of input, which it releases with the reply,
//!    goes to the front. What the first waiter needs is reserved for it; others may borrow the rest.
//! 5. When a link has waited for `loan_wait`, the shard closes the links with the greatest product of
//!    borrowed buffers and time without progress, until the waiting links can borrow
//!    ([`choose_victims`]). Progress is that the handler takes input or that borrowed input shrinks,
//!    and output that the peer's system acknowledges. A link that waits only for a loan for its own
//!    reply, or for a deferred reply, is not closed, unless all that hold loans do. Links that wait for
//!    a loan to receive the rest of a message are closed last, and only as many as the first waiter
//!    needs.
//! 6. Posted messages and broadcasts have pools of their own, of equal size: one for each shard and one
//!    for all other threads. A receiver with nothing unsent shares the message, for one entry of its
//!    shard's table. A receiver with unsent bytes gets a copy in buffers that it borrows; if it cannot
//!    borrow, it shares up to four messages and misses the others. A copy leaves the grant free. If a
//!    pool is used up, each shard closes the link that holds a shared message and has made no progress
//!    for longest, if that is at least `loan_wait`.
//! 7. If loans exceed the surplus nevertheless, the port gets fewer buffers: the excess is subtracted
//!    from the receive buffers ([`Shares::receive_buffers`]), and guarantees are not affected.

use std::time::Duration;

/// The division of a server's buffers. All numbers are buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    pub(crate) shards: u32,
    /// Links in one shard.
    pub(crate) links: u32,
    /// Guaranteed to each link for unsent output.
    pub(crate) grant: u32,
    /// Lent by one shard to its links.
    pub(crate) surplus: u32,
    /// Maximum of the surplus that is lent for input.
    pub(crate) surplus_input: u32,
    /// The longest loan for a message.
    pub(crate) message: u32,
    /// For the port of one shard, to receive into.
    pub(crate) receive_buffers: u32,
    /// For posts of each sender: a shard, or all other threads together.
    pub(crate) posts: u32,
}

/// The parameters of the division, in buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    pub(crate) shards: u32,
    /// Links in one shard.
    pub(crate) links: u32,
    pub(crate) grant: u32,
    /// Maximum input and output of one link.
    pub(crate) input_max: u32,
    pub(crate) output_max: u32,
    /// The longest post.
    pub(crate) post_max: u32,
}

/// The receive buffers are a quarter of the loans without a request, so that a shard without loans is
/// not tight: loans cease to be tight when three times as many can be lent without a request.
const RECEIVE_PART: u32 = 4;
/// Maximum of the receive buffers: 256 buffers keep a core busy and stay in its cache.
const RECEIVE_MAX: u32 = 256;
/// The surplus of a shard by default, so that a bulk transfer does not exhaust it.
const SURPLUS_DEFAULT: u32 = 512;

impl Needs {
    /// The smallest surplus: one link can hold full input and full output.
    fn surplus_min(&self) -> u32 {
        self.output_loan().saturating_add(self.surplus_input_min())
    }

    /// The longest message can be lent, and a shard without loans is not tight.
    fn surplus_input_min(&self) -> u32 {
        self.message_loan().saturating_add(RECEIVE_PART - 1)
    }

    /// The longest loan for a message. The guaranteed buffer does not count: all but one byte of it may
    /// belong to the message before.
    fn message_loan(&self) -> u32 {
        self.input_max
    }

    /// The longest loan for output.
    fn output_loan(&self) -> u32 {
        self.output_max.saturating_sub(self.grant)
    }

    fn guarantees(&self) -> u32 {
        self.shards.saturating_mul(self.links.saturating_mul(1 + self.grant))
    }

    fn senders(&self) -> u32 {
        self.shards + 1
    }

    /// The fewest buffers with which a server with these parameters starts.
    pub(crate) fn buffers_min(&self) -> u32 {
        self.with_surplus(self.surplus_min())
    }

    /// The default number of buffers: 10,000, or if that is more, the sum of the guarantees, the
    /// default surplus of each shard and the buffers for posts.
    pub(crate) fn buffers_default(&self) -> u32 {
        self.with_surplus(self.surplus_min().max(SURPLUS_DEFAULT)).max(10_000)
    }

    /// The fewest buffers with this surplus for each shard.
    fn with_surplus(&self, surplus: u32) -> u32 {
        let links = self.guarantees().saturating_add(self.shards.saturating_mul(surplus));
        let posts = self.senders().saturating_mul(self.post_max);
        // Posts have an eighth of all buffers, or what the longest post needs for each sender.
        links.saturating_add(posts).max(links.saturating_add(links.div_ceil(7)).saturating_add(1))
    }

    /// Divides `buffers`, at least [`buffers_min`](Self::buffers_min) of them.
    pub(crate) fn divide(&self, buffers: u32) -> Division {
        let posts = (buffers / 8 / self.senders()).max(self.post_max);
        let links = buffers.saturating_sub(posts.saturating_mul(self.senders()));
        let surplus = links.saturating_sub(self.guarantees()) / self.shards;
        let half = (surplus / 2).max(self.surplus_input_min());
        let surplus_input = half.min(surplus.saturating_sub(self.output_loan()));
        let message = self.message_loan();
        let unasked = surplus_input.saturating_sub(message);
        let receive_buffers = (unasked / RECEIVE_PART).clamp(1, RECEIVE_MAX);
        let Self { shards, links, grant, .. } = *self;
        Division { shards, links, grant, surplus, surplus_input, message, receive_buffers, posts }
    }
}

impl Division {
    /// Buffers guaranteed to the links of one shard.
    pub(crate) fn guarantees(&self) -> u32 {
        self.links.saturating_mul(1 + self.grant)
    }

    /// The buffers of one shard's pool: the shares, and one that is always for the port.
    pub(crate) fn pool(&self) -> u32 {
        let shares = self.guarantees().saturating_add(self.surplus);
        self.receive_buffers.saturating_add(shares).saturating_add(1)
    }
}

/// The buffers that one link holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Of unread input, and lent to a receive that has not filled them.
    pub(crate) input: u32,
    /// Of unsent output.
    pub(crate) output: u32,
}

/// The buffers that a link has borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loan {
    pub(crate) input: u32,
    pub(crate) output: u32,
}

impl Loan {
    pub(crate) fn total(self) -> u32 {
        self.input + self.output
    }
}

/// A change of the tight state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// Loans have just become tight.
    Tight,
    /// Loans have ceased to be tight.
    Ended,
}

/// The loans of one shard.
#[derive(Debug)]
pub(crate) struct Shares {
    division: Division,
    lent: Loan,
    tight: bool,
}

impl Shares {
    pub(crate) fn new(division: Division) -> Self {
        Self { division, lent: Loan::default(), tight: false }
    }

    /// The grant, in buffers.
    pub(crate) fn grant(&self) -> u32 {
        self.division.grant
    }

    /// The part of `held` that is a loan.
    pub(crate) fn loan(&self, held: Held) -> Loan {
        Loan {
            input: held.input.saturating_sub(1),
            output: held.output.saturating_sub(self.division.grant),
        }
    }

    /// Counts a link that held `before` and now holds `after`.
    pub(crate) fn settle(&mut self, before: Held, after: Held) {
        let (old, new) = (self.loan(before), self.loan(after));
        self.lent.input = self.lent.input + new.input - old.input;
        self.lent.output = self.lent.output + new.output - old.output;
    }

    /// Buffers that can be lent, `reserved` for a waiter excluded.
    pub(crate) fn lendable(&self, reserved: u32) -> u32 {
        self.division.surplus.saturating_sub(self.lent.total()).saturating_sub(reserved)
    }

    /// Buffers that can be lent for input.
    pub(crate) fn lendable_input(&self, reserved: u32) -> u32 {
        self.lendable(reserved).min(self.division.surplus_input.saturating_sub(self.lent.input))
    }

    /// Buffers that can be lent for input without a request, so that the loan for the longest message
    /// remains.
    pub(crate) fn lendable_unasked(&self, reserved: u32) -> u32 {
        self.lendable_input(reserved).saturating_sub(self.division.message)
    }

    /// The longest further loan for input of a link that holds `held`.
    pub(crate) fn input_loan_max(&self, held: Held) -> u32 {
        self.division.surplus_input.saturating_sub(self.loan(held).input)
    }

    /// Buffers of output that the link may still take.
    pub(crate) fn output_buffers_allowed(&self, held: Held, reserved: u32) -> u32 {
        self.division.grant.saturating_sub(held.output) + self.lendable(reserved)
    }

    /// Whether the link may still take the grant.
    pub(crate) fn has_grant(&self, held: Held, reserved: u32) -> bool {
        self.output_buffers_allowed(held, reserved) >= self.division.grant
    }

    /// Buffers of output that a post may take, so that the grant stays free.
    pub(crate) fn post_buffers_allowed(&self, held: Held, reserved: u32) -> u32 {
        self.output_buffers_allowed(held, reserved).saturating_sub(self.division.grant)
    }

    /// The further loan of a link that takes `buffers` of output.
    pub(crate) fn output_need(&self, held: Held, buffers: u32) -> u32 {
        let with = Held { output: held.output.saturating_add(buffers), ..held };
        self.loan(with).output - self.loan(held).output
    }

    /// Whether loans are tight: links receive one buffer at a time, against loans.
    pub(crate) fn is_tight(&self) -> bool {
        self.tight
    }

    /// Updates the tight state.
    pub(crate) fn update_tight(&mut self) -> Change {
        // Hysteresis: begins below 2 times the receive buffers, ends at 3 times.
        let margin = self.division.receive_buffers * if self.tight { 3 } else { 2 };
        let was_tight = self.tight;
        self.tight = self.lendable_unasked(0) < margin;
        match (was_tight, self.tight) {
            (false, true) => Change::Tight,
            (true, false) => Change::Ended,
            (false, false) | (true, true) => Change::None,
        }
    }

    /// Buffers that the port may have now.
    pub(crate) fn receive_buffers(&self) -> u32 {
        let beyond = self.lent.total().saturating_sub(self.division.surplus);
        self.division.receive_buffers.saturating_sub(beyond).max(1)
    }

    #[cfg(feature = "sim")]
    pub(crate) fn lent(&self) -> Loan {
        self.lent
    }

    /// Buffers that must be released before all of `needed` can be lent.
    pub(crate) fn lack(&self, needed: Loan) -> Lack {
        Lack {
            input: needed.input.saturating_sub(self.lendable_input(0)),
            all: needed.total().saturating_sub(self.lendable(0)),
        }
    }
}

/// Buffers that must be released before a waiter can borrow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lack {
    /// Of loans for input.
    pub(crate) input: u32,
    /// Of loans in either direction, `input` included.
    pub(crate) all: u32,
}

impl Lack {
    /// Whether the release of `loan` reduces it.
    fn shrinks_by(self, loan: Loan) -> bool {
        (self.input > 0 && loan.input > 0) || (self.all > 0 && loan.total() > 0)
    }

    fn without(self, loan: Loan) -> Self {
        Self {
            input: self.input.saturating_sub(loan.input),
            all: self.all.saturating_sub(loan.total()),
        }
    }
}

/// A link that holds a loan and has made no progress with it for `loan_wait`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Borrower {
    pub(crate) index: u32,
    pub(crate) loan: Loan,
    /// Time without progress.
    pub(crate) stalled: Duration,
    pub(crate) standing: Standing,
}

/// Why a link does not release its loan, in the order in which links are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Its peer or its handler.
    Holds,
    /// It waits for a loan to receive the rest of a message.
    WaitsForInput,
    /// It waits for a loan for its own reply, or for a deferred reply.
    WaitsToAnswer,
}

impl Borrower {
    fn weight(&self) -> u128 {
        u128::from(self.loan.total()) * self.stalled.as_nanos()
    }
}

/// Chooses the links to close so that others can borrow: by standing, then by buffers × time without
/// progress, until nothing lacks, and none whose loan would not help. Moves them to the front and
/// returns their number.
///
/// `lack` is for all waiters that have waited for `loan_wait`, `first` for the first waiter. Links that
/// wait for a loan themselves are closed only for the first waiter.
pub(crate) fn choose_victims(borrowers: &mut [Borrower], lack: Lack, first: Lack) -> usize {
    borrowers.sort_unstable_by_key(|borrower| {
        (borrower.standing, std::cmp::Reverse(borrower.weight()), borrower.index)
    });
    let (mut lack, mut first) = (lack, first);
    let mut chosen = 0;
    for at in 0..borrowers.len() {
        let Borrower { loan, standing, .. } = borrowers[at];
        if (if standing == Standing::Holds { lack } else { first }).shrinks_by(loan) {
            (lack, first) = (lack.without(loan), first.without(loan));
            borrowers.swap(chosen, at);
            chosen += 1;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn borrower(index: u32, input: u32, output: u32, seconds: u64) -> Borrower {
        let stalled = Duration::from_secs(seconds);
        Borrower { index, loan: Loan { input, output }, stalled, standing: Standing::Holds }
    }

    fn choose(borrowers: &mut [Borrower], input: u32, all: u32) -> usize {
        choose_victims(borrowers, Lack { input, all }, Lack { input, all })
    }

    fn shapes() -> impl Iterator<Item = (Needs, u32)> {
        let shards = (1..=64).chain([256]);
        shards.flat_map(|shards| {
            [1_u32, 2, 50, 3_000, 5_001, 60_000].into_iter().flat_map(move |links| {
                [64_u32, 512, 2_048, 16_384].into_iter().flat_map(move |size| {
                    [
                        (65_536_u32, 262_144_u32, 1_u32),
                        (1 << 20, 1 << 20, 1),
                        (64, 128, 1),
                        (65_536, 262_144, 8),
                    ]
                    .into_iter()
                    .filter(move |_| links >= shards)
                    .flat_map(move |(input, output, grant)| {
                        let needs = Needs {
                            shards,
                            links: links.div_ceil(shards),
                            grant,
                            input_max: input.div_ceil(size),
                            output_max: output.div_ceil(size).max(2 * grant),
                            post_max: (output / 2).div_ceil(size),
                        };
                        let least = needs.buffers_min();
                        let most = needs.buffers_default().max(least) * 4;
                        [least, least + 1, needs.buffers_default(), most]
                            .map(|buffers| (needs, buffers))
                    })
                })
            })
        })
    }

    #[test]
    fn shares_hold_on_every_shard_count() {
        let mut count = 0;
        for (needs, buffers) in shapes() {
            let division = needs.divide(buffers);
            let mut shares = Shares::new(division);
            let told = format!("{needs:?} {buffers} {division:?}");
            // No more than there are; the receive buffers are a term of their own.
            let senders = u64::from(needs.shards) + 1;
            let links =
                u64::from(needs.shards) * u64::from(division.pool() - division.receive_buffers - 1);
            assert!(links + senders * u64::from(division.posts) <= u64::from(buffers), "{told}");
            // Not tight at rest.
            assert_eq!((shares.update_tight(), shares.is_tight()), (Change::None, false), "{told}");
            // A message of the maximum length in both directions at the same time, with any number of
            // shards.
            let full = Held { input: needs.input_max, output: needs.output_max };
            assert!(shares.lendable_input(0) >= full.input, "{told}");
            shares.settle(Held::default(), Held { input: full.input, output: 0 });
            let held = Held { input: full.input, output: 0 };
            assert!(shares.output_buffers_allowed(held, 0) >= full.output, "{told}");
            shares.settle(held, Held::default());
            // A post of the stated maximum by each sender, and an eighth of all by all together.
            assert!(division.posts >= needs.post_max, "{told}");
            let each = u64::from(division.posts);
            assert!((each + 1) * senders * 8 > u64::from(buffers), "{told}");
            count += 1;
        }
        assert!(count > 1_000, "{count}");
    }

    /// Links borrow at random what they may; two of them never release it.
    #[test]
    fn each_guarantee_is_kept_whatever_others_hold() {
        let mut chance = 1_u32;
        let mut below = |n: u32| {
            chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (chance >> 8) % n.max(1)
        };
        for (needs, buffers) in shapes().filter(|(needs, _)| needs.links <= 3_000) {
            let division = needs.divide(buffers);
            let mut shares = Shares::new(division);
            let mut held = vec![Held::default(); division.links.min(40) as usize];
            for _ in 0..200 {
                let at = below(u32::try_from(held.len()).unwrap()) as usize;
                let before = held[at];
                let mut after = before;
                match below(4) {
                    // Before a cancelled receive ends, as many as the receive buffers can arrive.
                    0 if !shares.is_tight() => after.input += below(division.receive_buffers + 1),
                    0 => {
                        after.input +=
                            below(1 + shares.lendable_input(0)).max(u32::from(before.input == 0))
                    }
                    1 | 2 => after.output += below(1 + shares.output_buffers_allowed(before, 0)),
                    _ => after = Held::default(),
                }
                shares.settle(before, after);
                held[at] = after;
                shares.update_tight();
                let used: u32 = held.iter().map(|held| held.input + held.output).sum();
                let unused: u32 = held
                    .iter()
                    .map(|held| {
                        1_u32.saturating_sub(held.input)
                            + division.grant.saturating_sub(held.output)
                    })
                    .sum::<u32>()
                    + (division.links - u32::try_from(held.len()).unwrap()) * (1 + division.grant);
                // What the port has may serve as the input of links that have none.
                assert!(division.pool() - used >= unused, "{division:?} {held:?}");
                let output: u32 =
                    held.iter().map(|held| division.grant.saturating_sub(held.output)).sum();
                assert!(
                    division.pool() - used - shares.receive_buffers() >= output,
                    "{division:?}"
                );
                for held in &held {
                    assert!(held.output > 0 || shares.has_grant(*held, 0));
                }
            }
        }
    }

    #[test]
    fn whole_messages_of_many_links_never_keep_the_longest_answer_from_each_other() {
        // Also on the smallest shard.
        for (needs, buffers) in shapes() {
            let division = needs.divide(buffers);
            let mut shares = Shares::new(division);
            while shares.lendable_input(0) > 0 {
                let more = shares.lendable_input(0).min(needs.input_max.max(2) - 1);
                shares.settle(Held::default(), Held { input: 1 + more, output: 0 });
            }
            let longest =
                shares.output_buffers_allowed(Held { input: needs.input_max, output: 0 }, 0);
            assert!(longest >= needs.output_max, "{needs:?} {division:?}");
        }
    }

    #[test]
    fn who_waits_for_the_rest_of_its_message_goes_last() {
        let mut borrowers = [borrower(1, 31, 0, 9), borrower(2, 31, 0, 1)];
        borrowers[0].standing = Standing::WaitsForInput;
        assert_eq!(choose(&mut borrowers, 1, 1), 1);
        assert_eq!(borrowers[0].index, 2);
    }

    #[test]
    fn those_that_wait_are_closed_for_the_first_of_them_only() {
        let mut borrowers: Vec<_> = (0..300).map(|index| borrower(index, 3, 0, 2)).collect();
        for borrower in &mut borrowers[1..] {
            borrower.standing = Standing::WaitsForInput;
        }
        let (all, first) = (Lack { input: 9_000, all: 9_000 }, Lack { input: 30, all: 30 });
        assert_eq!(choose_victims(&mut borrowers, all, first), 10);
        assert_eq!(borrowers[0].index, 0);
    }

    #[test]
    fn a_dozen_whole_messages_leave_room_for_their_answers() {
        // Each of 12 links holds 64 KiB and replies as much, on 8 shards with default settings.
        let needs =
            Needs { shards: 8, links: 375, grant: 1, input_max: 32, output_max: 128, post_max: 64 };
        let mut shares = Shares::new(needs.divide(needs.buffers_default()));
        let mut holders = 0;
        while shares.lendable_input(0) >= 31 && holders < 12 {
            shares.settle(Held::default(), Held { input: 32, output: 0 });
            holders += 1;
        }
        assert!(shares.output_buffers_allowed(Held { input: 32, output: 0 }, 0) >= 32);
    }

    #[test]
    fn those_with_most_buffers_and_time_go_first_and_only_as_many_as_it_takes() {
        let mut borrowers = [
            borrower(1, 31, 0, 2),
            borrower(2, 31, 0, 9),
            borrower(3, 100, 0, 1),
            borrower(4, 5, 0, 1),
        ];
        let chosen = choose(&mut borrowers, 100, 100);
        let chosen: Vec<_> = borrowers[..chosen].iter().map(|borrower| borrower.index).collect();
        assert_eq!(chosen, [2, 3]);
    }

    #[test]
    fn nobody_goes_who_would_not_help() {
        // Only loans for input are lacking: links with unsent output are not closed.
        let mut borrowers = [borrower(1, 0, 500, 9), borrower(2, 3, 0, 1)];
        let chosen = choose(&mut borrowers, 1, 0);
        assert_eq!((chosen, borrowers[0].index), (1, 2));
        assert_eq!(choose(&mut borrowers, 0, 0), 0);
    }

    #[test]
    fn loans_beyond_the_surplus_are_taken_out_of_the_receive_buffers() {
        let division = Division {
            shards: 1,
            links: 10,
            grant: 1,
            surplus: 80,
            surplus_input: 40,
            message: 0,
            receive_buffers: 10,
            posts: 1,
        };
        let mut shares = Shares::new(division);
        shares.settle(Held::default(), Held { input: 86, output: 0 });
        assert_eq!((shares.receive_buffers(), shares.lendable(0)), (5, 0));
        assert_eq!(shares.update_tight(), Change::Tight);
        shares.settle(Held { input: 86, output: 0 }, Held { input: 200, output: 0 });
        assert_eq!(shares.receive_buffers(), 1);
        shares.settle(Held { input: 200, output: 0 }, Held::default());
        assert_eq!((shares.update_tight(), shares.is_tight()), (Change::Ended, false));
    }
}
