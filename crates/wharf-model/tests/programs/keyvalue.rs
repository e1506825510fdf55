//! A key-value server of lines: `SET key value`, `GET key`, `KEYS`.

use crate::check;
use std::collections::BTreeMap;
use std::sync::Mutex;
use wharf_model::{Handler, Input, Link, Result};

#[derive(Default)]
struct Store {
    values: Mutex<BTreeMap<String, String>>,
}

impl Handler for Store {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(300)? else { return Ok(()) };
        let mut words = str::from_utf8(line)?.splitn(3, ' ');
        let mut values = self.values.lock().unwrap();
        match (words.next(), words.next(), words.next()) {
            (Some("SET"), Some(key), Some(value)) => {
                values.insert(key.to_owned(), value.to_owned());
                link.out.send("OK\n")?;
            }
            (Some("GET"), Some(key), None) => match values.get(key) {
                Some(value) => link.out.send((value, "\n"))?,
                None => link.out.send("NIL\n")?,
            },
            (Some("KEYS"), None, None) => {
                let keys: String = values.keys().flat_map(|key| [key, "\n"]).collect();
                // It may be longer than the grant: if it does not fit yet, the same line comes again.
                if link.out.ensure(keys.len())? {
                    link.out.send(keys)?;
                } else {
                    input.rewind();
                }
            }
            _ => link.out.send("ERR\n")?,
        }
        Ok(())
    }
}

pub(crate) fn run(seeds: u64) {
    check(seeds, Store::default, |rng| {
        let (mut text, mut replies, mut values) = (String::new(), String::new(), BTreeMap::new());
        for _ in 0..rng.below(80) {
            let key = format!("k{}", rng.below(30));
            match rng.below(4) {
                0 => {
                    let value = String::from_utf8(rng.letters(30)).unwrap() + "x";
                    text += &format!("SET {key} {value}\n");
                    replies += "OK\n";
                    values.insert(key, value);
                }
                1 => {
                    text += &format!("GET {key}\r\n");
                    replies += values.get(&key).map_or("NIL", String::as_str);
                    replies += "\n";
                }
                2 => {
                    text += "what\n";
                    replies += "ERR\n";
                }
                _ => {
                    text += "KEYS\n";
                    replies.extend(values.keys().flat_map(|key| [key, "\n"]));
                }
            }
        }
        (text.into_bytes(), replies.into_bytes())
    });
}
