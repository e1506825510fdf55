//! Numbers with units, as input and as output: one grammar, and what is printed parses.
//!
//! ```text
//!   number   = ( DIGITS | D, DD or DDD { "," DDD } | DIGITS { "_" DIGITS } ) [ "." DIGITS ]
//!   size     = number [ unit ]      2048, 2KiB, 2 KiB, 64K, 10k, 21.2 MB
//!   count    = number [ unit ]      3000, 3,000, 10k
//!   duration = "0" | number unit { number unit }     1.5s, 200 ms, 1 h 30 min
//! ```
//!
//! Values are exact: a text whose value is not a whole number of bytes or of nanoseconds is refused, and
//! not rounded. Only the last number of a duration may have decimals, and its units fall.

use std::time::Duration;

/// Bytes: `2048`, `2KiB` or `2K` (1,024 each), `2kB` or `2k` (1,000 each), and so on for M, G and T.
pub(crate) fn parse_size(text: &str) -> Result<u32, String> {
    const KIB: u128 = 1 << 10;
    let hint = "a size such as 2048, 2KiB (1,024 bytes each), 10kB (1,000 bytes each) or 1MiB";
    one_number(text, hint, |unit| match unit {
        "" | "B" | "b" => Some(1),
        "k" | "kB" | "KB" => Some(1_000),
        "K" | "Ki" | "KiB" => Some(KIB),
        "MB" => Some(1_000_000),
        "M" | "Mi" | "MiB" => Some(KIB.pow(2)),
        "GB" => Some(1_000_000_000),
        "G" | "Gi" | "GiB" => Some(KIB.pow(3)),
        "TB" => Some(1_000_000_000_000),
        "T" | "Ti" | "TiB" => Some(KIB.pow(4)),
        _ => None,
    })
}

/// A count: `3000`, `3,000`, `10k`, `1M`.
pub(crate) fn parse_count(text: &str) -> Result<u32, String> {
    one_number(text, "a whole number such as 3000, 10k or 1M", |unit| match unit {
        "" => Some(1),
        "k" | "K" => Some(1_000),
        "M" => Some(1_000_000),
        _ => None,
    })
}

/// A span of time: `1.5s`, `200ms`, `1 h 30 min`, `1d`, or `0`. Without a unit a number is ambiguous.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = "a time such as 1.5s, 200ms, 1h30m, 1d or 0";
    let (mut rest, mut total, mut last) = (text.trim(), 0_u128, None);
    loop {
        let (number, after) = Number::parse(rest, hint)?;
        let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let factor = match unit {
            "ns" => 1,
            // The micro sign, and the Greek letter.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" | "min" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            "d" => 86_400 * 1_000_000_000,
            "" if number.digits == 0 && last.is_none() && after.is_empty() => 1,
            "" => return Err(format!("the unit is missing; write {hint}")),
            _ => return Err(format!("unknown unit {unit:?}; write {hint}")),
        };
        rest = after.trim_start();
        let decimals_before_the_end = number.decimals > 0 && !rest.is_empty();
        if last.is_some_and(|last| factor >= last) || decimals_before_the_end {
            return Err(format!(
                "not whole numbers from the largest unit to the smallest; write {hint}"
            ));
        }
        last = Some(factor);
        let nanoseconds = number.times(factor).map_err(|misfit| match misfit {
            Misfit::TooLarge => format!("too long; write {hint}"),
            Misfit::NotWhole => format!("has parts shorter than 1 ns; write {hint}"),
        })?;
        total = total.saturating_add(nanoseconds);
        if rest.is_empty() {
            break;
        }
    }
    let seconds = u64::try_from(total / 1_000_000_000);
    let seconds = seconds.map_err(|_| format!("too long; write {hint}"))?;
    let nanoseconds = u32::try_from(total % 1_000_000_000).unwrap_or(0);
    Ok(Duration::new(seconds, nanoseconds))
}

/// Whether something is on: `yes`, `no`, and what else is written for them.
pub(crate) fn parse_switch(text: &str) -> Result<bool, String> {
    match text.trim().to_lowercase().as_str() {
        "1" | "y" | "yes" | "t" | "true" | "on" => Ok(true),
        "0" | "n" | "no" | "f" | "false" | "off" => Ok(false),
        _ => Err("neither yes nor no; write one of them".to_owned()),
    }
}

