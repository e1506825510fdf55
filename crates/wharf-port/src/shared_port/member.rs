//! What the threads of a shared port share, and what each of them has; generic over the seats' port.

use super::seat::{Command, CommandPort, Inner, Request, Seat, Taken};
use super::seats::{Claim, Notify, Queue, Seats, Step, Thread};
use super::values::DequeueError;
use super::values::{
    Held, SharedOperation, SharedSocket, SharedSubmitError, SharedSubmitErrorKind,
};
use crate::memory::chain::Chain;
use crate::memory::error::NoBuffers;
use crate::memory::ledger::{BufferCounts, LedgerView, Owner};
use crate::port::clock::Clock;
use crate::port::contract::Port;
use crate::port::error::OsError;
use crate::port::error::PortError;
use crate::port::inbox::{PostError, Poster};
use crate::port::operation::{Key, OperationKind};
use crate::port::seat::MovablePort;
use std::cell::RefMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

impl<T: Send> Notify for Poster<T> {
    fn notify(&self) -> bool {
        self.wake_owner()
    }
}

type PosterOf<T, P> = Poster<Command<T, <P as Port>::Stream, <P as Port>::Listener>>;
type SeatsOf<T, P> = Seats<Box<Seat<P>>, PosterOf<T, P>>;

/// The seats, and how to reach the one that is not held by the caller.
pub(crate) struct Shared<T: Send, P: CommandPort<T>> {
    seats: Arc<SeatsOf<T, P>>,
    posters: Box<[PosterOf<T, P>]>,
    /// By seat: its sockets, and those that are to be associated with it.
    sockets: Box<[AtomicU32]>,
    ledgers: Box<[LedgerView]>,
    /// By seat: readable when something ends a prepared wait.
    watches: Box<[rustix::fd::OwnedFd]>,
    /// Where the search for a seat for the next packet begins.
    next_post: AtomicU32,
    is_closed: AtomicBool,
    clock: Clock,
}

impl<T: Send, P: CommandPort<T>> Shared<T, P> {
    /// One seat for each port.
    pub(super) fn new(ports: Vec<P>, sockets_max: u32) -> Self {
        let posters: Vec<_> = ports.iter().map(P::poster).collect();
        let ledgers = ports.iter().map(|port| port.pool().ledger_view()).collect();
        let seats: Vec<_> = (0_u32..)
            .zip(ports)
            .map(|(index, port)| Box::new(Seat::new(index, port, sockets_max)))
            .collect();
        Self {
            sockets: seats.iter().map(|_| AtomicU32::new(0)).collect(),
            seats: Arc::new(Seats::new(seats, posters.clone())),
            posters: posters.into(),
            ledgers,
            watches: Box::default(),
            next_post: AtomicU32::new(0),
            is_closed: AtomicBool::new(false),
            clock: Clock::new(),
        }
    }

    pub(super) fn close(&self) {
        // Relaxed: it stops posts some time after this call; the seats have a flag of their own.
        self.is_closed.store(true, Ordering::Relaxed);
        self.seats.close();
    }

