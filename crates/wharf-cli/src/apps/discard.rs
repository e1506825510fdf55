//! Discard (RFC 863): what comes in is thrown away, and nothing is answered.

use wharf::{Handler, Link, Result};

/// Throws away.
#[derive(Debug)]
pub(crate) struct Discard;

impl Handler for Discard {
    type Worker = ();
    type State = ();

    fn on_receive(&self, (): &mut (), _: &mut Link<'_, ()>, _: &[u8]) -> Result {
        Ok(())
    }
}
