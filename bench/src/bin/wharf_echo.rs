//! The same echo on wharf: `wharf_echo ADDRESS SHARDS [uring|epoll]`.

use std::time::Duration;
use wharf::{Handler, Link, Result, Server};

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
    let mut builder =
        Server::builder().listen(address).shards(shards).links(16_000).idle(Duration::ZERO);
    if let Some(name) = args.next() {
        builder = builder.back_end(name.parse()?);
    }
    builder.serve(Echo)
}
