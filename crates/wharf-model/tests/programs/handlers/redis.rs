//! A store that speaks Redis' protocol: PING, GET, SET, INCR; pipelined; values up to 8 MiB.
//!
//! Memory is bounded: a link holds 64 KiB unread and 256 KiB queued, however large its values. A value
//! comes in and goes out in pieces; what all values may take is one number.

use super::api::{Error, Handler, Input, Link, Output, Result, TooLong};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const ARGS_MAX: usize = 3;
const VALUE_MAX: usize = 8 << 20;
const STORE_MAX: usize = 1 << 30;

#[derive(Default)]
pub(crate) struct Store {
    values: Mutex<HashMap<Vec<u8>, Arc<Value>>>,
    memory: Arc<AtomicUsize>,
}

pub(crate) struct Client {
    command: Command,
    /// The value that is being sent, and its sent bytes.
    reply: Option<(Arc<Value>, usize)>,
}

impl Handler<Client> for Store {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<Client> {
        let command = Command {
            args: Vec::new(),
            left: 0,
            value_left: None,
            memory: Arc::clone(&self.memory),
        };
        Ok(Client { command, reply: None })
    }

    fn on_receive(&self, link: &mut Link<'_, Client>, input: &mut Input<'_>) -> Result {
        // Several in one call, each taken with a grant.
        while link.state.reply.is_none()
            && link.out.has_grant()
            && link.state.command.take(input)?
        {
            self.run(link)?;
            link.state.go_on(&mut link.out)?;
        }
        Ok(())
    }

    fn on_writable(&self, link: &mut Link<'_, Client>) -> Result {
        link.state.go_on(&mut link.out)
    }
}

impl Store {
    fn run(&self, link: &mut Link<'_, Client>) -> Result {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let mut args = link.state.command.args.drain(..);
        let name = args.next().ok_or(Error::msg("no command"))?;
        let name = name.bytes.to_ascii_uppercase();
        match (name.as_slice(), args.next(), args.next()) {
            (b"PING", None, _) => link.out.send("+PONG\r\n")?,
            (b"SET", Some(key), Some(value)) => {
                values.insert(key.bytes.clone(), Arc::new(value));
                link.out.send("+OK\r\n")?;
            }
            (b"GET", Some(key), None) => match values.get(&key.bytes) {
                Some(value) => {
                    write!(link.out, "${}\r\n", value.bytes.len())?;
                    link.state.reply = Some((Arc::clone(value), 0));
                }
                None => link.out.send("$-1\r\n")?,
            },
            (b"INCR", Some(key), None) => {
                let old = values.get(&key.bytes).map_or(Some(0), |value| value.number());
                match old.and_then(|old: i64| old.checked_add(1)) {
                    Some(new) => {
                        let value = Value::of(new.to_string().as_bytes(), &self.memory)?;
                        values.insert(key.bytes.clone(), Arc::new(value));
                        write!(link.out, ":{new}\r\n")?;
                    }
                    None => link.out.send("-ERR value is not an integer or out of range\r\n")?,
                }
            }
            _ => link.out.send("-ERR unknown command or wrong number of arguments\r\n")?,
        }
        Ok(())
    }
}

impl Client {
    /// Sends as much of the value as there is capacity for.
    fn go_on(&mut self, out: &mut Output<'_>) -> Result {
        let Some((value, gone)) = &mut self.reply else { return Ok(()) };
        *gone += out.send_some(&value.bytes[*gone..]);
        if *gone == value.bytes.len() && out.ensure(2)? {
            out.send("\r\n")?;
            self.reply = None;
        }
        Ok(())
    }
}

/// A command, as far as it was received.
struct Command {
    args: Vec<Value>,
    /// Arguments that are still to be received.
    left: usize,
    /// Bytes of the last argument that are still to be received.
    value_left: Option<usize>,
    memory: Arc<AtomicUsize>,
}

impl Command {
    /// Takes the received part of a command; `true` if it is complete.
    fn take(&mut self, input: &mut Input<'_>) -> Result<bool> {
        loop {
            match (self.value_left, self.args.last_mut()) {
                (Some(0), _) => {
                    let Some(end) = input.take(2)? else { return Ok(false) };
                    if end != b"\r\n" {
                        return Err(Error::msg("a value does not end where it should"));
                    }
                    self.value_left = None;
                    self.left -= 1;
                    if self.left == 0 {
                        return Ok(true);
                    }
                }
                (Some(left), Some(value)) => {
                    // In parts, as they arrive: a false length costs no memory.
                    let chunk = input.chunk();
                    if chunk.is_empty() {
                        return Ok(false);
                    }
                    let len = chunk.len().min(left);
                    value.append(&chunk[..len])?;
                    input.consume(len);
                    self.value_left = Some(left - len);
                }
                _ => {
                    let Some(line) = input.line(32)? else { return Ok(false) };
                    match line.split_first() {
                        Some((b'*', count)) if self.left == 0 => {
                            self.left = number(count, ARGS_MAX)?;
                        }
                        Some((b'$', len)) if self.left > 0 => {
                            self.value_left = Some(number(len, VALUE_MAX)?);
                            self.args.push(Value::of(b"", &self.memory)?);
                        }
                        _ => return Err(Error::msg("this is not Redis' protocol")),
                    }
                }
            }
        }
    }
}

fn number(digits: &[u8], max: usize) -> Result<usize> {
    let number: usize = str::from_utf8(digits)?.parse()?;
    if number > max { Err(TooLong::new(max).into()) } else { Ok(number) }
}

/// Bytes that count for the common limit.
struct Value {
    bytes: Vec<u8>,
    memory: Arc<AtomicUsize>,
}

impl Value {
    fn of(bytes: &[u8], memory: &Arc<AtomicUsize>) -> Result<Self> {
        let mut value = Self { bytes: Vec::new(), memory: Arc::clone(memory) };
        value.append(bytes)?;
        Ok(value)
    }

    fn append(&mut self, bytes: &[u8]) -> Result {
        if self.memory.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() > STORE_MAX {
            self.memory.fetch_sub(bytes.len(), Ordering::Relaxed);
            return Err(Error::msg("the store is full"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn number(&self) -> Option<i64> {
        str::from_utf8(&self.bytes).ok()?.parse().ok()
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.memory.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}
