//! A binary protocol: a length of four bytes, a sequence number, a kind, a key, and perhaps a note.

use crate::check;
use std::collections::BTreeMap;
use wharf_model::{Error, Handler, Input, LengthPrefix, Link, Result};

struct Notes;

#[derive(Default)]
struct Client {
    next: u32,
    notes: BTreeMap<u32, Vec<u8>>,
}

const NOTES_MAX: usize = 64;
const FRAMES: LengthPrefix = LengthPrefix::new(4, 400);

impl Handler<Client> for Notes {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<Client> {
        Ok(Client::default())
    }

    fn on_receive(&self, link: &mut Link<'_, Client>, input: &mut Input<'_>) -> Result {
        // Several in one call: as safe as one, if each is taken with a grant.
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

/// They lie in the input.
fn parts(frame: &[u8]) -> Option<(u32, u8, u32, &[u8])> {
    let (number, rest) = frame.split_first_chunk()?;
    let (kind, rest) = rest.split_first()?;
    let (key, note) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), *kind, u32::from_be_bytes(*key), note))
}

pub(crate) fn run(seeds: u64) {
    check(
        seeds,
        || Notes,
        |rng| {
            let (mut text, mut replies) = (Vec::new(), Vec::new());
            let mut notes: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
            for number in 0..rng.pick(&[0, 3, 20, 79]) {
                let key = rng.pick(&[0_u32, 1, 2, 3, 4]);
                let (kind, note, reply) = if rng.once_in(2) {
                    (1, Vec::new(), notes.get(&key).cloned().unwrap_or_default())
                } else {
                    let note = rng.letters(80);
                    notes.insert(key, note.clone());
                    (2, note, b"ok".to_vec())
                };
                text.extend(frame(number, &[&[kind][..], &key.to_be_bytes(), &note].concat()));
                replies.extend(frame(number, &reply));
            }
            (text, replies)
        },
    );
}

fn frame(number: u32, rest: &[u8]) -> Vec<u8> {
    let len = u32::try_from(4 + rest.len()).unwrap();
    [&len.to_be_bytes()[..], &number.to_be_bytes(), rest].concat()
}
