//! The types of a server's handler, under one name.

use crate::handler::Handler;
use std::marker::PhantomData;

/// The parameter over which the engine is generic.
pub(crate) trait Service: 'static {
    type Handler: Handler<Self::State, Self::Context>;
    /// The state of a link.
    type State: Send + 'static;
    /// The context of a worker.
    type Context: 'static;
}

/// The types of the handler `H` with link state `S` and worker context `W`.
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
