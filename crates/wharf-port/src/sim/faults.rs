//! What can go wrong in a world: kinds of faults, how often each strikes, and how often it did.
//!
//! Probabilities are in millionths, as integers, so that a seed means the same on every machine.

use super::rng::Rng;
use std::fmt;

/// A kind of fault that the world injects by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// A receive brings fewer bytes than are there.
    ShortReceive,
    /// A send ends before all of it is sent.
    ShortSend,
    /// Only a part of what is under way arrives; the rest comes later.
    TornDelivery,
    /// A step of an operation, or bytes under way, take longer.
    Delay,
    /// Completions of different sockets or kinds change places.
    Reorder,
    /// A connection is reset, at whatever it is doing.
    Reset,
    /// An operation is done before its cancel reaches it.
    CancelRace,
    /// No buffer is there to receive into, for a while, though the pool has some.
    Enobufs,
    /// An accept ends with EMFILE; the connection stays in the queue.
    AcceptEmfile,
    /// A connection ends before it is accepted.
    AcceptAbort,
    /// A dequeue returns early with nothing.
    SpuriousWake,
    /// One of the next takes from a port's pool fails, whoever makes it.
    TakeFail,
    /// Time jumps forward.
    ClockJump,
    /// A client never reads.
    DeafPeer,
    /// A connection's bytes, its end and its reset no longer arrive, either way.
    BlackHole,
    /// A dequeue brings fewer completions than are ready.
    ShortDequeue,
    /// A reset shows as an end of input in the receive; only a send tells the truth.
    ResetAsEnd,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::ShortReceive,
        Self::ShortSend,
        Self::TornDelivery,
        Self::Delay,
        Self::Reorder,
        Self::Reset,
        Self::CancelRace,
        Self::Enobufs,
        Self::AcceptEmfile,
        Self::AcceptAbort,
        Self::SpuriousWake,
        Self::TakeFail,
        Self::ClockJump,
        Self::DeafPeer,
        Self::BlackHole,
        Self::ShortDequeue,
        Self::ResetAsEnd,
    ];

    /// How often it strikes, in millionths, if it does: what ends or stalls a connection for good can
    /// do so only now and then, at any step or once for each connection, if anything else is to be
    /// seen.
    fn strengths(self) -> [u32; 3] {
        match self {
            Self::Reset | Self::BlackHole => [20, 100, 1_000],
            Self::DeafPeer | Self::AcceptAbort => [2_000, 20_000, 100_000],
            _ => [2_000, 50_000, 400_000],
        }
    }
}

/// How often each kind of fault strikes, and how hard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    ppm: [u32; FaultKind::ALL.len()],
    /// How long bytes are under way at least.
    pub latency_ns: u64,
    /// How much longer at most, when [`FaultKind::Delay`] strikes; now and then 16 times that.
    pub delay_max_ns: u64,
    /// How far the clock jumps at most, when [`FaultKind::ClockJump`] strikes.
    pub clock_jump_max_ns: u64,
    /// How many bytes can be under way or unread in one direction of a connection; at least 1.
    pub socket_buffer_bytes: u32,
    /// Resets the connection that makes this step of an operation (0 is the first), beside those
    /// that chance resets: a run for each number tries a reset at every moment.
    pub reset_at_step: Option<u64>,
}

impl Faults {
    /// Nothing goes wrong, and everything happens at once.
    #[must_use]
    pub fn none() -> Self {
        Self {
            ppm: [0; FaultKind::ALL.len()],
            latency_ns: 0,
            delay_max_ns: 1_000_000,
            clock_jump_max_ns: 60_000_000_000,
            socket_buffer_bytes: 65_536,
            reset_at_step: None,
        }
    }

    /// Each kind either off or more or less strong, by chance: with some kinds off the others
    /// reach states that a mixture of all would never let live (swarm testing, Groce et al. 2012).
    #[must_use]
    pub fn drawn(rng: &mut Rng) -> Self {
        let mut faults = Self::none();
        for kind in FaultKind::ALL {
            if rng.below(2) == 0 {
                faults = faults.with(kind, rng.one_of(&kind.strengths()));
            }
        }
        faults.latency_ns = rng.one_of(&[0, 0, 10_000, 1_000_000]);
        faults.delay_max_ns = rng.one_of(&[1_000, 100_000, 50_000_000]);
        faults.clock_jump_max_ns = rng.one_of(&[1_000_000, 1_000_000_000, 3_600_000_000_000]);
        faults.socket_buffer_bytes = rng.one_of(&[1, 100, 2_048, 65_536]);
        faults
    }

