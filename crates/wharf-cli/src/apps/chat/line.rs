//! Splits a stream into lines of bounded length, in memory that is part of each link.

/// Bytes in a line, without its end, which is LF or CR LF.
pub(super) const LINE_BYTES_MAX: usize = 1_024;

/// The line that a link is in the middle of.
pub(super) struct Line {
    /// One more than a line may have, for the CR of its end.
    bytes: [u8; LINE_BYTES_MAX + 1],
    len: u16,
    telnet: Telnet,
    /// Bytes of the values that `telnet` is within.
    values_len: u16,
}

/// What came of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A whole line.
    Line,
    /// All bytes, and the line is not over.
    Part,
    /// More than a line, or the values of a command of telnet, may have.
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
    /// SB is followed by an option and its values, up to IAC SE.
    Values,
    ValuesCommand,
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
            if self.telnet == Telnet::Command && *byte < FIRST_COMMAND {
                // The client does not speak telnet.
                self.telnet = Telnet::Text;
            }
            match (self.telnet, *byte) {
                (Telnet::Text, IAC) => self.telnet = Telnet::Command,
                (Telnet::Command, WILL..=DONT) => self.telnet = Telnet::Option,
                (Telnet::Command, SB) => {
                    self.telnet = Telnet::Values;
                    self.values_len = 0;
                }
                (Telnet::ValuesCommand, SE) => self.telnet = Telnet::Text,
                (Telnet::Values | Telnet::ValuesCommand, byte) => {
                    let is_command = self.telnet == Telnet::Values && byte == IAC;
                    self.telnet = if is_command { Telnet::ValuesCommand } else { Telnet::Values };
                    if usize::from(self.values_len) == LINE_BYTES_MAX {
                        return Taken::TooLong;
                    }
                    self.values_len += 1;
                }
                (Telnet::Command | Telnet::Option, _) => self.telnet = Telnet::Text,
                (Telnet::Text, b'\n') => {
                    let line = &self.bytes[..usize::from(self.len)];
                    out.clear();
                    out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                    self.len = 0;
                    return Taken::Line;
                }
                (Telnet::Text, byte) => {
                    let len = usize::from(self.len);
                    let max = if byte == b'\r' { LINE_BYTES_MAX + 1 } else { LINE_BYTES_MAX };
                    if len >= max {
                        return Taken::TooLong;
                    }
                    self.bytes[len] = byte;
                    self.len += 1;
                }
            }
        }
        Taken::Part
    }
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; LINE_BYTES_MAX + 1], len: 0, telnet: Telnet::Text, values_len: 0 }
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Telnet: the next byte is a command.
const IAC: u8 = 255;
/// EOF of RFC 1184; those of RFC 854 begin with SE.
const FIRST_COMMAND: u8 = 236;
const SE: u8 = 240;
const SB: u8 = 250;
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
    fn a_line_may_have_exactly_its_limit_whatever_its_end() {
        let text = |len| vec![b'x'; len];
        for end in [&b"\n"[..], b"\r\n"] {
            let longest = [&text(LINE_BYTES_MAX), end].concat();
            let (found, last) = lines(&[&longest]);
            assert_eq!((found.len(), found[0].len(), last), (1, LINE_BYTES_MAX, Taken::Part));
            let bytes: Vec<&[u8]> = longest.chunks(1).collect();
            assert_eq!(lines(&bytes).0, found);
            let longer = [&text(LINE_BYTES_MAX + 1), end].concat();
            assert_eq!(lines(&[&longer]), (vec![], Taken::TooLong));
        }
        // A CR that is no end counts.
        for (end, counted) in [(&b"\r\r\n"[..], 1), (b"\rx\n", 2)] {
            let longer = [&text(LINE_BYTES_MAX), end].concat();
            assert_eq!(lines(&[&longer]), (vec![], Taken::TooLong));
            let longest = [&text(LINE_BYTES_MAX - counted), end].concat();
            assert_eq!(lines(&[&longest]).1, Taken::Part, "{end:?}");
        }
    }

    #[test]
    fn telnet_commands_are_not_text() {
        // Ctrl-C in telnet: IAC IP, IAC DO TIMING-MARK; then an option that looks like text.
        let stream =
            [b"a".as_slice(), &[255, 244, 255, 253, 6], b"b", &[255, 251, b'\n'], b"c\r\n"];
        assert_eq!(lines(&[&stream.concat()]).0, [b"abc"]);
        assert_eq!(lines(&stream).0, [b"abc"]);

        // A window's size, with a line feed, a 255 and an SE in it; then SE alone.
        let size = [255, 250, 31, 0, 80, 0, b'\n', 255, 255, 240, 255, 240];
        let stream = [&b"a"[..], &size, b"b\n", &[255, 240], b"c\n"];
        assert_eq!(lines(&[&stream.concat()]).0, [b"ab".to_vec(), b"c".to_vec()]);
        let stream = stream.concat();
        assert_eq!(lines(&stream.chunks(1).collect::<Vec<_>>()).0.len(), 2);
    }

    #[test]
    fn a_byte_255_without_a_command_takes_nothing_along() {
        for (stream, expected) in [
            (&b"a\xff\nb\n"[..], &["a", "b"][..]),
            (b"a\xff\r\nb\n", &["a", "b"]),
            (b"a\xffbc\n", &["abc"]),
            (b"\xff\xffa\n", &["a"]),
            // EOF, SUSP, ABORT (RFC 1184) and EOR (RFC 885) are commands.
            (b"a\xff\xec\xff\xed\xff\xee\xff\xef\n", &["a"]),
        ] {
            let expected: Vec<_> = expected.iter().map(|line| line.as_bytes().to_vec()).collect();
            assert_eq!(lines(&[stream]), (expected.clone(), Taken::Part), "{stream:?}");
            assert_eq!(lines(&stream.chunks(1).collect::<Vec<_>>()).0, expected, "{stream:?}");
        }
    }

    #[test]
    fn values_may_be_as_long_as_a_line() {
        let begin = [IAC, SB, 31];
        let values = |piece: &[u8], len: usize| piece.iter().copied().cycle().take(len).collect();
        let stream = |values: Vec<u8>| [&begin[..], &values, &[IAC, SE], b"a\n"].concat();
        for piece in [&b"x"[..], b"\n", &[IAC, IAC], &[IAC, b'x']] {
            let longest = stream(values(piece, LINE_BYTES_MAX - 4));
            assert_eq!(lines(&[&longest]), (vec![b"a".to_vec()], Taken::Part), "{piece:?}");
            // Each may be so long.
            assert_eq!(lines(&[&longest, &longest]).0.len(), 2);
            let longer = stream(values(piece, LINE_BYTES_MAX));
            assert_eq!(lines(&[&longer]), (vec![], Taken::TooLong), "{piece:?}");
        }
    }
}
