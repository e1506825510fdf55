//! Sends files of any size in constant memory: as much as there is capacity for, and on when there is more.
//!
//! A request is a line with the file's number; the reply is its length, and its bytes.

use super::api::{Error, Handler, Input, Link, Result};
use std::io::Cursor;
use std::sync::Arc;

pub(crate) struct Files(pub(crate) Vec<Arc<[u8]>>);

/// The file that is being sent, and how many of its bytes are left.
pub(crate) type Transfer = Option<(Cursor<Arc<[u8]>>, u64)>;

impl Handler<Transfer> for Files {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<Transfer> {
        Ok(None)
    }

    fn on_receive(&self, link: &mut Link<'_, Transfer>, input: &mut Input<'_>) -> Result {
        if link.state.is_some() {
            // During a reply the next request stays unread.
            return Ok(());
        }
        let Some(number) = input.line(255)? else { return Ok(()) };
        let number: usize = str::from_utf8(number)?.parse()?;
        let file = self.0.get(number).ok_or(Error::msg("there is no such file"))?;
        writeln!(link.out, "{}", file.len())?;
        *link.state = Some((Cursor::new(Arc::clone(file)), file.len() as u64));
        self.on_writable(link)
    }

    fn on_writable(&self, link: &mut Link<'_, Transfer>) -> Result {
        let Some((file, left)) = link.state else { return Ok(()) };
        let copied = link.out.read_from(file, *left)?;
        *left -= copied.bytes;
        if *left == 0 {
            *link.state = None;
        } else if copied.ended {
            return Err(Error::msg("the file has become shorter"));
        }
        Ok(())
    }
}