/// A number and a unit, whose factor `factor` says.
fn one_number(
    text: &str,
    hint: &str,
    factor: impl Fn(&str) -> Option<u128>,
) -> Result<u32, String> {
    let (number, unit) = Number::parse(text.trim(), hint)?;
    let factor = factor(unit).ok_or_else(|| format!("unknown unit {unit:?}; write {hint}"))?;
    let too_large = || format!("more than {}; write {hint}", thousands(u32::MAX.into()));
    let value = number.times(factor).map_err(|misfit| match misfit {
        Misfit::TooLarge => too_large(),
        Misfit::NotWhole => format!("not a whole number; write {hint}"),
    })?;
    u32::try_from(value).map_err(|_| too_large())
}

/// `digits` / 10 ^ `decimals`.
#[derive(Clone, Copy, Debug)]
struct Number {
    digits: u128,
    decimals: u32,
}

/// Why a number is no value.
#[derive(Clone, Copy, Debug)]
enum Misfit {
    TooLarge,
    NotWhole,
}

impl Number {
    /// The number at the start of `text`, and the rest without blanks before it.
    fn parse<'a>(text: &'a str, hint: &str) -> Result<(Self, &'a str), String> {
        let fault = |what| format!("{what}; write {hint}");
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, ',' | '_' | '.');
        let (number, rest) = text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()));
        let is_digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = match whole.split_once(',') {
            // A comma between others than thousands may be meant as a decimal point.
            Some((first, thousands)) => {
                let mut groups = thousands.split(',');
                let is_group = |group: &str| is_digits(group) && group.len() == 3;
                is_digits(first) && first.len() <= 3 && groups.all(is_group)
            }
            None => whole.split('_').all(is_digits),
        };
        if !is_number || !is_digits(decimals) {
            return Err(fault("not a number"));
        }
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        let digits = digits.parse().map_err(|_| fault("too many digits"))?;
        let decimals = if number.contains('.') { decimals.len() } else { 0 };
        let decimals = u32::try_from(decimals).map_err(|_| fault("too many digits"))?;
        Ok((Self { digits, decimals }, rest.trim_start()))
    }

    fn times(self, factor: u128) -> Result<u128, Misfit> {
        let product = self.digits.checked_mul(factor).ok_or(Misfit::TooLarge)?;
        match 10_u128.checked_pow(self.decimals) {
            Some(divisor) if product.is_multiple_of(divisor) => Ok(product / divisor),
            None if product == 0 => Ok(0),
            _ => Err(Misfit::NotWhole),
        }
    }
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

/// A span of time in its two largest units from minutes on, and below in tenths of one:
/// `1 min 40 s`, `10 s`, `1.5 s`, `200 ms`. What is less is left out.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (large, small) = match seconds {
        0..60 => return short_span(span.as_nanos()),
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

