//! The same echo on wharf: `wharf_echo ADDRESS SHARDS BACKEND [LINKS [BUFFERS]]`.

use std::time::Duration;
use wharf::{BackEnd, Error, Handler, Input, Link, Result, Server};

struct Echo;

impl Handler for Echo {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.out);
        Ok(())
    }
}

fn main() -> Result {
    let mut args = std::env::args().skip(1);
    let address = args.next().expect("an address");
    let shards = args.next().and_then(|n| n.parse().ok()).expect("a number of shards");
    let back_end: BackEnd = args.next().expect("uring or epoll").parse().map_err(Error::msg)?;
    let links = args.next().map_or(16_000, |n| n.parse().expect("a number of links"));
    let buffers = args.next().map(|n| n.parse().expect("a number of buffers"));
    let builder = Server::builder(Echo).listen(address).shards(shards).back_end(back_end);
    let builder = builder.links_max(links).idle_timeout(Duration::ZERO);
    match buffers {
        Some(buffers) => builder.buffer_count(buffers),
        None => builder,
    }
    .serve()
}
