//! Posts: they have the lower half of an output, and an account of their own.

use crate::common::{id_of, run_until_idle, small, turns};
use std::sync::atomic::{AtomicUsize, Ordering};
use wharf_model::{
    DisconnectReason, Handler, Input, Link, LinkEnd, Model, PostError, Result, Rng, Settings,
    WhenSlow,
};

/// Replies to each line with so many bytes, and counts.
struct Lines {
    replies: AtomicUsize,
    reply_bytes: usize,
}

impl Lines {
    fn new(reply_bytes: usize) -> Self {
        Self { replies: AtomicUsize::new(0), reply_bytes }
    }
}

impl Handler for Lines {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(_) = input.line(50)? else { return Ok(()) };
        if !link.out.ensure(self.reply_bytes)? {
            input.rewind();
            return Ok(());
        }
        self.replies.fetch_add(1, Ordering::Relaxed);
        Ok(link.out.send(vec![b'r'; self.reply_bytes])?)
    }
}

pub(crate) fn posts_leave_free_what_the_handler_was_promised(_: u64) {
    // Within the grant, and more than half of the output, which `ensure` keeps free.
    for reply_bytes in [3, 250] {
        let mut model = Model::new(Lines::new(reply_bytes), Settings::default());
        let link = model.connect();
        let mut read = 0;
        // 40 bytes in every turn, to a peer that reads 30.
        for turn in 0..3_000 {
            model.server().link(id_of(link)).post([b'x'; 40]);
            if turn == 1_000 {
                model.arrive(link, b"unsubscribe\n");
            }
            model.turn();
            read += model.leave(link, 30).len();
        }
        let missed = model.server().stats().missed;
        assert!(read > 80_000 && missed > 500, "{read} bytes read, {missed} posts missed");
        let replies = model.handler().replies.load(Ordering::Relaxed);
        assert_eq!(replies, 1, "no reply of {reply_bytes} bytes");
    }
}

pub(crate) fn a_post_that_does_not_fit_disconnects_if_that_is_asked_for(_: u64) {
    let mut model = Model::new(Lines::new(3), Settings::default());
    let link = model.connect();
    for _ in 0..9 {
        model.server().all().when_slow(WhenSlow::Disconnect).post([b'x'; 40]);
    }
    turns(&mut model, 1);
    assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::SlowReader));
}

pub(crate) fn posts_to_itself_follow_what_the_callback_queued(_: u64) {
    struct Own;
    impl Handler<bool> for Own {
        fn on_connect(&self, _: &mut Link<'_>) -> Result<bool> {
            Ok(false)
        }

        fn on_receive(&self, link: &mut Link<'_, bool>, input: &mut Input<'_>) -> Result {
            input.consume(9);
            link.server.link(link.id()).post("posted ");
            *link.state = link.server.all().try_post("refused") == Err(PostError::Full);
            Ok(link.out.send("sent ")?)
        }

        fn on_writable(&self, link: &mut Link<'_, bool>) -> Result {
            if std::mem::take(link.state) {
                link.server.all().try_post("again")?;
            }
            Ok(())
        }
    }
    let mut model = Model::new(Own, Settings { posts_max: 1, ..Settings::default() });
    let link = model.connect();
    model.arrive(link, b"x");
    assert_eq!(run_until_idle(&mut model, link), "sent posted again");
    let gone = model.connect();
    model.server().link(id_of(gone)).abort();
    turns(&mut model, 2);
    assert_eq!(model.server().link(id_of(gone)).try_post("x"), Err(PostError::Closed));
    assert_eq!(model.server().all().try_post([0; 301]), Err(PostError::TooLarge));
}

pub(crate) fn posts_have_an_account_of_their_own(_: u64) {
    let settings = Settings { post_buffers: 2, ..Settings::default() };
    let mut model = Model::new(Lines::new(3), settings);
    let links: Vec<usize> = (0..9).map(|_| model.connect()).collect();
    let free = model.free_buffers();
    let post = |model: &Model<Lines, (), ()>| model.server().all().try_post([b'p'; 64]);
    // A buffer each, whatever the number of recipients.
    assert_eq!((post(&model), post(&model)), (Ok(()), Ok(())));
    assert_eq!(post(&model), Err(PostError::Full));
    turns(&mut model, 1);
    assert_eq!((model.free_buffers(), model.lent().sum()), (free, 0));
    assert_eq!(post(&model), Err(PostError::Full), "the last recipient releases them");
    let heard: usize = links.iter().map(|link| model.leave(*link, 999).len()).sum();
    assert_eq!((heard, model.server().stats().missed), (9 * 128, 0));
    assert_eq!(post(&model), Ok(()));
}

/// Replies of the size that each line says.
pub(crate) struct Sizes;

impl Handler for Sizes {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(50)? else { return Ok(()) };
        let len: usize = str::from_utf8(line)?.parse()?;
        if !link.out.ensure(len + 2)? {
            input.rewind();
            return Ok(());
        }
        link.out.send(("<", "r".repeat(len), ">"))?;
        // At times, only when it is told to.
        if len.is_multiple_of(7) {
            link.pause();
            link.server.link(link.id()).resume();
        }
        Ok(())
    }
}

/// Replies of any size and posts of any size in one output: each reply comes, in order, whole; each post
/// comes whole, or is counted.
pub(crate) fn posts_and_replies_share_an_output(seeds: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let settings = small(&mut rng);
        let limit = settings.output_bytes;
        let mut model = Model::new(Sizes, settings);
        let link = model.connect();
        let sizes: Vec<usize> = (0..rng.below(60))
            .map(|_| {
                let len_max = if rng.once_in(3) { limit - 2 } else { 30 };
                rng.below(len_max)
            })
            .collect();
        let text: String = sizes.iter().map(|len| format!("{len}\n")).collect();
        let (mut written, mut posted, mut heard) = (0, 0, Vec::new());
        for _ in 0..300 {
            let len = (1 + rng.below(9)).min(text.len() - written);
            written += model.arrive(link, &text.as_bytes()[written..][..len]);
            for _ in 0..rng.below(3) {
                let len = rng.below(limit / 2 - 2);
                model.server().all().post(("[", vec![b'p'; len], "]"));
                posted += 1;
            }
            model.turn();
            let len_max = if rng.once_in(30) { 2_000 } else { 60 };
            let len = rng.below(len_max);
            heard.extend(model.leave(link, len));
        }
        while written < text.len() {
            written += model.arrive(link, &text.as_bytes()[written..]);
            heard.extend(run_until_idle(&mut model, link).into_bytes());
        }
        heard.extend(run_until_idle(&mut model, link).into_bytes());
        let heard = String::from_utf8(heard).unwrap();
        let replies = heard.split('<').skip(1).map(|reply| {
            let (reply, _) = reply.split_once('>').expect("a whole reply");
            reply.bytes().filter(|byte| *byte == b'r').count()
        });
        assert_eq!(replies.collect::<Vec<_>>(), sizes, "seed {seed}");
        let (begun, whole) = (heard.matches('[').count(), heard.matches(']').count());
        let missed = model.server().stats().missed;
        assert!(
            begun == whole && whole as u64 + missed == posted,
            "seed {seed}: {whole}, {missed}"
        );
        let view = model.link(link);
        assert_eq!((view.refused, model.panics(), view.end), (0, 0, LinkEnd::Open), "seed {seed}");
    }
}
