//! Who is here: unique names, whatever their case.

use super::text::is_printable;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Characters in a name.
const NAME_LEN_MAX: usize = 20;
/// Bytes of names that `/who` lists; the others are counted.
const LIST_BYTES_MAX: usize = 1_500;

/// The names in use: in lower case, and as they are written.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_key: BTreeMap<String, String>,
    guests: u64,
}

impl Names {
    /// Gives the next free name of a guest.
    pub(super) fn join(&mut self) -> String {
        loop {
            self.guests += 1;
            let name = format!("guest-{}", self.guests);
            if !self.by_key.contains_key(&name) {
                self.by_key.insert(name.clone(), name.clone());
                return name;
            }
        }
    }

    pub(super) fn leave(&mut self, name: &str) {
        self.by_key.remove(&name.to_lowercase());
    }

    /// Changes a name.
    ///
    /// # Errors
    ///
    /// What is wrong with the new one; the old one stays then.
    pub(super) fn rename(&mut self, old: &str, new: &str) -> Result<(), &'static str> {
        check(new)?;
        let (old, key) = (old.to_lowercase(), new.to_lowercase());
        if key != old && self.by_key.contains_key(&key) {
            return Err("the name is taken; choose another one");
        }
        self.by_key.remove(&old);
        self.by_key.insert(key, new.to_owned());
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Puts a line with the names, in order, in place of what `out` holds.
    pub(super) fn list(&self, out: &mut String) {
        out.clear();
        let _never_fails = write!(out, "* {} here:", self.len());
        for (listed, name) in self.by_key.values().enumerate() {
            if out.len() + name.len() > LIST_BYTES_MAX {
                let _never_fails = write!(out, " and {} more", self.len() - listed);
                break;
            }
            out.push(' ');
            out.push_str(name);
        }
        out.push_str("\r\n");
    }
}

fn check(name: &str) -> Result<(), &'static str> {
    match name.chars().count() {
        0 => Err("the name is missing; write /nick NAME"),
        1..=NAME_LEN_MAX if name.starts_with(['/', '*']) => {
            Err("a name does not begin with / or *")
        }
        1..=NAME_LEN_MAX if name.chars().all(is_printable) => Ok(()),
        1..=NAME_LEN_MAX => Err("a name has visible characters only, and no spaces"),
        _ => Err("a name has at most 20 characters"),
    }
}

const _: () = assert!(NAME_LEN_MAX == 20, "the text says so");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_20_visible_characters() {
        for name in ["a", "Ann_2", "完成端口", "twenty-characters-ab"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", "twenty-one-characters", "a b", "a\u{200b}", "\u{1b}[m", "/who", "*"] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_are_unique_whatever_their_case() {
        let mut names = Names::default();
        let (first, second) = (names.join(), names.join());
        assert_eq!((first.as_str(), second.as_str()), ("guest-1", "guest-2"));
        assert_eq!(names.rename(&first, "Ann"), Ok(()));
        assert_eq!(names.rename(&second, "aNN"), Err("the name is taken; choose another one"));
        assert_eq!(names.rename("Ann", "ANN"), Ok(()));
        names.leave("ANN");
        assert_eq!(names.rename(&second, "ann"), Ok(()));
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn guests_do_not_get_a_name_that_somebody_took() {
        let mut names = Names::default();
        let first = names.join();
        names.rename(&first, "Guest-2").unwrap();
        assert_eq!(names.join(), "guest-3");
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let mut names = Names::default();
        for _ in 0..500 {
            names.join();
        }
        let mut list = String::new();
        names.list(&mut list);
        assert!(list.len() < LIST_BYTES_MAX + 30, "{}", list.len());
        assert!(list.starts_with("* 500 here: guest-1 guest-10 "), "{list}");
        let listed = list.matches("guest-").count();
        assert!(list.ends_with(&format!(" and {} more\r\n", 500 - listed)), "{list}");
    }
}
