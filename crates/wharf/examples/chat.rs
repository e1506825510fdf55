//! A chat in few lines: what one client says, all others read, with its address in front.
//!
//! Try it with two or three of `nc 127.0.0.1 9527`.
use wharf::{DisconnectReason, Handler, Link, Result, Server};

struct Chat;

/// What a client has typed since its last end of line.
type Typed = Vec<u8>;

/// A longer line is not waited for: its client is shown out.
const LINE_MAX: usize = 1024;

impl Handler for Chat {
    type Worker = ();
    type State = Typed;

    fn on_connect(&self, _: &mut (), link: &mut Link<'_, Typed>) -> Result {
        link.send(b"Type a line; everybody else reads it.\n")?;
        let news = format!("* {} came in\n", link.peer());
        Ok(link.broadcast(news.as_bytes())?)
    }

    fn on_receive(&self, _: &mut (), link: &mut Link<'_, Typed>, data: &[u8]) -> Result {
        // TCP has no messages: a piece may end in the middle of a line, or hold several.
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            link.state().extend_from_slice(piece);
            if link.state().len() > LINE_MAX {
                return Err("the line is too long".into());
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(link.state());
                let text = format!("{}: {}", link.peer(), String::from_utf8_lossy(&line));
                link.broadcast(text.as_bytes())?;
            }
        }
        Ok(())
    }

    fn on_disconnect(&self, _: &mut (), link: &mut Link<'_, Typed>, reason: DisconnectReason) {
        let news = format!("* {} left ({reason})\n", link.peer());
        // Nobody to tell it to, or no room: then it stays untold.
        let _untold = link.broadcast(news.as_bytes());
    }
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    Server::builder().listen(address).serve(Chat)
}
