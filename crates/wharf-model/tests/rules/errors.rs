//! Errors and panics, and the reasons for which links end.

use crate::common::{ON_PURPOSE, hide_expected_panics, run_until_idle};
use std::sync::atomic::{AtomicU64, Ordering};
use wharf_model::{
    DisconnectReason, Handler, Input, LengthPrefix, Link, LinkEnd, Model, Origin, PostError,
    Result, SendError, Settings, Verdict, Worker,
};

pub(crate) fn an_error_of_on_end_closes_the_link(_: u64) {
    struct Bye;
    impl Handler for Bye {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.forward(&mut link.out);
            Ok(())
        }

        fn on_end(&self, _: &mut Link<'_>, _: &mut Input<'_>) -> Result<Verdict> {
            Err(PostError::Full)?
        }
    }
    let mut model = Model::new(Bye, Settings::default());
    let link = model.connect();
    model.arrive(link, b"hello");
    model.finish(link);
    assert_eq!(run_until_idle(&mut model, link), "hello");
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::HandlerError));
}

pub(crate) fn a_limit_is_at_least_two_grants(_: u64) {
    struct Small;
    impl Handler for Small {
        fn on_connect(&self, link: &mut Link<'_>) -> Result {
            link.out.set_limit_bytes(64);
            Ok(())
        }

        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.forward(&mut link.out);
            Ok(())
        }
    }
    let mut model = Model::new(Small, Settings::default());
    let link = model.connect();
    model.arrive(link, b"hello");
    assert_eq!(run_until_idle(&mut model, link), "hello");
    assert_eq!(model.link(link).output_limit, 200);
}

/// Replies with so many bytes to each line; asks for the capacity before, or not.
struct Keys {
    asks: bool,
    reply_bytes: usize,
}

impl Handler for Keys {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(_) = input.line(50)? else { return Ok(()) };
        if self.asks && !link.out.ensure(self.reply_bytes)? {
            input.rewind();
            return Ok(());
        }
        Ok(link.out.send(vec![b'k'; self.reply_bytes])?)
    }
}

pub(crate) fn a_reply_above_the_grant_waits_or_is_the_handlers_fault(_: u64) {
    let run = |asks, reply_bytes| {
        let mut model = Model::new(Keys { asks, reply_bytes }, Settings::default());
        let link = model.connect();
        model.arrive(link, b"1\n2\n3\n4\n5\n");
        (run_until_idle(&mut model, link).len(), model.link(link).end)
    };
    // Up to half of the limit it fits, while buffers are not short: calls come below the mark.
    assert_eq!(run(false, 150), (750, LinkEnd::Open));
    // Above half, without asking: what is queued is sent, and the reason is not the peer's.
    assert_eq!(run(false, 390), (390, LinkEnd::Over(DisconnectReason::OutputFull)));
    assert_eq!(run(true, 390), (1950, LinkEnd::Open));
}

pub(crate) fn a_refused_message_is_tried_again_when_it_fits(_: u64) {
    /// Replies to each line with 390 bytes; what is refused is tried again.
    struct Again;
    impl Handler for Again {
        fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            let Some(_) = input.line(50)? else { return Ok(()) };
            match link.out.send([b'a'; 390]) {
                Err(SendError::Full) => input.rewind(),
                sent => sent?,
            }
            Ok(())
        }
    }
    let mut model = Model::new(Again, Settings::default());
    let link = model.connect();
    model.arrive(link, &b"again\n".repeat(5));
    assert_eq!(run_until_idle(&mut model, link).len(), 5 * 390);
    let view = model.link(link);
    assert!(view.refused > 0, "no message was refused");
    assert!(view.writables <= 5, "called again and again: {view:?}");
}

/// Opens a partner, and replies itself to `cached`.
struct Gate;

