//! Echo (RFC 862): sends back all received bytes.

use wharf::{Handler, Input, Link, Result};

/// Echoes.
#[derive(Debug)]
pub(crate) struct Echo;

impl Handler for Echo {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        // What the output has no capacity for stays unread until it has.
        input.forward(&mut link.out);
        Ok(())
    }
}