    pub(super) fn post(&self, packet: T) -> Result<(), PostError<T>> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(PostError::Closed(packet));
        }
        let count = self.posters.len();
        let start = self.next_post.fetch_add(1, Ordering::Relaxed) as usize % count;
        let from_start = (start..count).chain(0..start);
        let asleep = from_start.clone().find(|index| self.posters[*index].is_owner_asleep());
        let mut command = Command::Packet(packet);
        for index in asleep.into_iter().chain(from_start) {
            match self.posters[index].post(command) {
                Ok(()) => return Ok(()),
                Err(refused) => command = refused.into_packet(),
            }
        }
        let Command::Packet(packet) = command else { unreachable!("it comes back unchanged") };
        Err(PostError::Full(packet))
    }

    pub(super) fn associate(
        &self,
        stream: P::Stream,
        key: Key,
    ) -> Result<(), PostError<P::Stream>> {
        self.post_to_emptiest(Command::Associate(stream, key)).map_err(|refused| {
            refused.map(|command| match command {
                Command::Associate(stream, _) => stream,
                _ => unreachable!("it comes back unchanged"),
            })
        })
    }

    pub(super) fn associate_listener(
        &self,
        listener: P::Listener,
        key: Key,
    ) -> Result<(), PostError<P::Listener>> {
        self.post_to_emptiest(Command::AssociateListener(listener, key)).map_err(|refused| {
            refused.map(|command| match command {
                Command::AssociateListener(listener, _) => listener,
                _ => unreachable!("it comes back unchanged"),
            })
        })
    }

    /// Posts to the seat with the fewest sockets, which will have one more.
    fn post_to_emptiest(&self, command: P::Packet) -> Result<(), PostError<P::Packet>> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(PostError::Closed(command));
        }
        // Relaxed: the counts decide nothing but this.
        let count = |sockets: &AtomicU32| sockets.load(Ordering::Relaxed);
        let fewest = (0..self.sockets.len()).min_by_key(|index| count(&self.sockets[*index]));
        let index = fewest.unwrap_or(0);
        self.sockets[index].fetch_add(1, Ordering::Relaxed);
        self.posters[index].post(command).inspect_err(|_| {
            self.sockets[index].fetch_sub(1, Ordering::Relaxed);
        })
    }

    /// Posts to the socket's seat.
    fn post_to(
        &self,
        socket: SharedSocket,
        command: P::Packet,
    ) -> Result<(), PostError<P::Packet>> {
        // A socket of another shared port may have a seat that this one lacks.
        match self.posters.get(socket.seat as usize) {
            Some(poster) => poster.post(command),
            None => Err(PostError::Closed(command)),
        }
    }

    /// Threads that wait for a seat, and threads that return.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn queue_lengths(&self) -> (usize, usize) {
        self.seats.check();
        self.seats.queue_lengths()
    }

    /// Whether each seat has a thread, which sleeps.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn are_all_held_and_asleep(&self) -> bool {
        self.posters.iter().all(Poster::is_owner_asleep) && !self.seats.watched().contains(&true)
    }

    /// The seats on whose ports the thread sleeps: its own, or also the free ones.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn covered(&self, member: &Member<T, P>, any: bool) -> impl Iterator<Item = u32> {
        let own = member.thread.seat.as_ref().map(super::seats::Content::index);
        let free = self.seats.watched();
        let is_covered = move |index: &usize| Some(*index) == own || any && free[*index];
        (0..self.posters.len()).filter(is_covered).map(|index| u32::try_from(index).unwrap())
    }

    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn ledger_views(&self) -> Vec<LedgerView> {
        self.ledgers.to_vec()
    }

    pub(super) fn ledger(&self) -> BufferCounts {
        self.ledgers.iter().map(LedgerView::ledger).fold(BufferCounts::default(), |sum, ledger| {
            BufferCounts {
                free: sum.free + ledger.free,
                kernel_receive: sum.kernel_receive + ledger.kernel_receive,
                application: sum.application + ledger.application,
                send_queue: sum.send_queue + ledger.send_queue,
                kernel_send: sum.kernel_send + ledger.kernel_send,
                shared: 0,
            }
        })
    }
}

impl<T: Send, P: CommandPort<T> + MovablePort> Shared<T, P> {
    /// One seat for each port, on which threads of the system can wait.
    pub(super) fn of_threads(ports: Vec<P>, sockets_max: u32) -> Result<Self, OsError> {
        let watches = ports.iter().map(P::watch).collect::<Result<_, _>>()?;
        Ok(Self { watches, ..Self::new(ports, sockets_max) })
    }
}

/// A thread's part of a shared port.
pub(crate) struct Member<T: Send, P: CommandPort<T>> {
    shared: Arc<Shared<T, P>>,
    thread: Thread<Box<Seat<P>>, PosterOf<T, P>>,
}

