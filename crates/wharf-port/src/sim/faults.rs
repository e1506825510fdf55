//! The faults of a world: their kinds, probabilities and counts.
//!
//! Probabilities are integers, in millionths, so that a seed has the same run on every machine.

use super::rng::Rng;
use std::fmt;

/// A kind of fault that the world injects at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// A receive takes fewer bytes than have arrived.
    ShortReceive,
    /// A send ends before all its bytes are sent.
    ShortSend,
    /// Only a part of the bytes in transit arrives; the others arrive later.
    SplitDelivery,
    /// A step of an operation, or the transit of bytes, takes longer.
    Delay,
    /// Completions of different sockets or kinds are reordered.
    Reorder,
    /// A connection is reset at a step of an operation.
    Reset,
    /// An operation completes before its cancel reaches it.
    CancelRace,
    /// A receive waits for a buffer although the pool has free ones.
    Enobufs,
    /// An accept ends with EMFILE; the connection stays in the backlog.
    AcceptEmfile,
    /// A connection ends before it is accepted.
    AcceptAbort,
    /// A dequeue returns early with nothing.
    SpuriousWake,
    /// One of the next 8 acquires of a buffer for receives fails.
    AcquireFails,
    /// The clock jumps forward.
    ClockJump,
    /// A client never reads.
    PeerNeverReads,
    /// A connection's bytes, its end and its reset no longer arrive, in either direction.
    BlackHole,
    /// A dequeue returns fewer completions than are ready.
    ShortDequeue,
    /// A receive reports a reset as the end of the stream; only a send reports the reset.
    ResetAsEnd,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::ShortReceive,
        Self::ShortSend,
        Self::SplitDelivery,
        Self::Delay,
        Self::Reorder,
        Self::Reset,
        Self::CancelRace,
        Self::Enobufs,
        Self::AcceptEmfile,
        Self::AcceptAbort,
        Self::SpuriousWake,
        Self::AcquireFails,
        Self::ClockJump,
        Self::PeerNeverReads,
        Self::BlackHole,
        Self::ShortDequeue,
        Self::ResetAsEnd,
    ];

    /// The probabilities, in millionths, from which one is drawn. Kinds that end or stall a
    /// connection have low ones, per step or once per connection, so that most connections run on.
    fn strengths(self) -> [u32; 3] {
        match self {
            Self::Reset | Self::BlackHole => [20, 100, 1_000],
            Self::PeerNeverReads | Self::AcceptAbort => [2_000, 20_000, 100_000],
            _ => [2_000, 50_000, 400_000],
        }
    }
}

/// The probability of each kind of fault, and their strengths.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    ppm: [u32; FaultKind::ALL.len()],
    /// The least transit time of bytes.
    pub latency_ns: u64,
    /// The longest delay that [`FaultKind::Delay`] adds; in 1 of 16 cases up to 16 times that.
    pub delay_max_ns: u64,
    /// The longest jump of [`FaultKind::ClockJump`].
    pub clock_jump_max_ns: u64,
    /// The most bytes in transit or unread in one direction of a connection; at least 1.
    pub socket_buffer_bytes: u32,
    /// Resets the connection that makes the step of an operation with this number (0 is the first),
    /// beside random resets: a run for each number tries a reset at every step.
    pub reset_at_step: Option<u64>,
}

impl Faults {
    /// No faults, and no latency.
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

    /// Random faults: each kind is off, or has one of its three probabilities. Without some kinds
    /// the others reach states that all together do not (swarm testing, Groce et al. 2012).
    #[must_use]
    pub fn random(rng: &mut Rng) -> Self {
        let mut faults = Self::none();
        for kind in FaultKind::ALL {
            if rng.below(2) == 0 {
                faults = faults.with(kind, rng.pick(&kind.strengths()));
            }
        }
        faults.latency_ns = rng.pick(&[0, 0, 10_000, 1_000_000]);
        faults.delay_max_ns = rng.pick(&[1_000, 100_000, 50_000_000]);
        faults.clock_jump_max_ns = rng.pick(&[1_000_000, 1_000_000_000, 3_600_000_000_000]);
        faults.socket_buffer_bytes = rng.pick(&[1, 100, 2_048, 65_536]);
        faults
    }

