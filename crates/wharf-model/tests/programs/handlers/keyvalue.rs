//! A key-value server of lines: `SET key value`, `GET key`, `KEYS prefix`; `FILL` sends
//! more than there is capacity for.

use super::api::{Handler, Input, Link, Result};
use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Default)]
pub(crate) struct Store {
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
            (Some("KEYS"), Some(prefix), None) => {
                let keys = values.keys().filter(|key| key.starts_with(prefix));
                let keys: String = keys.flat_map(|key| [key, "\n"]).collect();
                // It may be longer than the grant: if it does not fit yet, the handler is called again with it.
                if link.out.ensure(keys.len())? {
                    link.out.send(keys)?;
                } else {
                    input.rewind();
                }
            }
            (Some("FILL"), None, None) => {
                let limit = link.out.set_limit_bytes(usize::MAX);
                link.out.send("full\n")?;
                link.out.send(vec![b'.'; limit])?;
            }
            _ => link.out.send("ERR\n")?,
        }
        Ok(())
    }
}
