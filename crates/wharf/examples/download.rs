//! Sends files of any size in constant memory: as much as there is capacity for, then more.
//!
//! A request is a line with the file's name; the reply is its length, and its bytes.
use std::fs::File;
use std::path::PathBuf;
use wharf::{Error, Handler, Input, Link, Result, Server};

struct Files(PathBuf);

/// The file that is being sent, and how many of its bytes are left.
type Transfer = Option<(File, u64)>;

impl Handler<Transfer> for Files {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<Transfer> {
        Ok(None)
    }

    fn on_receive(&self, link: &mut Link<'_, Transfer>, input: &mut Input<'_>) -> Result {
        if link.state.is_some() {
            // During a reply the next request stays unread.
            return Ok(());
        }
        let Some(name) = input.line(255)? else { return Ok(()) };
        let name = str::from_utf8(name)?;
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(Error::msg("that is no file's name"));
        }
        let file = File::open(self.0.join(name))?;
        let len = file.metadata()?.len();
        writeln!(link.out, "{len}")?;
        *link.state = Some((file, len));
        self.on_writable(link)
    }

    fn on_writable(&self, link: &mut Link<'_, Transfer>) -> Result {
        let Some((file, left)) = link.state else { return Ok(()) };
        let copied = link.out.read_from(file, *left)?;
        *left -= copied.bytes;
        if *left == 0 {
            *link.state = None;
        } else if copied.ended {
            return Err(Error::msg("the file has become shorter"));
        }
        Ok(())
    }
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    Server::builder(Files(std::env::current_dir()?)).listen(address).serve()
}
