//! Servers of binary messages: frames, big_messages.

use super::common::{Example, Pieces, Rng, assert_same, check};
use super::each_back_end;
use std::collections::BTreeMap;
use wharf::BackEnd;

each_back_end! {
    frames_are_handled_in_order_whatever_their_length,
    frames_out_of_order_or_too_long_close_the_link,
    big_messages_come_back_reversed,
}

fn frame(number: u32, rest: &[u8]) -> Vec<u8> {
    let len = u32::try_from(4 + rest.len()).unwrap();
    [&len.to_be_bytes()[..], &number.to_be_bytes(), rest].concat()
}

fn note(key: u32, text: &[u8]) -> Vec<u8> {
    [&[2][..], &key.to_be_bytes(), text].concat()
}

/// The longest note in a frame of 4,096 bytes.
const NOTE_MAX: usize = 4_096 - 4 - 1 - 4;

fn frames_are_handled_in_order_whatever_their_length(back_end: BackEnd) {
    let Some(example) = Example::start("frames", back_end) else { return };
    check(&example, |rng| {
        let (mut text, mut replies) = (Vec::new(), Vec::new());
        let mut notes: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for number in 0..rng.pick(&[0, 3, 20, 79]) {
            // The server stores 64.
            let key = u32::try_from(rng.below(80)).unwrap();
            let (request, reply) = if rng.once_in(2) {
                let reply = notes.get(&key).cloned().unwrap_or_default();
                ([&[1][..], &key.to_be_bytes()].concat(), reply)
            } else {
                let len_max = rng.pick(&[2, 100, NOTE_MAX + 1]);
                let text = rng.letters(len_max);
                notes.insert(key, text.clone());
                (note(key, &text), b"ok".to_vec())
            };
            text.extend(frame(number, &request));
            replies.extend(frame(number, &reply));
        }
        (text, replies)
    });
    example.stop();
}

fn frames_out_of_order_or_too_long_close_the_link(back_end: BackEnd) {
    let Some(example) = Example::start("frames", back_end) else { return };
    // 64 notes of the greatest length, one too many, and then one of them.
    let (mut text, mut replies) = (Vec::new(), Vec::new());
    for number in 0..65_u32 {
        text.extend(frame(number, &note(number, &[7; NOTE_MAX])));
        replies.extend(frame(number, if number < 64 { b"ok" } else { b"no more notes" }));
    }
    text.extend(frame(65, &[1, 0, 0, 0, 63]));
    replies.extend(frame(65, &[7; NOTE_MAX]));
    for (what, last) in [
        ("a number twice", frame(65, &note(1, b"x"))),
        ("no known kind", frame(66, &[3, 0, 0, 0, 1])),
        ("too short", frame(66, &[1])),
        ("too long", frame(66, &note(1, &[7; NOTE_MAX + 1]))),
        ("a lie about the length", u32::MAX.to_be_bytes().to_vec()),
    ] {
        let text = [&text[..], &last, &frame(67, &[1, 0, 0, 0, 1])].concat();
        let heard = example.ask(&text, &mut Pieces::Random(Rng::new(7), 9_000));
        assert_same(&heard, &replies, what);
    }
    example.stop();
}

fn big_messages_come_back_reversed(back_end: BackEnd) {
    let Some(example) = Example::start("big_messages", back_end) else { return };
    let message = |len: usize| (0..len).map(|i| (i * 7).to_le_bytes()[0]).collect::<Vec<u8>>();
    let framed =
        |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat();
    let talk = |lens: &[usize], last: &[u8], pieces: &mut Pieces| {
        let (mut text, mut replies) = (Vec::new(), Vec::new());
        for len in lens {
            let mut message = message(*len);
            text.extend(framed(&message));
            message.reverse();
            replies.extend(framed(&message));
        }
        text.extend(last);
        assert_same(&example.ask(&text, pieces), &replies, &format!("{lens:?}, then {last:?}"));
    };
    talk(&[0, 1, 2_048, 5_000, 0], b"", &mut Pieces::ByteByByte);
    for (seed, max) in [(1, 9_000), (2, 70_000)] {
        let lens = [0, 1, 2_048, 1 << 20, 1 << 20, 3, 1 << 20];
        talk(&lens, b"", &mut Pieces::Random(Rng::new(seed), max));
    }
    let mut pieces = Pieces::Random(Rng::new(3), 9_000);
    talk(&[10, 1 << 20], &u32::MAX.to_be_bytes(), &mut pieces);
    talk(&[10], &((1_u32 << 20) + 1).to_be_bytes(), &mut pieces);
    example.stop();
}
