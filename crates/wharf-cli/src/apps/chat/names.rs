//! Who is here: names of letters and digits of any language, of which no two look alike.
//!
//! Which characters may be in a name, and which look alike, is in Unicode Technical Standard 39.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::GeneralSecurityProfile;
use unicode_security::confusable_detection::skeleton;

/// Characters in a name.
const NAME_LEN_MAX: usize = 20;
/// Bytes of names that `/who` lists; the others are counted.
const LIST_BYTES_MAX: usize = 1_500;

/// The names in use.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// In lower case, and as they are written.
    by_key: BTreeMap<String, String>,
    /// How they look, and the key of the name that does.
    looks: BTreeMap<String, String>,
    guests: u64,
}

impl Names {
    /// Gives the next free name of a guest.
    pub(super) fn join(&mut self) -> String {
        loop {
            self.guests += 1;
            let name = format!("guest-{}", self.guests);
            if !self.is_taken(&name, "") {
                self.add(&name);
                return name;
            }
        }
    }

    pub(super) fn leave(&mut self, name: &str) {
        self.by_key.remove(&key_of(name));
        for look in looks_of(name) {
            self.looks.remove(&look);
        }
    }

    /// Changes a name, and returns the new one in its normal form.
    ///
    /// # Errors
    ///
    /// What is wrong with the new one; the old one stays then.
    pub(super) fn rename(&mut self, old: &str, new: &str) -> Result<String, &'static str> {
        let new: String = new.nfc().collect();
        check(&new)?;
        if self.is_taken(&new, &key_of(old)) {
            return Err("the name is taken, or looks like one that is; choose another one");
        }
        self.leave(old);
        self.add(&new);
        Ok(new)
    }

    fn add(&mut self, name: &str) {
        self.by_key.insert(key_of(name), name.to_owned());
        self.looks.extend(looks_of(name).map(|look| (look, key_of(name))));
    }

    /// Whether `name` could be taken for another one than the one with this key.
    fn is_taken(&self, name: &str, own_key: &str) -> bool {
        let holders = looks_of(name).map(|look| self.looks.get(&look));
        holders.into_iter().flatten().any(|holder| holder != own_key)
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

fn key_of(name: &str) -> String {
    name.to_lowercase()
}

/// How a name looks in either case: `Bill`, `BILL` and `Bi1l` have one in common.
fn looks_of(name: &str) -> [String; 2] {
    let look = |name: &str| skeleton(name).collect::<String>().to_lowercase();
    [look(name), look(&name.to_lowercase())]
}

fn check(name: &str) -> Result<(), &'static str> {
    let is_letter = |c: char| c.is_alphanumeric() && c.identifier_allowed();
    let is_part = |c: char| {
        is_letter(c)
            || matches!(c, '-' | '_' | '.')
            || (is_combining_mark(c) && c.identifier_allowed())
    };
    match name.chars().count() {
        0 => Err("the name is missing; write /nick NAME"),
        1..=NAME_LEN_MAX if !name.chars().all(is_part) => {
            Err("a name may have only letters, digits, and - _ .")
        }
        1..=NAME_LEN_MAX if !name.starts_with(is_letter) => {
            Err("a name begins with a letter or a digit")
        }
        1..=NAME_LEN_MAX => Ok(()),
        _ => Err("a name has at most 20 characters"),
    }
}

const _: () = assert!(NAME_LEN_MAX == 20, "the text says so");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_20_letters_and_digits() {
        for name in [
            "a",
            "Ann_2",
            "完成端口",
            "twenty-characters-ab",
            "Ünal",
            "हिन्दी",
            "Ольга",
            "J.R.",
            "7",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "twenty-one-characters",
            "a b",
            "a\u{200b}",
            "\u{1b}[m",
            "/who",
            "*",
            "-a",
            "a:",
            "a*",
            // Blank: the Hangul filler, Braille without dots, marks alone.
            "\u{3164}",
            "\u{2800}",
            "\u{115f}",
            "\u{301}\u{301}",
            // Like ASCII, and not ASCII: full width, mathematical.
            "\u{ff57}ho",
            "\u{1d400}nn",
            "a\u{ad}",
            "a\u{fe0f}",
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn no_two_names_look_alike() {
        const TAKEN: &str = "the name is taken, or looks like one that is; choose another one";
        let mut names = Names::default();
        let (first, second) = (names.join(), names.join());
        assert_eq!((first.as_str(), second.as_str()), ("guest-1", "guest-2"));
        for (name, alike) in [
            ("Ann", &["aNN", "\u{410}nn", "ann"][..]),
            ("ann", &["ANN", "\u{430}nn"]),
            ("Bill", &["BILL", "Bi1l", "BilI", "B\u{456}ll"]),
            ("AI", &["Al", "ai", "A1", "al"]),
            ("Jose\u{301}", &["José", "JOSÉ"]),
            ("modern", &["modem", "MODERN"]),
            ("O.K", &["0.k", "o.k", "\u{41e}.K"]),
        ] {
            let name = names.rename(&first, name).unwrap();
            for other in alike.iter().chain([&name.as_str()]) {
                let renamed = names.rename(&second, other);
                assert_eq!(renamed, Err(TAKEN), "{other} beside {name}");
            }
            // To whose name it is it may be written otherwise.
            let again = names.rename(&name, &name.to_uppercase()).unwrap();
            assert_eq!(names.rename(&again, "guest-1").as_deref(), Ok("guest-1"));
            assert_eq!(names.rename("guest-1", &first).as_deref(), Ok("guest-1"));
            assert_eq!((names.len(), names.looks.len()), (2, 2), "{:?}", names.looks);
        }
        assert_eq!(names.rename(&second, "guest-l"), Err(TAKEN));
        names.leave(&first);
        assert_eq!(names.rename(&second, "guest-l").as_deref(), Ok("guest-l"));
        names.leave("guest-l");
        assert_eq!((names.len(), names.looks.len()), (0, 0));
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