    /// The same, but with the probability `ppm` of `kind`, in millionths.
    #[must_use]
    pub fn with(mut self, kind: FaultKind, ppm: u32) -> Self {
        self.ppm[kind as usize] = ppm.min(1_000_000);
        self
    }

    /// The same, but with this least transit time.
    #[must_use]
    pub fn with_latency_ns(mut self, latency_ns: u64) -> Self {
        self.latency_ns = latency_ns;
        self
    }

    /// The longest time of one step of an operation.
    #[must_use]
    pub fn step_max_ns(&self) -> u64 {
        let delays = self.ppm(FaultKind::Delay) > 0 || self.ppm(FaultKind::Enobufs) > 0;
        if delays { self.delay_max_ns.saturating_mul(16) } else { 0 }
    }

    /// The longest time of bytes from one program to the other: the latency, four steps that can
    /// each be delayed, and 20 ms for the programs' turns.
    #[must_use]
    pub fn way_max_ns(&self) -> u64 {
        let steps_ns = self.step_max_ns().saturating_mul(4);
        self.latency_ns.saturating_add(steps_ns).saturating_add(20_000_000)
    }

    /// The probability of `kind`, in millionths.
    #[must_use]
    pub fn ppm(&self, kind: FaultKind) -> u32 {
        self.ppm[kind as usize]
    }
}

/// How often each kind of fault was injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    counts: [u64; FaultKind::ALL.len()],
}

impl FaultCounts {
    /// How often `kind` was injected.
    #[must_use]
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.counts[kind as usize]
    }

    /// How often faults of any kind were injected.
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

/// A bug that can be planted in the port, to prove that tests find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortBug {
    /// A completion is lost, and its buffers are released (INV-PORT-1).
    LoseCompletion,
    /// A completion is delivered twice (INV-PORT-1).
    CompleteTwice,
    /// A send completes before its bytes were read, and other data may overwrite its buffers
    /// (INV-PORT-2).
    ReuseInFlight,
    /// A close does not wait for the receive, whose bytes get the key of the slot's next socket
    /// (INV-PORT-4).
    SkipGeneration,
    /// A short send reports less than it sent, so that bytes are sent twice (INV-PORT-3).
    ResendBytes,
    /// The two halves of a send are swapped (INV-PORT-3).
    SwapHalves,
    /// A receive that waits for a buffer is not queued (INV-PORT-6).
    ForgetRearm,
    /// The socket that began to wait for a buffer last is served first (INV-PORT-6).
    ServeLastFirst,
    /// Every fourth wake-up is lost (INV-PORT-7).
    LoseWake,
    /// A received buffer has one byte too many.
    OneByteMore,
    /// The completion of a close is lost (INV-PORT-1).
    DropClosed,
    /// A cancel does nothing, so that its operation never ends (INV-PORT-1).
    IgnoreCancel,
    /// A cancelled receive leaks the buffer that it had acquired (INV-PORT-2).
    LeakOnCancel,
    /// A receive takes a buffer before bytes are there, and holds it (INV-PORT-5).
    HoldWhileIdle,
    /// The last completion of a receive is not marked `last` (INV-PORT-1).
    ForgetLast,
    /// The end of the stream is reported before its last bytes.
    EarlyEnd,
    /// The buffer of one socket's bytes is reported under another's key (INV-PORT-4).
    SwapKeys,
    /// A oneshot receive that is armed anew is served before waiting ones (INV-PORT-6).
    OvertakeWaiters,
}

impl PortBug {
    /// Every bug that can be planted.
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
