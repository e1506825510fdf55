//! Packets to workers: from posters, and from the clock.

use crate::guard::catch_user_panic;
use crate::handler::OnPost;
use crate::shared::Shared;
use crate::shared::packets::{Inbox, Ticks, WorkerQueue};
use crate::worker::Worker;
use std::sync::Arc;
use std::time::Duration;
use wharf_port::memory::MemoryError;

/// Where a worker's packets come from, independent of their type.
pub(crate) trait PacketSource<W>: Send {
    /// Calls `on_post` with the next packet; returns whether there was one.
    fn deliver(&mut self, worker: &mut Worker<'_, W>) -> bool;

    /// Drops the next packet; returns whether there was one.
    fn drop_next(&mut self) -> bool;
}

/// The sources of one worker. Their drop guards those of users' packets.
pub(crate) struct Sources<W>(pub(super) Vec<Box<dyn PacketSource<W>>>);

impl<W> Sources<W> {
    /// Drops all packets and sources, one by one; returns how many drops panicked.
    pub(super) fn drop_all(&mut self) -> u64 {
        let mut panics = 0;
        let mut drop_one = |act: &mut dyn FnMut() -> bool| {
            let mut goes_on = true;
            panics += u64::from(!catch_user_panic(|| goes_on = act()));
            goes_on
        };
        while let Some(mut source) = self.0.pop() {
            while drop_one(&mut || source.drop_next()) {}
            let mut source = Some(source);
            drop_one(&mut || source.take().is_none());
        }
        panics
    }
}

impl<W> Drop for Sources<W> {
    fn drop(&mut self) {
        let _nothing_counts_them = self.drop_all();
    }
}

/// Makes the sources of a server's workers: an inbox, or a packet of the clock.
pub(crate) trait PacketPlan<H, W> {
    /// A source for each worker, and the ticks that the service thread gives.
    fn open(&self, handler: &Arc<H>, server: &Arc<Shared>) -> Opened<W>;
}

type Opened<W> = Result<(Vec<Box<dyn PacketSource<W>>>, Option<Ticker>), MemoryError>;

/// The plans of a builder. Their drop guards those of users' packets.
pub(crate) struct PacketPlans<H, W>(pub(crate) Vec<Box<dyn PacketPlan<H, W>>>);

impl<H, W> Drop for PacketPlans<H, W> {
    fn drop(&mut self) {
        for plan in self.0.drain(..) {
            catch_user_panic(|| drop(plan));
        }
    }
}

/// Ticks that the service thread gives.
#[derive(Clone, Debug)]
pub(crate) struct Ticker {
    pub(crate) every: Duration,
    pub(crate) ticks: Arc<Ticks>,
}

/// The packets of a server: the sources of each worker, and the tickers of the service thread.
pub(crate) struct Packets<W> {
    pub(crate) workers: Vec<Sources<W>>,
    pub(crate) tickers: Vec<Ticker>,
}

impl<W> Packets<W> {
    pub(crate) fn open<H>(
        plans: &PacketPlans<H, W>,
        handler: &Arc<H>,
        server: &Arc<Shared>,
    ) -> Result<Self, MemoryError> {
        let mut packets = Self {
            workers: server.shards.iter().map(|_| Sources(Vec::new())).collect(),
            tickers: Vec::new(),
        };
        for plan in &plans.0 {
            let (sources, ticker) = plan.open(handler, server)?;
            for (worker, source) in packets.workers.iter_mut().zip(sources) {
                worker.0.push(source);
            }
            packets.tickers.extend(ticker);
        }
        Ok(packets)
    }
}

impl<P, H, W> PacketPlan<H, W> for Inbox<P>
where
    P: Send + 'static,
    H: OnPost<P, W> + Send + Sync + 'static,
    W: 'static,
{
    fn open(&self, handler: &Arc<H>, server: &Arc<Shared>) -> Opened<W> {
        let source = |queue| -> Box<dyn PacketSource<W>> {
            Box::new(Posted { handler: Arc::clone(handler), queue })
        };
        Ok((Self::open(self, server)?.into_iter().map(source).collect(), None))
    }
}

struct Posted<P, H> {
    handler: Arc<H>,
    queue: WorkerQueue<P>,
}

impl<P: Send, H: OnPost<P, W> + Send + Sync, W> PacketSource<W> for Posted<P, H> {
    fn deliver(&mut self, worker: &mut Worker<'_, W>) -> bool {
        let Some(packet) = self.queue.take() else { return false };
        self.handler.on_post(worker, packet);
        true
    }

    fn drop_next(&mut self) -> bool {
        self.queue.take().is_some()
    }
}

/// The packet of [`Builder::every`](crate::Builder::every).
pub(crate) struct Every<P> {
    pub(crate) every: Duration,
    pub(crate) packet: P,
}

impl<P, H, W> PacketPlan<H, W> for Every<P>
where
    P: Clone + Send + 'static,
    H: OnPost<P, W> + Send + Sync + 'static,
    W: 'static,
{
    fn open(&self, handler: &Arc<H>, server: &Arc<Shared>) -> Opened<W> {
        let ticks = Arc::new(Ticks::new(server.shards.len()));
        let source = |worker| -> Box<dyn PacketSource<W>> {
            let (handler, ticks) = (Arc::clone(handler), Arc::clone(&ticks));
            Box::new(Ticked { handler, ticks, worker, packet: self.packet.clone() })
        };
        let sources = (0..server.shards.len()).map(source).collect();
        Ok((sources, Some(Ticker { every: self.every, ticks })))
    }
}

struct Ticked<P, H> {
    handler: Arc<H>,
    ticks: Arc<Ticks>,
    worker: usize,
    packet: P,
}

impl<P: Clone + Send, H: OnPost<P, W> + Send + Sync, W> PacketSource<W> for Ticked<P, H> {
    fn deliver(&mut self, worker: &mut Worker<'_, W>) -> bool {
        let is_due = self.ticks.take(self.worker);
        if is_due {
            self.handler.on_post(worker, self.packet.clone());
        }
        is_due
    }

    fn drop_next(&mut self) -> bool {
        false
    }
}
