//! A key-value server of lines: `SET key value`, `GET key`, `KEYS`.
#![expect(clippy::disallowed_types, reason = "all workers share one map")]
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use wharf::{Handler, Input, Link, Result, Server};

#[derive(Default)]
struct Store(Mutex<BTreeMap<String, String>>);

impl Handler for Store {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(1024)? else { return Ok(()) };
        let mut words = str::from_utf8(line)?.splitn(3, ' ');
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
                // It may be longer than the grant: if it does not fit yet, the handler is called
                // again with the same line.
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

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    Server::builder(Store::default()).listen(address).serve()
}
