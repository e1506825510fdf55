//! A port between the engine and the simulated one. It passes all calls on, except for the planted bug.

use crate::shared::Command;
use crate::sim::bug::{ActiveBug, EngineBug};
use crate::vocabulary::id::LinkKey;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use wharf_port::memory::BufferPool;
use wharf_port::port::{
    AssociateError, Completion, CompletionMode, Completions, Counters, EndReason, Key, Operation,
    OperationKind, Outcome, Port, PortError, Poster, Socket, SubmitError, Time,
};
use wharf_port::sim::{SimListener, SimPort, SimStream};

type Packet = Command<SimStream>;

pub(super) struct BuggyPort {
    pub(super) inner: SimPort<Packet>,
    bug: ActiveBug,
    /// Delayed packets, each with the number of the dequeue that returns it.
    late: VecDeque<(u64, Packet)>,
    dequeues: u64,
    /// The last generation of each slot.
    generations: BTreeMap<u32, LinkKey>,
    /// Links with a failed send.
    broken: BTreeSet<u64>,
}

/// Dequeues by which a packet is delayed.
const LATE_DEQUEUES: u64 = 40;
/// The factor of the slow clock.
const SLOWNESS: u64 = 1_000;

impl BuggyPort {
    pub(super) fn new(inner: SimPort<Packet>, bug: Option<EngineBug>) -> Self {
        Self {
            inner,
            bug: ActiveBug::new(bug),
            late: VecDeque::new(),
            dequeues: 0,
            generations: BTreeMap::new(),
            broken: BTreeSet::new(),
        }
    }

    /// The completion as the engine gets it; `None` if the bug drops it.
    fn spoil(
        &mut self,
        completion: Completion<SimStream, Packet>,
    ) -> Option<Outcome<SimStream, Packet>> {
        let Completion { key, outcome } = completion;
        match outcome {
            Outcome::Posted(packet) => self.spoil_packet(packet).map(Outcome::Posted),
            Outcome::Sent { chain, sent, end } => {
                if matches!(end, Some(EndReason::Failed(_))) {
                    self.broken.insert(key.0);
                }
                let loses_rest = end.is_none() && self.bug.is(EngineBug::LoseRest);
                let sent = if loses_rest { chain.len() } else { sent };
                Some(Outcome::Sent { chain, sent, end })
            }
            Outcome::Received { last: false, .. }
                if self.bug.is(EngineBug::DropInputAtSendFailure)
                    && self.broken.contains(&key.0) =>
            {
                None
            }
            outcome => Some(outcome),
        }
    }

    fn spoil_packet(&mut self, packet: Packet) -> Option<Packet> {
        match packet {
            Command::Post { .. } if self.bug.triggers(EngineBug::ForgetAccepted) => None,
            Command::Broadcast { message, when_slow, number, .. }
                if self.bug.is(EngineBug::BroadcastToSender) =>
            {
                Some(Command::Broadcast { message, except: None, when_slow, number })
            }
            Command::Post { .. } | Command::Broadcast { .. }
                if self.bug.is(EngineBug::LatePosts) || self.bug.is(EngineBug::SkipGeneration) =>
            {
                self.late.push_back((self.dequeues + LATE_DEQUEUES, packet));
                None
            }
            packet => Some(packet),
        }
    }

    /// The next delayed packet that is due.
    fn due_packet(&mut self) -> Option<Packet> {
        let (due, _) = self.late.front()?;
        if *due > self.dequeues {
            return None;
        }
        let (_, packet) = self.late.pop_front()?;
        Some(match packet {
            Command::Post { link, message } if self.bug.is(EngineBug::SkipGeneration) => {
                let link = self.generations.get(&link.index()).copied().unwrap_or(link);
                Command::Post { link, message }
            }
            packet => packet,
        })
    }
}

impl Port for BuggyPort {
    type Packet = Packet;
    type Stream = SimStream;
    type Listener = SimListener;

    fn associate(
        &mut self,
        stream: SimStream,
        key: Key,
    ) -> Result<Socket, AssociateError<SimStream>> {
        if let Some(link) = LinkKey::from_key(key) {
            self.generations.insert(link.index(), link);
        }
        self.inner.associate(stream, key)
    }

    fn associate_listener(
        &mut self,
        listener: SimListener,
        key: Key,
    ) -> Result<Socket, AssociateError<SimListener>> {
        self.inner.associate_listener(listener, key)
    }

    fn submit(&mut self, socket: Socket, operation: Operation) -> Result<(), SubmitError> {
        let operation = match operation {
            Operation::Receive { .. } if self.bug.triggers(EngineBug::ForgetReceive) => {
                return Ok(());
            }
            Operation::Send(_) if self.bug.triggers(EngineBug::ForgetSend) => return Ok(()),
            Operation::Accept(_) if self.bug.is(EngineBug::AcceptPastLimit) => {
                Operation::Accept(CompletionMode::Multishot)
            }
            operation => operation,
        };
        self.inner.submit(socket, operation)
    }

    fn cancel(&mut self, socket: Socket, kind: OperationKind) {
        self.inner.cancel(socket, kind);
    }

    fn shutdown(&mut self, socket: Socket) {
        self.inner.shutdown(socket);
    }

    fn reset_on_close(&mut self, socket: Socket) {
        self.inner.reset_on_close(socket);
    }

    fn dequeue(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError> {
        self.dequeues += 1;
        let timeout = if self.late.is_empty() { timeout } else { Some(Duration::ZERO) };
        self.inner.dequeue(completions, timeout)?;
        if !self.bug.is_planted() {
            return Ok(());
        }
        let empty = Vec::with_capacity(completions.capacity());
        for completion in std::mem::replace(completions, empty) {
            let key = completion.key;
            let outcome = self.spoil(completion);
            completions.extend(outcome.map(|outcome| Completion { key, outcome }));
        }
        while completions.len() < completions.capacity()
            && let Some(packet) = self.due_packet()
        {
            completions.push(Completion { key: Key(0), outcome: Outcome::Posted(packet) });
        }
        Ok(())
    }

    fn poster(&self) -> Poster<Packet> {
        self.inner.poster()
    }

    fn pool(&self) -> &BufferPool {
        self.inner.pool()
    }

    fn refill_count(&self) -> u32 {
        self.inner.refill_count()
    }

    fn set_receive_buffers(&mut self, buffers: u32) {
        self.inner.set_receive_buffers(buffers);
    }

    fn acknowledged_bytes(&mut self, socket: Socket) -> Option<u64> {
        self.inner.acknowledged_bytes(socket)
    }

    fn unread_bytes(&mut self, socket: Socket) -> Option<u64> {
        self.inner.unread_bytes(socket)
    }

    fn local_address(&mut self, socket: Socket) -> Option<SocketAddr> {
        self.inner.local_address(socket)
    }

    fn now(&self) -> Time {
        let now = self.inner.now();
        if self.bug.is(EngineBug::FastClock) {
            Time(2 * now.0)
        } else if self.bug.is(EngineBug::SlowClock) {
            Time(now.0 / SLOWNESS)
        } else {
            now
        }
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}
