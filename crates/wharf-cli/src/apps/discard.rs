//! Discard (RFC 863): discards all received bytes, and sends none.

use wharf::{Handler, Input, Link, Result};

/// Discards.
#[derive(Debug)]
pub(crate) struct Discard;

impl Handler for Discard {
    fn on_receive(&self, _: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.consume(usize::MAX);
        Ok(())
    }
}
