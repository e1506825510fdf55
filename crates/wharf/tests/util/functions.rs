//! A handler of functions, one for each callback that a test is about.

use super::Record;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wharf::{DisconnectReason, Handler, Input, Link, Result, Verdict};

type OnLink<S, T> = Box<dyn Fn(&mut Link<'_, S>) -> Result<T> + Send + Sync>;
type OnInput<S, T> = Box<dyn Fn(&mut Link<'_, S>, &mut Input<'_>) -> Result<T> + Send + Sync>;
type OnConnect<S> = Box<dyn Fn(&mut Link<'_>) -> Result<S> + Send + Sync>;
type OnDisconnect<S> = Box<dyn Fn(&mut Link<'_, S>, DisconnectReason) + Send + Sync>;

/// Calls the functions of the test; a callback without one does what the trait's default does, and
/// input is consumed.
pub(crate) struct Functions<S> {
    pub(crate) record: Arc<Record>,
    pub(crate) calls: Arc<Calls>,
    connect: OnConnect<S>,
    receive: OnInput<S, ()>,
    writable: OnLink<S, ()>,
    end: OnInput<S, Verdict>,
    idle: OnLink<S, Verdict>,
    drain: OnLink<S, Verdict>,
    disconnect: OnDisconnect<S>,
}

/// Numbers of calls of each callback.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    receives: AtomicU64,
    writables: AtomicU64,
    ends: AtomicU64,
    idles: AtomicU64,
    drains: AtomicU64,
}

impl Calls {
    pub(crate) fn receives(&self) -> u64 {
        self.receives.load(Ordering::SeqCst)
    }

    pub(crate) fn writables(&self) -> u64 {
        self.writables.load(Ordering::SeqCst)
    }

    pub(crate) fn ends(&self) -> u64 {
        self.ends.load(Ordering::SeqCst)
    }

    pub(crate) fn idles(&self) -> u64 {
        self.idles.load(Ordering::SeqCst)
    }

    pub(crate) fn drains(&self) -> u64 {
        self.drains.load(Ordering::SeqCst)
    }
}

/// The state of each link begins as the default of `S`.
pub(crate) fn functions<S: Default + Send + 'static>() -> Functions<S> {
    Functions {
        record: Arc::default(),
        calls: Arc::default(),
        connect: Box::new(|_| Ok(S::default())),
        receive: Box::new(|_, input| {
            input.consume(usize::MAX);
            Ok(())
        }),
        writable: Box::new(|_| Ok(())),
        end: Box::new(|_, _| Ok(Verdict::Close)),
        idle: Box::new(|_| Ok(Verdict::Close)),
        drain: Box::new(|_| Ok(Verdict::Close)),
        disconnect: Box::new(|_, _| {}),
    }
}

impl<S> Functions<S> {
    pub(crate) fn on_connect(
        mut self,
        connect: impl Fn(&mut Link<'_>) -> Result<S> + Send + Sync + 'static,
    ) -> Self {
        self.connect = Box::new(connect);
        self
    }

    pub(crate) fn on_receive(
        mut self,
        receive: impl Fn(&mut Link<'_, S>, &mut Input<'_>) -> Result + Send + Sync + 'static,
    ) -> Self {
        self.receive = Box::new(receive);
        self
    }

    pub(crate) fn on_writable(
        mut self,
        writable: impl Fn(&mut Link<'_, S>) -> Result + Send + Sync + 'static,
    ) -> Self {
        self.writable = Box::new(writable);
        self
    }

    pub(crate) fn on_end(
        mut self,
        end: impl Fn(&mut Link<'_, S>, &mut Input<'_>) -> Result<Verdict> + Send + Sync + 'static,
    ) -> Self {
        self.end = Box::new(end);
        self
    }

    pub(crate) fn on_idle(
        mut self,
        idle: impl Fn(&mut Link<'_, S>) -> Result<Verdict> + Send + Sync + 'static,
    ) -> Self {
        self.idle = Box::new(idle);
        self
    }

    pub(crate) fn on_drain(
        mut self,
        drain: impl Fn(&mut Link<'_, S>) -> Result<Verdict> + Send + Sync + 'static,
    ) -> Self {
        self.drain = Box::new(drain);
        self
    }

    pub(crate) fn on_disconnect(
        mut self,
        disconnect: impl Fn(&mut Link<'_, S>, DisconnectReason) + Send + Sync + 'static,
    ) -> Self {
        self.disconnect = Box::new(disconnect);
        self
    }

    /// What the test reads while a server has the handler.
    pub(crate) fn watched(self) -> (Self, Arc<Record>, Arc<Calls>) {
        let (record, calls) = (Arc::clone(&self.record), Arc::clone(&self.calls));
        (self, record, calls)
    }
}

impl<S: Send + 'static> Handler<S> for Functions<S> {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<S> {
        let state = (self.connect)(link)?;
        self.record.connected(link);
        Ok(state)
    }

    fn on_receive(&self, link: &mut Link<'_, S>, input: &mut Input<'_>) -> Result {
        self.calls.receives.fetch_add(1, Ordering::SeqCst);
        (self.receive)(link, input)
    }

    fn on_writable(&self, link: &mut Link<'_, S>) -> Result {
        self.calls.writables.fetch_add(1, Ordering::SeqCst);
        (self.writable)(link)
    }

    fn on_end(&self, link: &mut Link<'_, S>, input: &mut Input<'_>) -> Result<Verdict> {
        self.calls.ends.fetch_add(1, Ordering::SeqCst);
        (self.end)(link, input)
    }

    fn on_idle(&self, link: &mut Link<'_, S>) -> Result<Verdict> {
        self.calls.idles.fetch_add(1, Ordering::SeqCst);
        (self.idle)(link)
    }

    fn on_drain(&self, link: &mut Link<'_, S>) -> Result<Verdict> {
        self.calls.drains.fetch_add(1, Ordering::SeqCst);
        (self.drain)(link)
    }

    fn on_disconnect(&self, link: &mut Link<'_, S>, reason: DisconnectReason) {
        self.record.disconnected(link, reason);
        (self.disconnect)(link, reason);
    }
}
