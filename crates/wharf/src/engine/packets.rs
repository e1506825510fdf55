//! Packets to workers: from posters, and from the clock.

use crate::handler::OnPost;
use crate::shared::Shared;
use crate::shared::packets::{Inbox, Ticks, WorkerQueue};
use crate::worker::Worker;
use std::sync::Arc;
use std::time::Duration;

/// Where a worker's packets come from, independent of their type.
pub(crate) trait PacketSource<W>: Send {
    /// Calls `on_post` with the next packet; returns whether there was one.
    fn deliver(&mut self, worker: &mut Worker<'_, W>) -> bool;

    /// Drops the next packet; returns whether there was one.
    fn drop_next(&mut self) -> bool;
}

/// The sources of one worker.
pub(crate) type Sources<W> = Vec<Box<dyn PacketSource<W>>>;

/// Makes the sources of a server's workers: an inbox, or a packet of the clock.
pub(crate) trait PacketPlan<H, W> {
    /// Of each worker, and the ticks that the service thread gives.
    fn open(&self, handler: &Arc<H>, server: &Arc<Shared>) -> (Sources<W>, Option<Ticker>);
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
        plans: &[Box<dyn PacketPlan<H, W>>],
        handler: &Arc<H>,
        server: &Arc<Shared>,
    ) -> Self {
        let mut packets = Self {
            workers: server.shards.iter().map(|_| Vec::new()).collect(),
            tickers: Vec::new(),
        };
        for plan in plans {
            let (sources, ticker) = plan.open(handler, server);
            for (worker, source) in packets.workers.iter_mut().zip(sources) {
                worker.push(source);
            }
            packets.tickers.extend(ticker);
        }
        packets
    }
}

impl<P, H, W> PacketPlan<H, W> for Inbox<P>
where
    P: Send + 'static,
    H: OnPost<P, W> + Send + Sync + 'static,
    W: 'static,
{
    fn open(&self, handler: &Arc<H>, server: &Arc<Shared>) -> (Sources<W>, Option<Ticker>) {
        let source = |queue| -> Box<dyn PacketSource<W>> {
            Box::new(Posted { handler: Arc::clone(handler), queue })
        };
        (Self::open(self, server).into_iter().map(source).collect(), None)
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
    fn open(&self, handler: &Arc<H>, server: &Arc<Shared>) -> (Sources<W>, Option<Ticker>) {
        let ticks = Arc::new(Ticks::new(server.shards.len()));
        let source = |worker| -> Box<dyn PacketSource<W>> {
            let (handler, ticks) = (Arc::clone(handler), Arc::clone(&ticks));
            Box::new(Ticked { handler, ticks, worker, packet: self.packet.clone() })
        };
        let sources = (0..server.shards.len()).map(source).collect();
        (sources, Some(Ticker { every: self.every, ticks }))
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
