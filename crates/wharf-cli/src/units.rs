//! Numbers with units, as input and as output.
//!
//! Input: sizes (`2KiB`, `64K`, `10k`), counts (`10k`), durations (`1.5s`, `200ms`, `2m`, `0`).
//! Output: thousands separated by commas, SI prefixes, three significant digits.

use std::time::Duration;

/// Bytes: `2048`, `2KiB` or `2K` (1,024 each), `2kB` or `2k` (1,000 each), and so on for M and G.
pub(crate) fn parse_size(text: &str) -> Result<u32, String> {
    let hint = "a size such as 2048, 2KiB (1,024 bytes each), 10kB (1,000 bytes each) or 1MiB";
    let (number, unit) = split(text, hint)?;
    let factor = match unit {
        "" | "B" | "b" => 1.0,
        "k" | "kB" | "KB" => 1e3,
        "K" | "Ki" | "KiB" => 1024.0,
        "MB" => 1e6,
        "M" | "Mi" | "MiB" => 1024.0 * 1024.0,
        "GB" => 1e9,
        "G" | "Gi" | "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("unknown unit {unit:?}; write {hint}")),
    };
    whole(number * factor, hint)
}

/// A count: `3000`, `3,000`, `10k`, `1M`.
pub(crate) fn parse_count(text: &str) -> Result<u32, String> {
    let hint = "a whole number such as 3000, 10k or 1M";
    let plain = text.replace([',', '_'], "");
    let (number, unit) = split(&plain, hint)?;
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        _ => return Err(format!("unknown unit {unit:?}; write {hint}")),
    };
    whole(number * factor, hint)
}

/// A span of time: `1.5s`, `200ms`, `2m`, `1h`, or `0`. Without a unit a number is ambiguous.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = "a time such as 1.5s, 200ms, 2m, 1h or 0";
    let (number, unit) = split(text, hint)?;
    let factor = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "" if number == 0.0 => 1.0,
        "" => return Err(format!("the unit is missing; write {hint}")),
        _ => return Err(format!("unknown unit {unit:?}; write {hint}")),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|_| format!("too long; write {hint}"))
}

/// The number at the start of `text`, and the rest.
fn split<'a>(text: &'a str, hint: &str) -> Result<(f64, &'a str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| format!("not a number; write {hint}"))?;
    Ok((number, unit.trim_start()))
}

fn whole(number: f64, hint: &str) -> Result<u32, String> {
    if number.fract() != 0.0 {
        return Err(format!("not a whole number; write {hint}"));
    }
    if number > f64::from(u32::MAX) {
        return Err(format!("more than {}; write {hint}", thousands(u32::MAX.into())));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(number as u32)
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and what is counted: `1 link`, `1,234 links`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(number))
}

/// Bytes in three significant digits: `999 B`, `21.2 MB`.
pub(crate) fn bytes(number: u64) -> String {
    if number < 1_000 {
        return format!("{number} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = number as f64;
    let mut unit = "";
    for next in ["kB", "MB", "GB", "TB"] {
        // From 999.5 on, three digits would round up to a thousand.
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1e3, next);
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {unit}")
}

/// A buffer's size as it is usually named: `2 KiB`, or `1,500 B`.
pub(crate) fn buffer_size(bytes: u32) -> String {
    match bytes {
        _ if bytes > 0 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes > 0 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{} B", thousands(bytes.into())),
    }
}

/// A span of time in its two largest units: `1 min 40 s`, `10 s`, `200 ms`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (large, small) = match seconds {
        0 => return format!("{} ms", span.as_millis()),
        1..60 if span.subsec_millis() > 0 => return format!("{:.1} s", span.as_secs_f64()),
        1..60 => return format!("{seconds} s"),
        60..3_600 => ((seconds / 60, "min"), (seconds % 60, "s")),
        3_600..86_400 => ((seconds / 3_600, "h"), (seconds / 60 % 60, "min")),
        _ => ((seconds / 86_400, "d"), (seconds / 3_600 % 24, "h")),
    };
    if small.0 == 0 {
        format!("{} {}", thousands(large.0), large.1)
    } else {
        format!("{} {} {} {}", thousands(large.0), large.1, small.0, small.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        for (text, size) in [
            ("2048", 2_048),
            ("2KiB", 2_048),
            ("64K", 65_536),
            ("10k", 10_000),
            ("10 kB", 10_000),
            ("1.5KiB", 1_536),
            ("1MiB", 1 << 20),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "x", "2KX", "1.0001k", "-1", "5GiB", "1..2"] {
            assert!(parse_size(text).unwrap_err().contains("such as"), "{text}");
        }
    }

    #[test]
    fn counts_know_thousands() {
        assert_eq!(parse_count("3,000"), Ok(3_000));
        assert_eq!(parse_count("10k"), Ok(10_000));
        assert_eq!(parse_count("1.5M"), Ok(1_500_000));
        assert!(parse_count("10KiB").is_err());
    }

    #[test]
    fn durations_need_a_unit_unless_they_are_zero() {
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("10").unwrap_err().contains("unit is missing"));
        assert!(parse_duration("10 parsecs").unwrap_err().contains("\"parsecs\""));
        assert!(parse_duration("99999999999999999999h").unwrap_err().contains("too long"));
    }

    #[test]
    fn numbers_are_shown_in_groups_of_three() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(18_097_454), "18,097,454");
        assert_eq!(counted(0, "link"), "0 links");
        assert_eq!(counted(1, "link"), "1 link");
        assert_eq!(counted(1_204, "link"), "1,204 links");
    }

    #[test]
    fn bytes_are_shown_in_three_digits() {
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (9_996, "10.0 kB"),
            (999_600, "1.00 MB"),
            (21_234_567, "21.2 MB"),
            (5_000_000_000_000, "5.00 TB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        assert_eq!(buffer_size(2_048), "2 KiB");
        assert_eq!(buffer_size(1_500), "1,500 B");
    }

    #[test]
    fn spans_are_shown_in_two_units() {
        let text = |ms| span(Duration::from_millis(ms));
        assert_eq!(text(200), "200 ms");
        assert_eq!(text(1_500), "1.5 s");
        assert_eq!(text(10_000), "10 s");
        assert_eq!(text(100_000), "1 min 40 s");
        assert_eq!(text(7_200_000), "2 h");
        assert_eq!(text(90_000_000), "1 d 1 h");
    }
}
