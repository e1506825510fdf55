//! What may stand in a text that other people's terminals show.

/// Puts `line` as clean text in place of what `text` holds: what is not UTF-8 becomes a sign for
/// that, a tab a space, and what could command a terminal or turn the reading direction is left
/// out.
///
/// # Cost
///
/// Allocates nothing if `text` has capacity for three bytes for each byte of `line`.
pub(super) fn clean(line: &[u8], text: &mut String) {
    text.clear();
    for chunk in line.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => text.push(' '),
                _ if is_hostile(character) => {}
                _ => text.push(character),
            }
        }
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Control characters, line separators, and those that turn the reading direction.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}')
        || matches!(character, '\u{200E}' | '\u{200F}' | '\u{061C}')
        || matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(line: &[u8]) -> String {
        let mut text = "what was there".to_owned();
        clean(line, &mut text);
        text
    }

    #[test]
    fn terminals_cannot_be_commanded() {
        assert_eq!(cleaned(b"\x1b[2Jhi\x07\x08\x7f\0"), "[2Jhi");
        // The one-character form of ESC [, and a right-to-left override.
        assert_eq!(cleaned("\u{9b}31mred\u{202e}txt".as_bytes()), "31mredtxt");
        assert_eq!(cleaned("a\tb\u{2028}c".as_bytes()), "a bc");
    }

    #[test]
    fn text_in_any_language_stays_and_what_is_no_text_is_marked() {
        assert_eq!(cleaned("完成端口 übung 👩‍💻".as_bytes()), "完成端口 übung 👩‍💻");
        assert_eq!(cleaned(b"a\xff\xfeb\xc3"), "a\u{FFFD}\u{FFFD}b\u{FFFD}");
    }

    #[test]
    fn clean_text_is_at_most_three_times_as_long() {
        let line = [0xff; 100];
        assert_eq!(cleaned(&line).len(), 300);
    }
}
