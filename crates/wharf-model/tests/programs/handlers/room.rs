//! A room: what one says, all others read, after a greeting of their own.

use super::api::{Handler, Input, Link, Result};
use crate::talks::{GREETING, SAYING_MAX};

pub(crate) struct Room;

impl Handler for Room {
    fn on_connect(&self, link: &mut Link<'_>) -> Result {
        Ok(link.out.send(GREETING)?)
    }

    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(SAYING_MAX)? else { return Ok(()) };
        link.server.all().except(link.id()).post((line, "\n"));
        Ok(())
    }
}
