//! Guarantee and loan: which links wait for buffers, and which are closed for them.

use crate::common::{run_until_idle, small, turns};
use crate::posts::Sizes;
use wharf_model::{
    Client, DisconnectReason, Handler, Input, LengthPrefix, Link, LinkEnd, Model, Result, Rng,
    Settings,
};

const LIMIT: LinkEnd = LinkEnd::Over(DisconnectReason::Limit);
const SLOW_READER: LinkEnd = LinkEnd::Over(DisconnectReason::SlowReader);

/// Sends frames back. Asks for the capacity of each reply.
struct Frames;

const FRAMES: LengthPrefix = LengthPrefix::new(2, 1_590);

impl Handler for Frames {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(body) = input.frame(FRAMES)? else { return Ok(()) };
        let body = body.to_vec();
        if link.out.ensure(body.len() + 2)? {
            link.out.send(FRAMES.of(body))?;
        } else {
            input.rewind();
        }
        Ok(())
    }
}

fn frame(len: usize) -> Vec<u8> {
    [&u16::try_from(len).unwrap().to_be_bytes()[..], &vec![b'f'; len]].concat()
}

/// Buffers of 64 bytes: a link is guaranteed one and one. A message and a reply have up to 25: the
/// smallest surplus is 48, of which 24 may be input.
fn settings(surplus: usize) -> Settings {
    Settings {
        buffer_size_bytes: 64,
        input_bytes: 1_600,
        output_bytes: 1_600,
        grant_bytes: 60,
        links_max: 50,
        ..Settings::default()
    }
    .with_surplus(surplus)
}

/// A peer that sends its bytes as far as they are received.
struct Sender {
    link: usize,
    rest: Vec<u8>,
}

impl Sender {
    fn new<H, S, W>(model: &mut Model<H, S, W>, bytes: Vec<u8>) -> Self
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        Self { link: model.connect(), rest: bytes }
    }

    /// Sends up to `len_max` bytes.
    fn send<H, S, W>(&mut self, model: &mut Model<H, S, W>, len_max: usize)
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        let len = self.rest.len().min(len_max);
        let len = model.arrive(self.link, &self.rest[..len]);
        self.rest.drain(..len);
    }
}

pub(crate) fn small_messages_get_through_whatever_others_hold(seeds: u64) {
    for seed in 1..=seeds.div_ceil(4) {
        let mut rng = Rng::new(seed);
        let mut model = Model::new(Frames, settings(48 + rng.below(100)));
        // Incomplete frames, and peers that do not read what they asked for.
        let mut others = Vec::new();
        for _ in 0..rng.below(12) {
            let len = 140 + rng.below(1_440);
            let mut bytes = frame(len);
            bytes.truncate(3 + rng.below(len - 2));
            others.push(Sender::new(&mut model, bytes));
        }
        let incomplete = others.len();
        for _ in 0..rng.below(6) {
            others.push(Sender::new(&mut model, frame(40).repeat(60)));
        }
        let small: Vec<usize> = (0..=rng.below(4)).map(|_| model.connect()).collect();
        let mut large = Sender::new(&mut model, frame(1_200));
        let mut heard = 0;
        for round in 0..400 {
            for other in &mut others {
                other.send(&mut model, 1 + rng.below(290));
            }
            if round > 20 {
                large.send(&mut model, 9_999);
            }
            // A small message and its reply, in this very turn.
            for link in &small {
                let len = 1 + rng.below(40);
                let received = model.arrive(*link, &frame(len));
                assert_eq!(received, len + 2, "seed {seed} round {round}: not received");
            }
            model.turn();
            for link in &small {
                let reply = model.leave(*link, 99);
                assert!(!reply.is_empty(), "seed {seed} round {round}: no reply, {model:?}");
                assert_eq!(model.link(*link).end, LinkEnd::Open);
            }
            heard += model.leave(large.link, 99).len();
            model.tick(100);
            assert!(model.lent().sum() <= model.surplus());
            if heard == 1_202 {
                break;
            }
        }
        let view = model.link(large.link);
        assert_eq!(heard, 1_202, "seed {seed}: the large message does not get through; {view:?}");
        for (n, other) in others.iter().enumerate() {
            let end = model.link(other.link).end;
            let expected = [LinkEnd::Open, LIMIT, SLOW_READER];
            assert!(expected.contains(&end), "seed {seed}: {end:?}");
            assert!(n >= incomplete || end != SLOW_READER, "seed {seed}: {end:?}");
        }
    }
}

