//! Chargen (RFC 864): rotating lines of the printable characters, indefinitely; input is discarded.
//!
//! The pattern repeats after 95 lines, so a table of two rounds holds every piece that can be next,
//! whole. A link's output is limited to one piece; the next follows when the system has taken some
//! (`on_writable`). A client that does not read thus costs a piece, and one that reads is served as
//! fast as it reads, be that slowly. There is always something to be sent, so a link is never idle,
//! and a client that has only ended its half is still served.

use wharf::{Handler, Input, Link, Output, Result};

/// Generates characters.
#[derive(Debug)]
pub(crate) struct Chargen;

/// Where in the pattern a link is.
#[derive(Debug, Default)]
pub(crate) struct Position(u16);

impl Position {
    /// Queues as much of the next piece as there is capacity for, and asks for the next call.
    fn refill(&mut self, out: &mut Output<'_>) {
        let at = usize::from(self.0);
        let len = out.send_some(&ROUNDS[at..at + PIECE_SIZE]);
        self.0 = u16::try_from((at + len) % ROUND_SIZE).unwrap_or(0);
        out.notify();
    }
}

impl Handler<Position> for Chargen {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<Position> {
        // More than that, if two grants are more.
        link.out.set_limit_bytes(PIECE_SIZE);
        let mut position = Position::default();
        position.refill(&mut link.out);
        Ok(position)
    }

    fn on_receive(&self, _: &mut Link<'_, Position>, input: &mut Input<'_>) -> Result {
        input.consume(usize::MAX);
        Ok(())
    }

    fn on_writable(&self, link: &mut Link<'_, Position>) -> Result {
        if link.server.is_stopping() {
            // Otherwise it would refill its output until the drain timeout.
            link.close();
        } else {
            link.state.refill(&mut link.out);
        }
        Ok(())
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
const PIECE_SIZE: usize = 4_096;
const _: () = assert!(PIECE_SIZE <= ROUND_SIZE && ROUND_SIZE <= u16::MAX as usize);

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
}