impl<T: Send, P: CommandPort<T>> Member<T, P> {
    pub(super) fn new(shared: Arc<Shared<T, P>>) -> Self {
        let thread = Thread::new(Arc::clone(&shared.seats));
        Self { shared, thread }
    }

    pub(super) fn shared(&self) -> &Shared<T, P> {
        &self.shared
    }

    /// See [`Thread::step`].
    pub(super) fn step(&mut self) -> Result<Step, PortError> {
        self.thread.step()
    }

    /// Gives the thread's seat up, and says whether it had one.
    pub(super) fn give_up_seat(&mut self) -> bool {
        self.thread.release()
    }

    /// See [`Thread::claim`].
    pub(super) fn claim(&mut self, queue: Queue) -> Claim {
        self.thread.claim(queue)
    }

    /// Whether a claim would end with a seat, or because of the close.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn is_granted(&self) -> bool {
        self.thread.is_granted()
    }

    /// Dequeues on the thread's seat without waiting; whether there are completions.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn dequeue_now(&mut self) -> bool {
        let seat = self.thread.seat.as_mut().unwrap();
        seat.dequeue(None).unwrap();
        super::seats::Content::has_completions(seat)
    }

    /// The rest of the wait after a step is not needed.
    pub(super) fn end_wait(&mut self, step: Step) {
        match step {
            Step::Park => self.thread.leave_queue(),
            Step::WaitAny => self.thread.end_wait(),
            Step::Completions | Step::Closed | Step::Wait => {}
        }
    }

    pub(super) fn next_completion<'s>(&'s self) -> Option<Taken<'s, T, P>> {
        let seat = self.thread.seat.as_ref()?;
        seat.inner().borrow_mut().take(&self.shared.sockets[seat.number() as usize])
    }

    pub(super) fn chain_of<'s>(&'s self, data: &[u8]) -> Result<Held<'s, Chain>, NoBuffers> {
        let seat = self.thread.seat.as_ref().ok_or(NoBuffers)?;
        let chain = seat.inner().borrow().port.pool().chain_of(data, Owner::SendQueue)?;
        Ok(Held::new(chain))
    }

    /// The thread's seat, if it is the socket's.
    fn seat_of(&self, socket: SharedSocket) -> Option<RefMut<'_, Inner<P>>> {
        let seat = self.thread.seat.as_ref().filter(|seat| seat.number() == socket.seat)?;
        Some(seat.inner().borrow_mut())
    }

    /// `'s` ends before the thread's seat changes, and so does what an error returns.
    pub(super) fn submit<'s>(
        &'s self,
        socket: SharedSocket,
        operation: SharedOperation<'s>,
    ) -> Result<(), SharedSubmitError<'s>> {
        match self.seat_of(socket) {
            Some(mut seat) => seat.submit(socket, operation),
            None => self.submit_elsewhere(socket, operation),
        }
    }

    /// Posts the operation to the thread that has, or will have, the socket's seat.
    fn submit_elsewhere<'s>(
        &self,
        socket: SharedSocket,
        operation: SharedOperation<'s>,
    ) -> Result<(), SharedSubmitError<'s>> {
        let request = match operation {
            SharedOperation::Accept(mode) => Request::Accept(mode),
            SharedOperation::Receive { mode, bytes_max } => Request::Receive { mode, bytes_max },
            SharedOperation::SendMessage(message) => Request::Send(message),
            SharedOperation::Close => Request::Close,
            SharedOperation::Send(_) => {
                return Err(SharedSubmitError {
                    kind: SharedSubmitErrorKind::OtherSeat,
                    operation,
                });
            }
        };
        self.shared.post_to(socket, Command::Submit(socket, request)).map_err(|refused| {
            let kind = match refused {
                PostError::Full(_) => SharedSubmitErrorKind::InboxFull,
                PostError::Closed(_) => SharedSubmitErrorKind::Closed,
            };
            let operation = match refused.into_packet() {
                Command::Submit(_, Request::Accept(mode)) => SharedOperation::Accept(mode),
                Command::Submit(_, Request::Receive { mode, bytes_max }) => {
                    SharedOperation::Receive { mode, bytes_max }
                }
                Command::Submit(_, Request::Send(message)) => SharedOperation::SendMessage(message),
                Command::Submit(_, Request::Close) => SharedOperation::Close,
                _ => unreachable!("it comes back unchanged"),
            };
            SharedSubmitError { kind, operation }
        })
    }

    pub(super) fn cancel(
        &self,
        socket: SharedSocket,
        kind: OperationKind,
    ) -> Result<(), PostError<()>> {
        let Some(mut seat) = self.seat_of(socket) else {
            return self.call_elsewhere(socket, Command::Cancel(socket, kind));
        };
        seat.port.cancel(socket.socket, kind);
        Ok(())
    }

    pub(super) fn shutdown(&self, socket: SharedSocket) -> Result<(), PostError<()>> {
        let Some(mut seat) = self.seat_of(socket) else {
            return self.call_elsewhere(socket, Command::Shutdown(socket));
        };
        seat.port.shutdown(socket.socket);
        Ok(())
    }

    pub(super) fn reset_on_close(&self, socket: SharedSocket) -> Result<(), PostError<()>> {
        let Some(mut seat) = self.seat_of(socket) else {
            return self.call_elsewhere(socket, Command::ResetOnClose(socket));
        };
        seat.port.reset_on_close(socket.socket);
        Ok(())
    }

    fn call_elsewhere(
        &self,
        socket: SharedSocket,
        command: P::Packet,
    ) -> Result<(), PostError<()>> {
        self.shared.post_to(socket, command).map_err(|refused| refused.map(|_| ()))
    }
}

