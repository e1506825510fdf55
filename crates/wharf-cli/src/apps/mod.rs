//! What `wharf serve` can serve: each a [`Handler`](wharf::Handler) of its own.

mod chargen;
mod chat;
mod discard;
mod echo;

pub(crate) use chargen::Chargen;
pub(crate) use chat::Chat;
pub(crate) use discard::Discard;
pub(crate) use echo::Echo;
