//! Discard (RFC 863): what comes in is thrown away, and nothing is answered.

use wharf::{Handler, Input, Link, Result};

/// Throws away.
#[derive(Debug)]
pub(crate) struct Discard;

impl Handler for Discard {
    fn on_receive(&self, _: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.consume(usize::MAX);
        Ok(())
    }
}
