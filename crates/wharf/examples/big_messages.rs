//! Messages of 1 MiB both ways, whole: larger than a buffer, larger than a socket's own buffers.
//!
//! A message is its length (four bytes, big-endian) and then so many bytes; the reply is the same
//! message with its bytes reversed. A false length costs the server no memory: received bytes stay
//! in their buffers, and a length above the limit closes the link.
use wharf::{Handler, Input, LengthPrefix, Link, Result, Server};

struct Reverse;

const MESSAGE_MAX: u32 = 1 << 20;
const FRAME_MAX: u32 = 4 + MESSAGE_MAX;
const FRAMES: LengthPrefix = LengthPrefix::new(4, MESSAGE_MAX as usize);

impl Handler for Reverse {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(message) = input.frame(FRAMES)? else { return Ok(()) };
        // The reply is longer than the grant: if it does not fit yet, the handler is called again with
        // the same message.
        if link.out.ensure(4 + message.len())? {
            let reversed: Vec<u8> = message.iter().rev().copied().collect();
            link.out.send(FRAMES.of(reversed))?;
        } else {
            input.rewind();
        }
        Ok(())
    }
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    // An input holds the longest message; an output two, so that one can wait while another leaves.
    let server = Server::builder(Reverse).listen(address).frames(FRAMES);
    server.input_bytes(FRAME_MAX).output_bytes(2 * FRAME_MAX).serve()
}
