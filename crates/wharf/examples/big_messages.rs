//! Messages of 1 MiB both ways: larger than a buffer, larger than a socket's own buffers.
//!
//! A message is its length (four bytes, big-endian) and then so many bytes; the answer is the same
//! message with its bytes reversed. A lie about the length costs the server nothing: memory is
//! taken as the bytes come, and a length above the limit closes the link.
use wharf::{Handler, Link, Result, Server};

struct Reverse;

const MESSAGE_MAX: u32 = 1 << 20;

impl Handler for Reverse {
    type Worker = ();
    /// What has come of the next message, its length included.
    type State = Vec<u8>;

    fn on_receive(&self, _: &mut (), link: &mut Link<'_, Vec<u8>>, data: &[u8]) -> Result {
        link.state().extend_from_slice(data);
        while let Some(len) = message_len(link.state())? {
            let mut message: Vec<u8> = link.state().drain(..4 + len).collect();
            message[4..].reverse();
            link.send(&message)?;
        }
        Ok(())
    }
}

/// The length of the first message, if all of it is there.
fn message_len(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*prefix);
    if len > MESSAGE_MAX {
        return Err("the message is longer than 1 MiB".into());
    }
    let len = len as usize;
    Ok((bytes.len() >= 4 + len).then_some(len))
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    // The send queue holds the largest answer twice, so that one can wait while another leaves.
    let queue = 2 * (MESSAGE_MAX + 4);
    Server::builder().listen(address).send_queue(queue).serve(Reverse)
}
