//! Everything that comes in goes out again.
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
    Server::builder().listen("127.0.0.1:9527").serve(Echo)
}