pub(crate) fn the_largest_holder_is_closed_after_loan_wait_and_not_before(_: u64) {
    // 48 may be input: 9, 24 and 14 of them in incomplete frames.
    let mut model = Model::new(Frames, settings(96));
    let mut holders = [590, 1_590, 958].map(|len| {
        let mut bytes = frame(len);
        bytes.truncate(len - 8);
        Sender::new(&mut model, bytes)
    });
    for holder in &mut holders {
        holder.send(&mut model, 64);
        model.turn();
        holder.send(&mut model, 9_999);
        assert_eq!(holder.rest.len(), 0);
        model.turn();
    }
    assert_eq!((model.lent().input, model.lent().output), (47, 0));
    let mut waiter = Sender::new(&mut model, frame(300));
    waiter.send(&mut model, 64);
    model.turn();
    let mut ends = |model: &mut Model<Frames, (), ()>| {
        waiter.send(model, 9_999);
        model.turn();
        (holders.each_ref().map(|holder| model.link(holder.link).end), waiter.rest.len())
    };
    for _ in 0..10 {
        assert_eq!(ends(&mut model), ([LinkEnd::Open; 3], 302 - 64), "its guarantee");
        model.tick(100);
    }
    assert_eq!(ends(&mut model), ([LinkEnd::Open, LIMIT, LinkEnd::Open], 0));
    assert_eq!(run_until_idle(&mut model, waiter.link).len(), 302);
    assert_eq!(model.server().stats().loans_revoked, 1);
}

/// Links that have asked for replies of these sizes, and have not read them.
fn readers(model: &mut Model<Sizes, (), ()>, sizes: &[usize]) -> Vec<usize> {
    let links = sizes.iter().map(|size| {
        let link = model.connect();
        model.arrive(link, format!("{size}\n").as_bytes());
        model.turn();
        link
    });
    links.collect()
}

pub(crate) fn a_slow_reader_gives_its_loan_back(_: u64) {
    let mut model = Model::new(Sizes, settings(48));
    // They hold 15, 23 and 9 of 48.
    let slow = readers(&mut model, &[1_000, 1_500, 600]);
    assert_eq!(model.lent().output, 47);
    let waiter = readers(&mut model, &[800])[0];
    for _ in 0..10 {
        assert!(model.link(waiter).waits_for_loan);
        assert!(slow.iter().all(|link| model.link(*link).end == LinkEnd::Open));
        model.tick(100);
        model.turn();
    }
    let ends: Vec<LinkEnd> = slow.iter().map(|link| model.link(*link).end).collect();
    assert_eq!(ends, [LinkEnd::Open, SLOW_READER, LinkEnd::Open]);
    assert_eq!(run_until_idle(&mut model, waiter).len(), 802);
}

pub(crate) fn a_steady_reader_keeps_its_loan(_: u64) {
    let mut model = Model::new(Sizes, settings(48));
    // They hold 23 and 15 of 48; the first one reads 100 bytes a second, and its first send has 256.
    let links = readers(&mut model, &[1_500, 1_000]);
    let waiter = readers(&mut model, &[1_000])[0];
    for _ in 0..20 {
        model.leave(links[0], 10);
        model.tick(100);
        model.turn();
    }
    assert_eq!(model.link(links[0]).end, LinkEnd::Open);
    assert_eq!(model.link(links[1]).end, SLOW_READER);
    assert_eq!(run_until_idle(&mut model, waiter).len(), 1_002);
}

pub(crate) fn a_link_that_waits_for_its_own_reply_is_spared(_: u64) {
    let mut model = Model::new(Frames, settings(48));
    // 15 of 48 are output that is not read. A whole message holds 21, and needs as many for its reply.
    let mut senders = [1_000, 1_400].map(|len| Sender::new(&mut model, frame(len)));
    for sender in &mut senders {
        sender.send(&mut model, 64);
        model.turn();
        sender.send(&mut model, 9_999);
        model.turn();
    }
    assert_eq!((model.lent().input, model.lent().output), (21, 15));
    for _ in 0..10 {
        assert_eq!(
            senders.each_ref().map(|sender| model.link(sender.link).end),
            [LinkEnd::Open; 2]
        );
        model.tick(100);
        model.turn();
    }
    assert_eq!(model.link(senders[0].link).end, SLOW_READER);
    assert_eq!(run_until_idle(&mut model, senders[1].link).len(), 1_402);
}

