//! Chargen (RFC 864): rotating lines of the printable characters, for ever; input is thrown away.
//!
//! The pattern repeats after 95 lines, so a table of two rounds holds every piece that can be next,
//! whole. A link has one piece in its queue; the next one follows when the system has taken it
//! (`on_sent`). A client that does not read thus costs a piece, and one that reads is served as
//! fast as it reads, be that slowly. There is always something to be sent, so a link is never idle.

use wharf::{Handler, Link, Result, SendError};

/// Generates characters.
#[derive(Debug)]
pub(crate) struct Chargen {
    /// What is queued at a time while there are buffers enough.
    piece_size: usize,
    /// What is queued when buffers are short: fits the one buffer that a link is always allowed.
    piece_size_min: usize,
}

impl Chargen {
    /// For links whose buffers and send queues have these sizes in bytes.
    pub(crate) fn new(buffer_size: u32, send_queue: u32) -> Self {
        let queue = usize::try_from(send_queue).unwrap_or(usize::MAX);
        let buffer = usize::try_from(buffer_size).unwrap_or(usize::MAX);
        let piece_size = PIECE_SIZE_MAX.min(queue);
        Self { piece_size, piece_size_min: piece_size.min(buffer) }
    }

    fn refill(&self, link: &mut Link<'_, Place>) -> Result {
        let at = usize::from(link.state().0);
        let mut size = self.piece_size;
        if link.send(&ROUNDS[at..at + size]) == Err(SendError::NoBuffers) {
            size = self.piece_size_min;
            link.send(&ROUNDS[at..at + size])?;
        }
        link.state().0 = u16::try_from((at + size) % ROUND_SIZE).unwrap_or(0);
        Ok(())
    }
}

/// Where in the pattern a link is.
#[derive(Debug, Default)]
pub(crate) struct Place(u16);

impl Handler for Chargen {
    type Worker = ();
    type State = Place;

    fn on_connect(&self, (): &mut (), link: &mut Link<'_, Place>) -> Result {
        self.refill(link)
    }

    fn on_receive(&self, (): &mut (), _: &mut Link<'_, Place>, _: &[u8]) -> Result {
        Ok(())
    }

    fn on_sent(&self, (): &mut (), link: &mut Link<'_, Place>) -> Result {
        self.refill(link)
    }
}

/// The printable characters, in ASCII's order.
const PRINTABLE_COUNT: usize = 95;
/// Characters in a line, without its end.
const LINE_LEN: usize = 72;
/// Bytes until the pattern repeats.
const ROUND_SIZE: usize = PRINTABLE_COUNT * (LINE_LEN + 2);
/// Two buffers of the default size: few enough that a client that does not read costs little, and
/// many enough that a turn of the shard is worth its while.
const PIECE_SIZE_MAX: usize = 4_096;
const _: () = assert!(PIECE_SIZE_MAX <= ROUND_SIZE && ROUND_SIZE <= u16::MAX as usize);

static ROUNDS: [u8; 2 * ROUND_SIZE] = rounds();

const fn rounds() -> [u8; 2 * ROUND_SIZE] {
    let mut bytes = [0; 2 * ROUND_SIZE];
    let mut at = 0;
    while at < bytes.len() {
        let (line, column) = (at / (LINE_LEN + 2), at % (LINE_LEN + 2));
        #[expect(clippy::cast_possible_truncation, reason = "less than 95")]
        let character = b' ' + ((line + column) % PRINTABLE_COUNT) as u8;
        bytes[at] = match column {
            LINE_LEN => b'\r',
            column if column > LINE_LEN => b'\n',
            _ => character,
        };
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_n_holds_the_characters_n_to_n_plus_71_of_the_ring() {
        let printable: Vec<u8> = (b' '..=b'~').collect();
        let lines: Vec<&[u8]> = ROUNDS.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 2 * 95);
        for (n, line) in lines.into_iter().enumerate() {
            let ring = printable.iter().cycle().skip(n % 95).take(72).copied();
            let expected: Vec<u8> = ring.chain(*b"\r\n").collect();
            assert_eq!(line, expected, "line {n}");
        }
    }

    #[test]
    fn pieces_fit_their_queue_and_the_small_one_fits_a_buffer() {
        let app = Chargen::new(64, 1);
        assert_eq!((app.piece_size, app.piece_size_min), (1, 1));
        let app = Chargen::new(2_048, 262_144);
        assert_eq!((app.piece_size, app.piece_size_min), (4_096, 2_048));
        let app = Chargen::new(1 << 20, 262_144);
        assert_eq!((app.piece_size, app.piece_size_min), (4_096, 4_096));
    }
}
