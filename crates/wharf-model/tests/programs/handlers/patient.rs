//! Takes the next line only when the reply to the last one was sent, and asks for nothing until then.

use super::api::{Handler, Input, Link, Result};
use crate::talks::QUESTION_MAX;

pub(crate) struct Patient;

impl Handler for Patient {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        if link.out.unsent_bytes() > 0 {
            return Ok(());
        }
        let Some(line) = input.line(QUESTION_MAX)? else { return Ok(()) };
        Ok(link.out.send((line, "\n"))?)
    }
}
