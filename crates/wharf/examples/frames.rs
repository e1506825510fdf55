//! A binary protocol: a length of four bytes, a sequence number, a kind, a key, and perhaps a note.
use std::collections::BTreeMap;
use wharf::{Error, Handler, Input, LengthPrefix, Link, Result, Server};

struct Notes;

#[derive(Default)]
struct Client {
    next: u32,
    notes: BTreeMap<u32, Vec<u8>>,
}

const NOTES_MAX: usize = 64;
const FRAMES: LengthPrefix = LengthPrefix::new(4, 4096);

impl Handler<Client> for Notes {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<Client> {
        Ok(Client::default())
    }

    fn on_receive(&self, link: &mut Link<'_, Client>, input: &mut Input<'_>) -> Result {
        // Several in one call, each taken with a grant.
        while link.out.has_grant()
            && let Some(frame) = input.frame(FRAMES)?
        {
            let Client { next, notes } = link.state;
            let Some((number, kind, key, note)) = parts(frame) else {
                return Err(Error::msg("the frame is too short"));
            };
            if number != *next {
                return Err(Error::msg(format!("frame {number} in place of {next}")));
            }
            *next = next.wrapping_add(1);
            let reply = match kind {
                1 => notes.get(&key).map_or(&[][..], |note| note),
                2 if notes.len() < NOTES_MAX => {
                    notes.insert(key, note.to_vec());
                    b"ok"
                }
                2 => b"no more notes",
                _ => return Err(Error::msg("a frame of no known kind")),
            };
            link.out.send(FRAMES.of((number.to_be_bytes(), reply)))?;
        }
        Ok(())
    }
}

fn parts(frame: &[u8]) -> Option<(u32, u8, u32, &[u8])> {
    let (number, rest) = frame.split_first_chunk()?;
    let (kind, rest) = rest.split_first()?;
    let (key, note) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), *kind, u32::from_be_bytes(*key), note))
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    Server::builder(Notes).listen(address).frames(FRAMES).grant_bytes(8 << 10).serve()
}
