//! Messages of up to 4,000 bytes, with a length of four bytes before them, are sent back reversed.

use super::api::{Handler, Input, LengthPrefix, Link, Result};
use crate::talks::MESSAGE_MAX;

pub(crate) struct Reversed;

const FRAMES: LengthPrefix = LengthPrefix::new(4, MESSAGE_MAX);

impl Handler for Reversed {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(message) = input.frame(FRAMES)? else { return Ok(()) };
        let mut message = message.to_vec();
        message.reverse();
        // It may be longer than the grant: if it does not fit yet, the handler is called again with it.
        if link.out.ensure(4 + message.len())? {
            link.out.send(FRAMES.of(message))?;
        } else {
            input.rewind();
        }
        Ok(())
    }
}
