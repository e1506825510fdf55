//! Splits a stream into lines of bounded length, in memory that is part of each link.

/// Bytes in a line, without its line feed.
pub(super) const LINE_BYTES_MAX: usize = 1_024;

/// The line that a link is in the middle of.
pub(super) struct Line {
    bytes: [u8; LINE_BYTES_MAX],
    len: u16,
    telnet: Telnet,
}

/// What came of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A whole line.
    Line,
    /// All bytes, and the line is not over.
    Part,
    /// More than a line may have.
    TooLong,
}

/// Where in one of telnet's commands (RFC 854) the stream is; they begin with a byte, 255, that is
/// never part of UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Telnet {
    #[default]
    Text,
    Command,
    /// WILL, WONT, DO and DONT are followed by an option.
    Option,
}

impl Line {
    /// Takes bytes off `input` up to the end of a line, and puts the line, without CR and LF, in
    /// place of what `out` holds.
    ///
    /// # Cost
    ///
    /// Allocates nothing if `out` has capacity for [`LINE_BYTES_MAX`].
    pub(super) fn take(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Taken {
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            match (self.telnet, *byte) {
                (Telnet::Text, IAC) => self.telnet = Telnet::Command,
                (Telnet::Command, WILL..=DONT) => self.telnet = Telnet::Option,
                (Telnet::Command | Telnet::Option, _) => self.telnet = Telnet::Text,
                (Telnet::Text, b'\n') => {
                    let line = &self.bytes[..usize::from(self.len)];
                    out.clear();
                    out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                    self.len = 0;
                    return Taken::Line;
                }
                (Telnet::Text, byte) => match self.bytes.get_mut(usize::from(self.len)) {
                    Some(place) => {
                        *place = byte;
                        self.len += 1;
                    }
                    None => return Taken::TooLong,
                },
            }
        }
        Taken::Part
    }
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; LINE_BYTES_MAX], len: 0, telnet: Telnet::Text }
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Telnet: the next byte is a command.
const IAC: u8 = 255;
const WILL: u8 = 251;
const DONT: u8 = 254;

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines in `pieces`, and how it ended.
    fn lines(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Taken) {
        let (mut line, mut out, mut lines) = (Line::default(), Vec::new(), Vec::new());
        let mut last = Taken::Part;
        for piece in pieces {
            let mut rest = *piece;
            loop {
                last = line.take(&mut rest, &mut out);
                match last {
                    Taken::Line => lines.push(out.clone()),
                    Taken::Part => break,
                    Taken::TooLong => return (lines, last),
                }
            }
        }
        (lines, last)
    }

    #[test]
    fn lines_end_in_lf_or_crlf_wherever_the_stream_is_cut() {
        let stream = b"one\r\ntwo\n\nthr\ree\r\nrest";
        let expected: Vec<&[u8]> = vec![b"one", b"two", b"", b"thr\ree"];
        for cut in 0..stream.len() {
            let (found, end) = lines(&[&stream[..cut], &stream[cut..]]);
            assert_eq!((found, end), (expected.iter().map(|l| l.to_vec()).collect(), Taken::Part));
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(lines(&bytes).0, expected);
    }

    #[test]
    fn a_line_may_have_exactly_its_limit() {
        let mut longest = vec![b'x'; LINE_BYTES_MAX];
        longest.push(b'\n');
        let (found, end) = lines(&[&longest]);
        assert_eq!((found.len(), found[0].len(), end), (1, LINE_BYTES_MAX, Taken::Part));
        longest.insert(0, b'x');
        assert_eq!(lines(&[&longest]), (vec![], Taken::TooLong));
    }

    #[test]
    fn telnet_commands_are_not_text() {
        // Ctrl-C in telnet: IAC IP, IAC DO TIMING-MARK; then an option that looks like text.
        let stream =
            [b"a".as_slice(), &[255, 244, 255, 253, 6], b"b", &[255, 251, b'\n'], b"c\r\n"];
        assert_eq!(lines(&[&stream.concat()]).0, [b"abc"]);
        assert_eq!(lines(&stream).0, [b"abc"]);
    }
}