impl<T: Send, P: CommandPort<T> + MovablePort> Member<T, P> {
    pub(super) fn dequeue(&mut self, timeout: Option<Duration>) -> Result<bool, DequeueError> {
        let deadline = timeout.map(|timeout| self.shared.clock.now().saturating_add(timeout));
        let mut has_waited = false;
        loop {
            let step = self.step()?;
            match step {
                Step::Completions => return Ok(true),
                Step::Closed => return Err(DequeueError::Closed),
                Step::Park | Step::Wait | Step::WaitAny => {}
            }
            let left = deadline.map(|time| time.duration_since(self.shared.clock.now()));
            if has_waited && left == Some(Duration::ZERO) {
                self.end_wait(step);
                return Ok(false);
            }
            self.wait(step, left)?;
            has_waited = true;
        }
    }

    fn wait(&mut self, step: Step, timeout: Option<Duration>) -> Result<(), DequeueError> {
        if step == Step::Park {
            self.thread.park(timeout);
            return Ok(());
        }
        let Some(seat) = &mut self.thread.seat else {
            unreachable!("a thread without a seat is parked")
        };
        let result = if step == Step::Wait {
            seat.dequeue(timeout)
        } else {
            let mut is_watched = self.shared.seats.watched();
            is_watched[super::seats::Content::index(seat)] = true;
            let watches = self.shared.watches.iter().zip(is_watched);
            let watches = watches.filter_map(|(watch, is_watched)| is_watched.then_some(watch));
            let result = crate::linux::wait_readable(watches, timeout);
            self.thread.end_wait();
            result.map_err(PortError::from)
        };
        result.inspect_err(|_| self.shared.close()).map_err(DequeueError::from)
    }

    pub(super) fn blocking<R>(&mut self, run: impl FnOnce() -> R) -> R {
        let had_seat = self.give_up_seat();
        let result = run();
        if had_seat {
            while self.claim(Queue::Returning) == Claim::Queued {
                self.thread.park(None);
            }
        }
        result
    }
}