/// Twelve whole messages, of which one fits the loans for input, and their replies.
fn talk_at_once(len: usize, len_max: usize, rng: &mut Rng) {
    let mut model = Model::new(Frames, Settings { loan_wait_ms: 1_000, ..settings(48) });
    let mut senders: Vec<Sender> = (0..12).map(|_| Sender::new(&mut model, frame(len))).collect();
    let mut heard = [0; 12];
    for round in 0.. {
        for (sender, heard) in senders.iter_mut().zip(&mut heard) {
            let len = if len_max > len { len_max } else { 1 + rng.below(len_max) };
            sender.send(&mut model, len);
            *heard += model.leave(sender.link, 9_999).len();
        }
        model.turn();
        model.tick(1);
        if heard == [len + 2; 12] {
            break;
        }
        assert!(round < 900, "heard {heard:?}, {model:?}");
    }
    assert_eq!(model.server().stats().loans_revoked, 0);
}

pub(crate) fn whole_messages_leave_buffers_for_their_replies(_: u64) {
    talk_at_once(1_500, 9_999, &mut Rng::new(1));
}

pub(crate) fn two_whole_messages_leave_buffers_for_the_longest_reply(_: u64) {
    /// Replies with 4,700 bytes to each frame: 74 buffers.
    struct Long;
    impl Handler for Long {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            let Some(_) = input.frame(FRAMES)? else { return Ok(()) };
            if link.out.ensure(4_700)? {
                link.out.send([b'r'; 4_700])?;
            } else {
                input.rewind();
            }
            Ok(())
        }
    }
    let settings = Settings { output_bytes: 4_800, ..settings(0) };
    let surplus = settings.surplus_min();
    let mut model = Model::new(Long, settings.with_surplus(surplus));
    let mut senders = [(); 4].map(|()| Sender::new(&mut model, frame(1_500)));
    let mut heard = [0; 4];
    for _ in 0..30 {
        for (sender, heard) in senders.iter_mut().zip(&mut heard) {
            sender.send(&mut model, 9_999);
            *heard += model.leave(sender.link, 9_999).len();
        }
        model.turn();
        model.tick(100);
    }
    assert_eq!((heard, model.server().stats().loans_revoked), ([4_700; 4], 0));
}

pub(crate) fn messages_in_pieces_do_not_stop_each_other(seeds: u64) {
    for seed in 1..=seeds.div_ceil(10) {
        talk_at_once(1_500, 200, &mut Rng::new(seed));
    }
}

pub(crate) fn a_send_in_flight_pins_its_buffers(_: u64) {
    let mut model = Model::new(Sizes, settings(48));
    let link = readers(&mut model, &[1_500])[0];
    // 24 buffers, of which 4 are in flight.
    assert_eq!(model.lent().output, 23);
    assert_eq!(model.leave(link, 255).len(), 255);
    assert_eq!(model.lent().output, 23, "one byte is in flight");
    model.leave(link, 1);
    assert_eq!(model.lent().output, 19);
    assert_eq!(run_until_idle(&mut model, link).len(), 1_502 - 256);
    assert_eq!(model.lent().output, 0);
}

pub(crate) fn a_link_waits_for_its_own_send_and_not_for_a_loan(_: u64) {
    let mut model = Model::new(Sizes, settings(48));
    // They hold 23, 23 and 2 of 48.
    let readers_of_nothing = readers(&mut model, &[1_500, 1_500, 180]);
    assert_eq!(model.lent().output, 48);
    let link = readers(&mut model, &[40])[0];
    model.arrive(link, b"40\n");
    for _ in 0..30 {
        model.tick(100);
        model.turn();
        assert!(!model.link(link).waits_for_loan);
        assert_eq!((model.link(link).receives, model.link(link).end), (1, LinkEnd::Open));
    }
    assert!(readers_of_nothing.iter().all(|link| model.link(*link).end == LinkEnd::Open));
    assert_eq!(run_until_idle(&mut model, link).len(), 2 * 42);
}

pub(crate) fn what_the_first_waiter_needs_is_reserved_for_it(_: u64) {
    let mut model = Model::new(Sizes, settings(48));
    // They hold 23 and 15 of 48. The first waiter needs 18, the second one 4.
    let slow = readers(&mut model, &[1_500, 1_000]);
    let waiters = readers(&mut model, &[1_200, 300]);
    turns(&mut model, 3);
    for waiter in &waiters {
        assert!(model.link(*waiter).waits_for_loan);
        assert_eq!(model.link(*waiter).unsent_bytes, 0);
    }
    assert_eq!(model.leave(slow[0], 9_999).len(), 1_502);
    turns(&mut model, 2);
    assert_eq!(waiters.iter().map(|link| model.link(*link).unsent_bytes).sum::<usize>(), 1_504);
    assert_eq!(model.server().stats().loans_revoked, 0);
}

