//! A stream that goes on by itself: each line is a number of bytes that the client gets, in pieces; when it
//! has ended its half and has all of them, the other half ends, too.

use super::api::{Handler, Input, Link, Result, Verdict};
use crate::talks::stream_part;

pub(crate) struct Stream;

#[derive(Default)]
pub(crate) struct Progress {
    position: usize,
    left: usize,
    is_ended: bool,
}

impl Handler<Progress> for Stream {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<Progress> {
        Ok(Progress::default())
    }

    fn on_receive(&self, link: &mut Link<'_, Progress>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(20)? else { return Ok(()) };
        let bytes: usize = str::from_utf8(line)?.parse()?;
        link.state.left += bytes;
        self.on_writable(link)
    }

    fn on_writable(&self, link: &mut Link<'_, Progress>) -> Result {
        let Progress { position, left, is_ended } = link.state;
        let sent = link.out.send_some(&stream_part(*position, (*left).min(PIECE_BYTES)));
        *position += sent;
        *left -= sent;
        if *left > 0 {
            link.out.notify();
        } else if *is_ended {
            link.out.finish();
        }
        Ok(())
    }

    fn on_end(&self, link: &mut Link<'_, Progress>, _: &mut Input<'_>) -> Result<Verdict> {
        link.state.is_ended = true;
        self.on_writable(link)?;
        Ok(Verdict::Keep)
    }
}

const PIECE_BYTES: usize = 90;
