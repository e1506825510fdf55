//! The same echo on wharf: `wharf_echo ADDRESS SHARDS BACKEND [LINKS [BUFFERS]]`.

use std::time::Duration;
use wharf::{BackEnd, Handler, Link, Result, Server};

struct Echo;

impl Handler for Echo {
    type Worker = ();
    type State = ();
    fn on_receive(&self, _: &mut (), link: &mut Link<'_, ()>, data: &[u8]) -> Result {
        Ok(link.send(data)?)
    }
}

fn main() -> Result {
    let mut args = std::env::args().skip(1);
    let address = args.next().expect("an address");
    let shards = args.next().and_then(|n| n.parse().ok()).expect("a number of shards");
    let back_end: BackEnd = args.next().expect("uring or epoll").parse()?;
    let links = args.next().map_or(16_000, |n| n.parse().expect("a number of links"));
    let buffers = args.next().map(|n| n.parse().expect("a number of buffers"));
    let builder = Server::builder().listen(address).shards(shards).back_end(back_end);
    let builder = builder.links(links).idle(Duration::ZERO);
    match buffers {
        Some(buffers) => builder.buffers(buffers),
        None => builder,
    }
    .serve(Echo)
}