pub(crate) fn nothing_is_lost_and_nothing_is_stuck_in_a_small_pool(seeds: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let draws = small(&mut rng);
        let settings = Settings {
            grant_bytes: 20 + rng.below(60),
            send_buffers_max: draws.send_buffers_max,
            loan_wait_ms: 0,
            ..settings(0)
        };
        // Enough for one large message in each direction; the rest waits its turn.
        let surplus = settings.surplus_min() + rng.below(20);
        let mut model = Model::new(Frames, settings.with_surplus(surplus));
        let buffers = model.free_buffers();
        let mut clients = Vec::new();
        for n in 0..3 + rng.below(4) {
            // Two of them say large ones.
            let (count, len_max) = if n < 2 { (9, 1_590) } else { (20, 15) };
            let mut text = Vec::new();
            for _ in 0..rng.below(count) {
                text.extend(frame(1 + rng.below(len_max)));
            }
            clients.push(Client::new(model.connect(), text, true));
        }
        wharf_model::run(&mut model, &mut clients, &mut rng);
        for client in &clients {
            let (heard, all, view) =
                (client.heard.len(), client.text.len(), model.link(client.link));
            assert!(client.heard == client.text, "seed {seed}: {heard} of {all}; {view:?}");
            assert_eq!(view.end, LinkEnd::Over(DisconnectReason::PeerClosed), "seed {seed}");
        }
        assert_eq!((model.lent().sum(), model.free_buffers()), (0, buffers), "seed {seed}");
    }
}

/// Sends back the length of each message.
struct Lengths(LengthPrefix);

impl Handler for Lengths {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(body) = input.frame(self.0)? else { return Ok(()) };
        let len = body.len();
        Ok(writeln!(link.out, "{len}")?)
    }
}

/// So many clients hold an incomplete message of the greatest length each; the others get their replies
/// in the same turn, and a whole message behind all of them gets its loan within 3 s.
fn hold_incomplete(settings: Settings, holders: usize, sample: usize) -> u64 {
    let links = settings.links_max;
    let prefix = LengthPrefix::new(4, settings.input_bytes - 4);
    let message =
        |len: usize| [&u32::try_from(len).unwrap().to_be_bytes()[..], &vec![b'x'; len]].concat();
    let whole = message(settings.input_bytes - 4);
    let incomplete = whole[..whole.len() - 500].to_vec();
    let mut model = Model::new(Lengths(prefix), settings);
    let mut holders: Vec<Sender> =
        (0..holders).map(|_| Sender::new(&mut model, incomplete.clone())).collect();
    let mut last = Sender::new(&mut model, whole.clone());
    let others: Vec<usize> = (holders.len() + 1..links).map(|_| model.connect()).collect();
    let answer_all = |model: &mut Model<Lengths, (), ()>, others: &[usize]| {
        for link in others {
            assert_eq!(model.arrive(*link, &message(50)), 54);
        }
        model.turn();
        for link in others {
            assert_eq!(model.leave(*link, 99), b"50\n", "not answered in the same turn");
        }
    };
    for holder in &mut holders {
        holder.send(&mut model, usize::MAX);
    }
    answer_all(&mut model, &others);
    let mut time_ms = 0;
    loop {
        for holder in &mut holders {
            holder.send(&mut model, usize::MAX);
        }
        last.send(&mut model, usize::MAX);
        answer_all(&mut model, &others[..sample]);
        if model.leave(last.link, 99) == format!("{}\n", whole.len() - 4).into_bytes() {
            break;
        }
        model.tick(100);
        time_ms += 100;
        assert!(time_ms <= 3_000, "{:?} after 3 s, {model:?}", model.link(last.link));
    }
    answer_all(&mut model, &others);
    for holder in &holders {
        assert!([LinkEnd::Open, LIMIT].contains(&model.link(holder.link).end));
    }
    for link in others {
        assert_eq!(model.link(link).end, LinkEnd::Open);
    }
    let closed = model.server().stats().loans_revoked;
    println!("the whole message got through after {time_ms} ms, {closed} links were closed");
    time_ms
}

pub(crate) fn incomplete_messages_stop_no_link_for_long(_: u64) {
    // Eight of forty fit at once.
    let settings = settings(400);
    hold_incomplete(settings, 40, 9);
}

/// 273 x 64 KiB are all 8,750 buffers.
pub(crate) fn incomplete_messages_of_273_stop_no_link() {
    let settings = Settings {
        buffer_size_bytes: 2_048,
        buffer_count: 8_750,
        links_max: 3_000,
        input_bytes: 65_536,
        output_bytes: 262_144,
        grant_bytes: 2_048,
        send_buffers_max: 16,
        ..Settings::default()
    };
    hold_incomplete(settings, 273, 100);
}
