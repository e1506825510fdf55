//! How many buffers a link may hold: the arithmetic of guarantee and loan, without any state.
//!
//! ```text
//!   buffers of a shard = guarantees of all links + surplus
//!                                                   ├── loans for input, at most `input_loans_max`
//!                                                   └── loans for output
//! ```
//!
//! The rules that this computes are stated in the README: guarantee and loan.

use crate::Settings;

/// Buffers that each link has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guarantee {
    /// For its input.
    pub input: usize,
    /// For its output: the grant.
    pub output: usize,
}

impl Guarantee {
    /// The guarantee with a grant of `grant_bytes`.
    #[must_use]
    pub const fn new(buffer_size_bytes: usize, grant_bytes: usize) -> Self {
        let output = grant_bytes.div_ceil(buffer_size_bytes);
        Self { input: 1, output: if output == 0 { 1 } else { output } }
    }

    /// Both directions.
    #[must_use]
    pub const fn sum(self) -> usize {
        self.input + self.output
    }
}

/// The direction in which a link uses buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Direction {
    /// They hold what was received and is unread.
    Input,
    /// They hold what is queued or in flight.
    Output,
}

/// How the buffers of a shard are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shares {
    /// Bytes of a buffer.
    pub buffer_size_bytes: usize,
    /// What each link has for itself.
    pub guarantee: Guarantee,
    /// Buffers that are lent.
    pub surplus: usize,
    /// How many of them for input.
    pub input_loans_max: usize,
    /// What the longest message needs beyond the guarantee.
    pub message_loans: usize,
}

/// Buffers that are lent, or asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loans {
    /// For input.
    pub input: usize,
    /// For output.
    pub output: usize,
}

impl Loans {
    /// This many.
    #[must_use]
    pub const fn new(input: usize, output: usize) -> Self {
        Self { input, output }
    }

    /// Both directions.
    #[must_use]
    pub const fn sum(self) -> usize {
        self.input + self.output
    }

    pub(crate) const fn of_mut(&mut self, direction: Direction) -> &mut usize {
        match direction {
            Direction::Input => &mut self.input,
            Direction::Output => &mut self.output,
        }
    }
}

/// A link that holds loans without progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Which link.
    pub link: usize,
    /// Its loans.
    pub loans: Loans,
    /// Buffers times milliseconds without progress.
    pub weight: u64,
}

impl Holder {
    /// A holder.
    #[must_use]
    pub const fn new(link: usize, loans: Loans, weight: u64) -> Self {
        Self { link, loans, weight }
    }
}

impl Shares {
    /// The shares of a shard that has `surplus` buffers beyond all guarantees.
    #[must_use]
    pub const fn new(settings: &Settings, surplus: usize) -> Self {
        let size = settings.buffer_size_bytes;
        let guarantee = Guarantee::new(size, settings.grant_bytes);
        let reply_loans = settings.output_bytes.div_ceil(size).saturating_sub(guarantee.output);
        let message_loans = settings.input_bytes.div_ceil(size).saturating_sub(guarantee.input);
        let beside_replies = surplus.saturating_sub(reply_loans);
        let half = if surplus / 2 > message_loans { surplus / 2 } else { message_loans };
        let input_loans_max = if half < beside_replies { half } else { beside_replies };
        Self { buffer_size_bytes: size, guarantee, surplus, input_loans_max, message_loans }
    }

    /// Buffers that can be lent in this direction, if no link waits.
    #[must_use]
    pub const fn free(&self, lent: Loans, direction: Direction) -> usize {
        let free = self.surplus.saturating_sub(lent.sum());
        match direction {
            Direction::Output => free,
            Direction::Input => {
                let left = self.input_loans_max.saturating_sub(lent.input);
                if left < free { left } else { free }
            }
        }
    }

    /// Buffers that can be lent in this direction while the first waiter needs `need` in `of`: what
    /// it can have of that is reserved for it.
    #[must_use]
    pub fn free_beside(
        &self,
        lent: Loans,
        direction: Direction,
        need: usize,
        of: Direction,
    ) -> usize {
        let mut lent = lent;
        *lent.of_mut(of) += need.min(self.free(lent, of));
        self.free(lent, direction)
    }

    /// Whether all of `needs` can be lent at once; of what can never be, whatever is closed, only
    /// what can.
    #[must_use]
    pub fn can_lend(&self, lent: Loans, needs: Loans) -> bool {
        let input = needs.input.min(self.input_loans_max);
        let output = needs.output.min(self.surplus - input);
        let input_fits = input == 0 || lent.input + input <= self.input_loans_max;
        input_fits && lent.sum() + input + output <= self.surplus
    }

    /// Which of `holders` are closed, so that `needs` can be lent: those with the greatest weight
    /// first, as many as it takes, but none whose buffers do not help.
    #[must_use]
    pub fn victims(&self, lent: Loans, needs: Loans, holders: &[Holder]) -> Vec<Holder> {
        let mut holders = holders.to_vec();
        holders.sort_by_key(|holder| (std::cmp::Reverse(holder.weight), holder.link));
        let (mut lent, mut victims) = (lent, Vec::new());
        for holder in holders {
            if self.can_lend(lent, needs) {
                break;
            }
            let input = needs.input.min(self.input_loans_max);
            let output = needs.output.min(self.surplus - input);
            let input_lacks = input > 0 && lent.input + input > self.input_loans_max;
            let all_lacks = lent.sum() + input + output > self.surplus;
            if all_lacks || (input_lacks && holder.loans.input > 0) {
                lent.input -= holder.loans.input.min(lent.input);
                lent.output -= holder.loans.output.min(lent.output);
                victims.push(holder);
            }
        }
        victims
    }
}

/// Buffers that a chain with `len` bytes may hold before it is merged: one more than these bytes fill.
#[must_use]
pub const fn chain_buffers_max(len: usize, buffer_size_bytes: usize) -> usize {
    len.div_ceil(buffer_size_bytes) + 1
}

/// How long a link may keep a loan without progress while another one has waited for `loan_wait`.
///
/// A quarter of `loan_wait`; the README says why.
#[must_use]
pub const fn loan_patience_ms(loan_wait_ms: u64) -> u64 {
    loan_wait_ms.div_ceil(4)
}