    /// The same, but `kind` strikes `ppm` times in a million.
    #[must_use]
    pub fn with(mut self, kind: FaultKind, ppm: u32) -> Self {
        self.ppm[kind as usize] = ppm.min(1_000_000);
        self
    }

    /// The same, but bytes are under way for `latency_ns` at least.
    #[must_use]
    pub fn with_latency_ns(mut self, latency_ns: u64) -> Self {
        self.latency_ns = latency_ns;
        self
    }

    /// The longest that one step of an operation can take, in nanoseconds.
    #[must_use]
    pub fn step_max_ns(&self) -> u64 {
        let delays = self.ppm(FaultKind::Delay) > 0 || self.ppm(FaultKind::Enobufs) > 0;
        if delays { self.delay_max_ns.saturating_mul(16) } else { 0 }
    }

    /// How long bytes can be on their way from one program to the other: each of an operation's four
    /// steps can be delayed, and turns take their time.
    #[must_use]
    pub fn way_max_ns(&self) -> u64 {
        let steps_ns = self.step_max_ns().saturating_mul(4);
        self.latency_ns.saturating_add(steps_ns).saturating_add(20_000_000)
    }

    /// How often `kind` strikes, in millionths.
    #[must_use]
    pub fn ppm(&self, kind: FaultKind) -> u32 {
        self.ppm[kind as usize]
    }
}

/// How often each kind of fault was really injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    counts: [u64; FaultKind::ALL.len()],
}

impl FaultCounts {
    /// How often `kind` struck.
    #[must_use]
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.counts[kind as usize]
    }

    /// How often any kind struck.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds another world's counts.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
    }

    pub(super) fn add(&mut self, kind: FaultKind) {
        self.counts[kind as usize] += 1;
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in FaultKind::ALL.iter().zip(self.counts) {
            writeln!(f, "{:>10}  {kind:?}", count)?;
        }
        Ok(())
    }
}

/// A fault of the port itself that can be planted, to prove that the checks above find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Plant {
    /// Now and then a completion is lost, with its buffers given back (INV-PORT-1).
    LoseCompletion,
    /// Now and then a completion is delivered twice (INV-PORT-1).
    CompleteTwice,
    /// A send completes before its bytes were read; its buffers are then used by others
    /// (INV-PORT-2).
    ReuseInFlight,
    /// A close does not wait for the receive, whose bytes come under the next owner's key
    /// (INV-PORT-4).
    SkipGeneration,
    /// A short send reports less than it sent, so that bytes are sent twice (INV-PORT-3).
    ResendBytes,
    /// The two halves of a send change places (INV-PORT-3).
    SwapHalves,
    /// A receive that paused for want of buffers is forgotten (INV-PORT-6).
    ForgetRearm,
    /// The socket that ran out of buffers last is served first (INV-PORT-6).
    ServeLastFirst,
    /// Now and then a wake-up is lost (INV-PORT-7).
    LoseWake,
    /// A received buffer shows one byte too many.
    OneByteMore,
    /// A closed socket is not reported (INV-PORT-1).
    DropClosed,
    /// A cancel does nothing, so that what it should end goes on for ever (INV-PORT-1).
    IgnoreCancel,
    /// A cancelled receive keeps the buffer that it had picked (INV-PORT-2).
    LeakOnCancel,
    /// A receive takes a buffer before bytes are there, and holds it (INV-PORT-5).
    HoldWhileIdle,
    /// The last completion of a receive is not marked so (INV-PORT-1).
    ForgetLast,
    /// The peer's end is reported while bytes are still there.
    EarlyEnd,
    /// The buffer of one socket's bytes is reported under another's key (INV-PORT-4).
    SwapKeys,
    /// A receive of one shot that is armed anew is served before those that wait (INV-PORT-6).
    OvertakeWaiters,
}

impl Plant {
    /// Every fault that can be planted.
    pub const ALL: [Self; 18] = [
        Self::LoseCompletion,
        Self::CompleteTwice,
        Self::ReuseInFlight,
        Self::SkipGeneration,
        Self::ResendBytes,
        Self::SwapHalves,
        Self::ForgetRearm,
        Self::ServeLastFirst,
        Self::LoseWake,
        Self::OneByteMore,
        Self::DropClosed,
        Self::IgnoreCancel,
        Self::LeakOnCancel,
        Self::HoldWhileIdle,
        Self::ForgetLast,
        Self::EarlyEnd,
        Self::SwapKeys,
        Self::OvertakeWaiters,
    ];
}
