//! The types that a server's handler brings with it, under one name.

use crate::handler::Handler;
use std::marker::PhantomData;

/// What the engine is generic over.
pub(crate) trait Service: 'static {
    type Handler: Handler<Self::State, Self::Context>;
    /// What the handler keeps for a link.
    type State: Send + 'static;
    /// What it keeps for a worker thread.
    type Context: 'static;
}

/// The types of a handler with this link state and this worker context.
pub(crate) struct ServiceOf<H, S, W>(PhantomData<H>, PhantomData<fn() -> (S, W)>);

impl<H, S, W> Service for ServiceOf<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    type Handler = H;
    type State = S;
    type Context = W;
}
