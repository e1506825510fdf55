//! Echo (RFC 862): what comes in goes out again.

use wharf::{Handler, Link, Result};

/// Echoes.
#[derive(Debug)]
pub(crate) struct Echo;

impl Handler for Echo {
    type Worker = ();
    type State = ();

    fn on_receive(&self, (): &mut (), link: &mut Link<'_, ()>, data: &[u8]) -> Result {
        Ok(link.send(data)?)
    }
}