fn short_span(nanoseconds: u128) -> String {
    let units = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];
    let unit = units.into_iter().find(|(_, size)| nanoseconds >= *size);
    let (unit, size) = unit.unwrap_or(units[0]);
    let tenths = nanoseconds * 10 / size;
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
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
        assert_eq!(parse_count("3_000"), Ok(3_000));
        assert_eq!(parse_count("10k"), Ok(10_000));
        assert_eq!(parse_count("1.5M"), Ok(1_500_000));
        assert_eq!(parse_count("4,294,967,295"), Ok(u32::MAX));
        for text in [
            "10KiB", "1,5", "1,50", "1,5000", "1234,567", ",100", "1,000,", "1__0", "_1", "1.",
            ".5",
        ] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit_unless_they_are_zero() {
        for (text, expected) in [
            ("1.5s", Duration::from_millis(1_500)),
            ("200ms", Duration::from_millis(200)),
            ("2m", Duration::from_mins(2)),
            ("0", Duration::ZERO),
            ("0s", Duration::ZERO),
            ("1d", Duration::from_hours(24)),
            ("1 h 30 min", Duration::from_mins(90)),
            ("1h30m", Duration::from_mins(90)),
            ("1 d 1 h", Duration::from_hours(25)),
            ("1 min 1.5 s", Duration::from_millis(61_500)),
            ("0.5us", Duration::from_nanos(500)),
            ("1,500 ms", Duration::from_millis(1_500)),
        ] {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
        for (text, reason) in [
            ("10", "unit is missing"),
            ("10 parsecs", "\"parsecs\""),
            ("99999999999999999999h", "too long"),
            ("0.0001us", "shorter than 1 ns"),
            ("1h30", "unit is missing"),
            ("1,5s", "not a number"),
            ("1.5h30m", "from the largest unit"),
            ("30m1h", "from the largest unit"),
            ("1m1m", "from the largest unit"),
            ("", "not a number"),
            ("-1s", "not a number"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    /// Random numbers of all sizes, the same in each run.
    fn numbers(count: usize) -> impl Iterator<Item = u64> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        (0..count).map(move |_| {
            let bits = next() % 64;
            next() >> bits
        })
    }

    #[test]
    fn what_is_printed_parses() {
        for number in numbers(100_000) {
            let small = u32::try_from(number >> 32).unwrap();
            assert_eq!(parse_count(&thousands(small.into())), Ok(small));
            assert_eq!(parse_size(&buffer_size(small)), Ok(small));
            let text = bytes(small.into());
            let read = parse_size(&text).unwrap();
            assert_eq!(bytes(read.into()), text);
            assert!(read.abs_diff(small) <= small / 200, "{small}: {text}");
            // Up to 584 years.
            let time = Duration::from_nanos(number);
            let text = span(time);
            let read = parse_duration(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(span(read), text, "{time:?}");
            let off = read.abs_diff(time).as_secs_f64();
            assert!(off <= time.as_secs_f64() / 10.0, "{time:?}: {text}");
        }
    }

    /// The grammar once more, slowly, by a pattern: unit, digits and decimals of each term.
    #[cfg(unix)]
    fn terms_of(text: &str, term: &regex::Regex) -> Option<Vec<(String, u128, u32)>> {
        let (mut rest, mut terms) = (text.trim(), Vec::new());
        while !rest.is_empty() {
            let found = term.captures(rest)?;
            let decimals = found.get(2).map_or("", |part| part.as_str());
            let digits = found[1].replace([',', '_'], "") + decimals;
            let decimals = u32::try_from(decimals.len()).ok()?;
            terms.push((found[3].to_owned(), digits.parse().ok()?, decimals));
            rest = &rest[found[0].len()..];
        }
        (!terms.is_empty()).then_some(terms)
    }

    /// What terms are worth whose units fall in the order of `units`.
    #[cfg(unix)]
    fn value_of(terms: &[(String, u128, u32)], units: &[(&str, u128)]) -> Option<u128> {
        let (mut sum, mut last) = (0, u128::MAX);
        for (place, (unit, digits, decimals)) in terms.iter().enumerate() {
            let factor = units.iter().find(|(name, _)| name == unit)?.1;
            if factor >= last || (*decimals > 0 && place + 1 < terms.len()) {
                return None;
            }
            last = factor;
            let (scaled, divisor) = (digits.checked_mul(factor)?, 10_u128.pow(*decimals));
            if scaled % divisor != 0 {
                return None;
            }
            sum += scaled / divisor;
        }
        Some(sum)
    }

    #[cfg(unix)]
    const NANOSECONDS: [(&str, u128); 10] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("min", 60_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ns", 1),
    ];
    #[cfg(unix)]
    const COUNTS: [(&str, u128); 4] = [("", 1), ("k", 1_000), ("K", 1_000), ("M", 1_000_000)];

    /// Random texts of the grammar's pieces.
    #[cfg(unix)]
    #[test]
    fn nothing_parses_as_something_else() {
        const TERM: &str = r"^([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)(?:\.([0-9]+))? *([a-zA-Z\u{b5}\u{3bc}]*) *";
        const PIECES: [&str; 25] = [
            "0", "1", "5", "10", "000", "999", ",", ".", "_", " ", "d", "h", "m", "min", "s", "ms",
            "us", "\u{b5}s", "ns", "k", "K", "M", "-", "e", "x",
        ];
        let term = regex::Regex::new(TERM).unwrap();
        let mut parsed = 0;
        for mut number in numbers(300_000) {
            let mut text = String::new();
            while number > 0 {
                text += PIECES[usize::try_from(number % 25).unwrap()];
                number /= 40;
            }
            let terms = terms_of(&text, &term).unwrap_or_default();
            let has_units = !terms.is_empty() && terms.iter().all(|(unit, ..)| !unit.is_empty());
            let is_zero = matches!(&terms[..], [(unit, 0, _)] if unit.is_empty());
            let expected = if has_units { value_of(&terms, &NANOSECONDS) } else { None };
            let time = parse_duration(&text).ok().map(|time| time.as_nanos());
            assert_eq!(time, expected.or(is_zero.then_some(0)), "{text:?}");
            let expected = if terms.len() == 1 { value_of(&terms, &COUNTS) } else { None };
            let count = parse_count(&text).ok();
            assert_eq!(count, expected.and_then(|count| count.try_into().ok()), "{text:?}");
            parsed += u32::from(time.is_some()) + u32::from(count.is_some());
        }
        assert!(parsed > 10_000, "{parsed} texts only");
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
        assert_eq!(text(1_040), "1 s");
        assert_eq!(text(59_960), "59.9 s");
        assert_eq!(text(0), "0 s");
        assert_eq!(span(Duration::from_micros(500)), "500 us");
        assert_eq!(span(Duration::from_nanos(7)), "7 ns");
    }
}
