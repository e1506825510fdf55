//! The model: one worker, its links, and its network.

mod calls;
mod ends;
mod loans;
mod network;
mod posts;
mod slot;
mod timeouts;
mod turn;

pub use slot::{LinkEnd, LinkView};

use crate::interface::{
    Asked, DisconnectReason, Facts, Handle, Handler, Link, LinkId, Output, Posts, Queue, Totals,
    Unread, Worker, WorkerId,
};
use crate::memory::Ledger;
use crate::settings::Settings;
use crate::shares::Loans;
use slot::{Slot, Times};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// One worker with its links and buffers, single-threaded, with a clock that only [`tick`](Self::tick)
/// moves.
///
/// The network is the methods [`connect`](Self::connect), [`arrive`](Self::arrive),
/// [`finish`](Self::finish), [`reset`](Self::reset) and [`leave`](Self::leave); a
/// [`turn`](Self::turn) is one turn of the worker.
pub struct Model<H, S, W> {
    handler: H,
    worker: W,
    pool_worker: W,
    slots: Vec<Slot<S>>,
    settings: Settings,
    server: Handle,
    ledger: Rc<Ledger>,
    now_ms: u64,
    /// When the links that are still open are force-closed.
    drain_until_ms: Option<u64>,
    panics: u32,
}

impl<H, S, W> Model<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// A worker without links.
    ///
    /// # Panics
    ///
    /// If the settings do not fit together, or `on_worker_start` fails.
    pub fn new(handler: H, settings: Settings) -> Self {
        let shares = match settings.check() {
            Ok(shares) => shares,
            Err(what) => panic!("the model does not start: {what}"),
        };
        let server = Handle::new(Posts {
            inbox_max: settings.posts_max,
            post_bytes_max: settings.output_bytes / 2,
            buffer_size_bytes: settings.buffer_size_bytes,
            buffers_max: settings.post_buffers,
            ..Posts::default()
        });
        let ledger = Ledger::new(shares, settings.buffer_count);
        let worker = start_worker(&handler, &server, false);
        let pool_worker = start_worker(&handler, &server, true);
        Self {
            handler,
            worker,
            pool_worker,
            slots: Vec::new(),
            settings,
            server,
            ledger,
            now_ms: 0,
            drain_until_ms: None,
            panics: 0,
        }
    }

    /// A client connects. Returns the link's index; a partner that the handler asked for gets the next
    /// one.
    ///
    /// # Panics
    ///
    /// If `links_max` links are open.
    pub fn connect(&mut self) -> usize {
        self.open(None)
    }

    /// The state of a link.
    #[must_use]
    pub fn link(&self, at: usize) -> LinkView {
        self.slots[at].view()
    }

    /// Links that were ever opened.
    #[must_use]
    pub fn link_count(&self) -> usize {
        self.slots.len()
    }

    /// The handler.
    #[must_use]
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// The worker's context.
    #[must_use]
    pub fn context(&self) -> &W {
        &self.worker
    }

    /// The handle of the server, as other threads have it.
    #[must_use]
    pub fn server(&self) -> &Handle {
        &self.server
    }

    /// Buffers that are lent.
    #[must_use]
    pub fn lent(&self) -> Loans {
        self.ledger.lent()
    }

    /// Buffers that can be lent, all together.
    #[must_use]
    pub fn surplus(&self) -> usize {
        self.ledger.shares.surplus
    }

    /// Buffers that are in the pool.
    #[must_use]
    pub fn free_buffers(&self) -> usize {
        self.ledger.pool.free_count()
    }

    /// Panics of the handler.
    #[must_use]
    pub fn panics(&self) -> u32 {
        self.panics
    }

    fn open(&mut self, partner: Option<usize>) -> usize {
        let open = self.slots.iter().filter(|slot| !slot.is_over()).count();
        assert!(open < self.settings.links_max, "all {open} links are taken");
        let at = self.slots.len();
        let Settings { input_bytes, output_bytes, grant_bytes, .. } = self.settings;
        self.slots.push(Slot {
            input: Unread::new(LinkId(at), &self.ledger, input_bytes),
            out: Queue::new(&self.ledger, output_bytes, grant_bytes),
            state: None,
            end: LinkEnd::Open,
            partner,
            is_paused: false,
            receives: 0,
            calls: 0,
            writables: 0,
            unread_max: 0,
            facts: Facts {
                id: LinkId(at),
                partner_of: partner.map(LinkId),
                in_pool: false,
                totals: Totals::default(),
            },
            asked: Asked {
                close: false,
                abort: false,
                pause: false,
                resume: false,
                connect: false,
                offload: false,
                partner: self.no_output(),
            },
            last: slot::LastCall::default(),
            wakes: false,
            pool_turns: 0,
            drain_called: false,
            end_called: false,
            ending: None,
            is_reset: false,
            times: Times { active_ms: self.now_ms, taken_ms: self.now_ms, deferred_ms: 0 },
        });
        self.call_on_connect(at);
        if std::mem::take(&mut self.slots[at].asked.connect) {
            self.slots[at].partner = Some(at + 1);
            self.open(Some(at));
        }
        at
    }

    fn call_on_connect(&mut self, at: usize) {
        let Self { handler, worker, slots, server, .. } = self;
        let slot = &mut slots[at];
        let mut link = Link {
            out: Output { queue: &mut slot.out, is_partner: false },
            state: &mut (),
            worker,
            server,
            facts: &slot.facts,
            asked: &mut slot.asked,
        };
        match catch_unwind(AssertUnwindSafe(|| handler.on_connect(&mut link))) {
            Ok(Ok(state)) => {
                self.slots[at].state = Some(state);
                self.server.lock().stats.links += 1;
                self.apply_result(at, Some(Ok(())));
            }
            Ok(Err(error)) => {
                self.leave_groups(at);
                self.slots[at].asked.connect = false;
                self.apply_result(at, Some(Err(error)));
            }
            Err(_) => {
                self.leave_groups(at);
                self.slots[at].asked.connect = false;
                self.note_panic();
                self.close_now(at, DisconnectReason::HandlerPanic);
            }
        }
    }

    fn leave_groups(&self, at: usize) {
        for members in self.server.lock().groups.values_mut() {
            members.remove(&LinkId(at));
        }
    }

    fn note_panic(&mut self) {
        self.panics += 1;
        self.worker = start_worker(&self.handler, &self.server, false);
    }

    /// An empty output, while the call has the link's own.
    fn no_output(&self) -> Queue {
        Queue::new(&self.ledger, 0, 0)
    }
}

impl<H, S, W> std::fmt::Debug for Model<H, S, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("links", &self.slots.len())
            .field("lent", &self.ledger.lent())
            .field("now_ms", &self.now_ms)
            .finish_non_exhaustive()
    }
}

fn start_worker<H, S, W>(handler: &H, server: &Handle, pool: bool) -> W
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    let facts = crate::interface::WorkerFacts { id: WorkerId { index: 0, pool }, count: 1 };
    let mut worker = Worker { context: &mut (), server, facts: &facts };
    match handler.on_worker_start(&mut worker) {
        Ok(context) => context,
        Err(error) => panic!("on_worker_start failed: {error}"),
    }
}
