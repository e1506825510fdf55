//! Replies that come later.

use crate::common::{id_of, run_until_idle, turns};
use std::sync::Mutex;
use wharf_model::{
    DisconnectReason, Handler, Input, Link, LinkEnd, Model, PostError, Reply, Result, Settings,
};

/// Keeps replies, to be sent by the test. `ping` is replied to at once.
#[derive(Default)]
pub(crate) struct Batch(Mutex<Vec<(String, Reply)>>);

impl Batch {
    pub(crate) fn take(&self) -> Vec<(String, Reply)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn take_one(&self) -> Reply {
        self.take().pop().unwrap().1
    }
}

impl Handler for Batch {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        while link.out.has_grant()
            && let Some(line) = input.line(50)?
        {
            let line = String::from_utf8_lossy(line).into_owned();
            if line == "ping" {
                link.out.send("pong\n")?;
                continue;
            }
            let reply = input.defer(&mut link.out, 20)?;
            link.out.send("(wait)")?;
            self.0.lock().unwrap().push((line, reply));
        }
        Ok(())
    }
}

/// A link whose first question has arrived.
fn ask(text: &[u8]) -> (Model<Batch, (), ()>, usize) {
    let settings = Settings { answer_timeout_ms: 500, idle_timeout_ms: 100, ..Settings::default() };
    let mut model = Model::new(Batch::default(), settings);
    let link = model.connect();
    model.arrive(link, text);
    run_until_idle(&mut model, link);
    (model, link)
}

pub(crate) fn a_deferral_holds_the_input_so_replies_keep_their_order(_: u64) {
    let mut model = Model::new(Batch::default(), Settings::default());
    let link = model.connect();
    model.arrive(link, b"q1\nping\nq2\n");
    let mut heard = run_until_idle(&mut model, link);
    while let Some((question, reply)) = model.handler().take().pop() {
        writeln!(reply, "re {question}").unwrap();
        heard += &run_until_idle(&mut model, link);
    }
    assert_eq!(heard, "(wait)re q1\npong\n(wait)re q2\n");
}

pub(crate) fn a_reply_ends_by_none_or_by_close(_: u64) {
    let (mut model, link) = ask(b"q\nping\n");
    model.handler().take_one().none();
    assert_eq!(run_until_idle(&mut model, link), "pong\n");
    assert_eq!(model.link(link).reserved_bytes, 0);
    let (mut model, link) = ask(b"q\nping\n");
    model.handler().take_one().close("last").unwrap();
    assert_eq!(run_until_idle(&mut model, link), "last");
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::HandlerClosed));
}

pub(crate) fn a_dropped_or_too_long_reply_closes_the_link(_: u64) {
    let (mut model, link) = ask(b"q\nping\n");
    model.handler().take();
    assert_eq!(run_until_idle(&mut model, link), "");
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::HandlerError));
    let (mut model, link) = ask(b"q\n");
    assert_eq!(model.handler().take_one().send([0; 21]), Err(PostError::TooLarge));
    run_until_idle(&mut model, link);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::HandlerError));
}

pub(crate) fn a_late_reply_finds_its_link_closed(_: u64) {
    // A deferred link is not idle, also after its stream has ended; but the reply must come in time.
    let (mut model, link) = ask(b"q\n");
    model.finish(link);
    for _ in 0..4 {
        model.tick(100);
        model.turn();
    }
    assert_eq!(model.link(link).end, LinkEnd::Open);
    model.tick(100);
    run_until_idle(&mut model, link);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::HandlerError));
    assert_eq!(model.handler().take_one().send("late"), Err(PostError::Closed));
    assert_eq!(model.lent().sum(), 0, "the reply of an ended link holds nothing");
}

pub(crate) fn a_close_waits_for_the_deferred_reply(_: u64) {
    let (mut model, link) = ask(b"q\nping\n");
    model.server().link(id_of(link)).close();
    turns(&mut model, 5);
    assert_eq!(model.link(link).end, LinkEnd::Flushing(DisconnectReason::Kicked));
    model.handler().take_one().send("last").unwrap();
    assert_eq!(run_until_idle(&mut model, link), "last");
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::Kicked));
}

pub(crate) fn a_reply_within_the_guarantee_waits_for_the_links_own_send(_: u64) {
    let settings = Settings { grant_bytes: 64, links_max: 1, ..Settings::default() };
    let surplus = settings.surplus_min();
    let mut model = Model::new(Batch::default(), settings.with_surplus(surplus));
    let link = model.connect();
    model.arrive(link, b"q\n");
    turns(&mut model, 1);
    model.handler().take_one().send("reply").unwrap();
    turns(&mut model, 3);
    assert_eq!(model.link(link).end, LinkEnd::Open);
    assert_eq!(run_until_idle(&mut model, link), "(wait)reply");
    assert_eq!(model.lent().sum(), 0);
}
