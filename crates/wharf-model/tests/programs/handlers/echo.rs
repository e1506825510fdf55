//! Echoes all input.

use super::api::{Handler, Input, Link, Result};

pub(crate) struct Echo;

impl Handler for Echo {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.out);
        Ok(())
    }
}
