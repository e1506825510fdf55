//! Errors of the command line on one line: what is wrong, where, and what to write instead.
//!
//! Clap's own texts take several lines, and do not say that a value comes from a variable.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error as _;
use std::ffi::OsString;

/// The error as a line without `error: ` and without a line feed.
pub(crate) fn line(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let option = text(ContextKind::InvalidArg).unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let help = help_of(error);
    match error.kind() {
        ErrorKind::UnknownArgument if option.starts_with('-') => {
            let similar = text(ContextKind::SuggestedArg);
            let similar = similar.map_or_else(String::new, |similar| format!("use {similar}, or "));
            format!("unknown option {option}; {similar}see {help}")
        }
        ErrorKind::UnknownArgument => format!("unexpected argument {option:?}; see {help}"),
        ErrorKind::InvalidSubcommand => {
            let name = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("unknown command {name:?}; use serve, or see {help}")
        }
        ErrorKind::MissingSubcommand => format!("a command is missing; use serve, or see {help}"),
        ErrorKind::ArgumentConflict => {
            format!("{} is given twice; give it once", name_of(&option))
        }
        ErrorKind::TooManyValues => {
            format!("{} takes no value, but has {value:?}; remove the value", name_of(&option))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => value_line(error, &option, &value),
        ErrorKind::InvalidUtf8 => format!("{} is not UTF-8; write it in UTF-8", not_utf8()),
        _ => {
            let all = error.to_string();
            let first = all.lines().next().unwrap_or_default();
            format!("{}; see {help}", first.strip_prefix("error: ").unwrap_or(first))
        }
    }
}

/// The line for a value that `option`, such as `--links <COUNT>`, does not take.
fn value_line(error: &clap::Error, option: &str, value: &str) -> String {
    let name = variable(option).unwrap_or_else(|| name_of(option).to_owned());
    let remedy = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => format!("use {}", list(valid)),
        _ => {
            let (_, kind) = option.split_once(' ').unwrap_or_default();
            format!("write {} {}", name_of(option), kind.trim_matches(['<', '>']))
        }
    };
    match error.source() {
        Some(reason) => format!("{name} {value:?}: {reason}"),
        None if value.is_empty() => format!("{name} has no value; {remedy}"),
        None => format!("{name} {value:?}: unknown; {remedy}"),
    }
}

/// `--links <COUNT>` as `--links`.
fn name_of(option: &str) -> &str {
    option.split_whitespace().next().unwrap_or(option)
}

/// The variable that a value of `option` comes from, if it does not come from the command line.
fn variable(option: &str) -> Option<String> {
    let flag = name_of(option);
    let is_flag = |word: OsString| word.to_string_lossy().split('=').next() == Some(flag);
    let given = std::env::args_os().any(is_flag);
    let name = flag.strip_prefix("--")?.replace('-', "_").to_uppercase();
    (!given).then(|| format!("WHARF_{name}"))
}

/// The command whose help lists what can be written.
fn help_of(error: &clap::Error) -> &'static str {
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    if usage.contains("wharf serve") { "wharf serve -h" } else { "wharf -h" }
}

/// `a, b or c`.
fn list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [word] => word.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Clap does not say which argument or variable it is.
fn not_utf8() -> String {
    let argument = std::env::args_os().find(|word| word.to_str().is_none());
    let variable = || {
        let ours = |name: &OsString| name.to_string_lossy().starts_with("WHARF_");
        let found =
            std::env::vars_os().find(|(name, value)| ours(name) && value.to_str().is_none());
        found.map(|(name, _)| format!("the value of {}", name.to_string_lossy()))
    };
    let argument = argument.map(|word| format!("the argument {:?}", word.to_string_lossy()));
    argument.or_else(variable).unwrap_or_else(|| "an argument".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_words_stands_after_or() {
        let words = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(list(&words), "a, b or c");
        assert_eq!(list(&words[..1]), "a");
    }
}