impl Handler for Gate {
    fn on_connect(&self, link: &mut Link<'_>) -> Result {
        if link.origin() == Origin::Accepted {
            link.connect();
        }
        Ok(())
    }

    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(50)? else { return Ok(()) };
        if line == b"full" {
            let partner = &mut link.partner();
            let error = partner.send([0; 399]).and_then(|()| partner.send([0; 9])).unwrap_err();
            assert_eq!(error, SendError::PartnerFull);
            return Err(error.into());
        }
        if link.out.ensure(90)? {
            link.out.send([b'c'; 90])?;
        } else {
            input.rewind();
        }
        Ok(())
    }
}

pub(crate) fn a_link_with_a_partner_asks_for_its_own_output(_: u64) {
    let mut model = Model::new(Gate, Settings::default());
    let link = model.connect();
    model.arrive(link, &b"cached\n".repeat(12));
    assert_eq!(run_until_idle(&mut model, link).len(), 12 * 90);
}

pub(crate) fn the_partners_error_closes_the_link_that_returned_it(_: u64) {
    let mut model = Model::new(Gate, Settings::default());
    let link = model.connect();
    model.arrive(link, b"full\n");
    run_until_idle(&mut model, link);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::OutputFull));
}

pub(crate) fn what_can_never_be_is_an_error_at_once(_: u64) {
    struct Big;
    impl Handler for Big {
        fn on_receive(&self, _: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.frame(LengthPrefix::new(4, 1 << 20))?;
            Ok(())
        }
    }
    struct Cut;
    impl Handler for Cut {
        fn on_receive(&self, _: &mut Link<'_>, input: &mut Input<'_>) -> Result {
            input.until(b"\r\n", 399)?;
            Ok(())
        }
    }
    fn end<H: Handler>(handler: H, data: &[u8]) -> LinkEnd {
        let mut model = Model::new(handler, Settings::default());
        let link = model.connect();
        model.arrive(link, data);
        run_until_idle(&mut model, link);
        model.link(link).end
    }
    assert_eq!(end(Big, &[0, 0, 2, 0, 1]), LinkEnd::Over(DisconnectReason::Limit));
    assert_eq!(end(Cut, b"a"), LinkEnd::Over(DisconnectReason::Limit));
    let never = Keys { asks: true, reply_bytes: 500 };
    assert_eq!(end(never, b"q\n"), LinkEnd::Over(DisconnectReason::HandlerError));
}

pub(crate) fn a_panic_resets_its_link_and_the_worker_goes_on(_: u64) {
    struct Bad(AtomicU64);
    impl Handler<(), u64> for Bad {
        fn on_worker_start(&self, _: &mut Worker<'_>) -> Result<u64> {
            Ok(self.0.load(Ordering::Relaxed))
        }

        fn on_connect(&self, _: &mut Link<'_, (), u64>) -> Result {
            Ok(())
        }

        fn on_receive(&self, link: &mut Link<'_, (), u64>, input: &mut Input<'_>) -> Result {
            link.out.send("half")?;
            if input.line(50)?.is_some_and(|line| line == b"panic") {
                panic!("{}", ON_PURPOSE);
            }
            Ok(())
        }

        fn on_disconnect(&self, _: &mut Link<'_, (), u64>, reason: DisconnectReason) {
            assert_eq!(reason, DisconnectReason::HandlerPanic);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    hide_expected_panics();
    let mut model = Model::new(Bad(AtomicU64::new(7)), Settings::default());
    let (bad, other) = (model.connect(), model.connect());
    model.arrive(bad, b"panic\n");
    assert_eq!(run_until_idle(&mut model, bad), "");
    assert_eq!(model.link(bad).end, LinkEnd::Over(DisconnectReason::HandlerPanic));
    model.arrive(other, b"go on\n");
    assert_eq!(run_until_idle(&mut model, other), "half");
    let ended = model.handler().0.load(Ordering::Relaxed);
    let links = model.server().stats().links;
    assert_eq!((model.panics(), *model.context(), ended, links), (1, 7, 8, 1));
}
