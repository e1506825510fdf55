//! A running `wharf` whose standard error is a terminal, and what stands on its screen.

use super::common::{PATIENCE, wharf};
use super::snapshot::with_placeholders;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU16;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

/// How large a terminal is, and what it can show.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

pub(crate) const USUAL: Size = Size { rows: 24, columns: 80 };

/// A terminal: the side that shows it, and that of programs.
pub(crate) fn open(size: Size) -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).expect("ours");
    unlockpt(&master).expect("ours");
    let (ws_row, ws_col) = (size.rows, size.columns);
    let size_now = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size_now).expect("an option");
    let name = ptsname(&master, Vec::new()).expect("it has one");
    let name = name.into_string().expect("a path");
    let slave = OpenOptions::new().read(true).write(true).open(name);
    (master.into(), slave.expect("unlocked"))
}

/// A server on a terminal of its own. Dropped, it is killed.
pub(crate) struct Terminal {
    child: Child,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    addresses: Vec<SocketAddr>,
}

impl Terminal {
    /// Starts `wharf serve` on a port of the system's choice, and waits until it is ready.
    ///
    /// `variables` come on top of a terminal that has colours and shows UTF-8.
    pub(crate) fn start(
        back_end: &str,
        size: Size,
        variables: &[(&str, &str)],
        words: &[&str],
    ) -> Self {
        let (master, slave) = open(size);
        let serve = ["serve", "--backend", back_end, "--listen", "127.0.0.1:0"];
        let mut command = wharf(&[&serve, words].concat());
        command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
        let child = command.envs(variables.iter().copied()).stderr(slave).spawn();
        let child = child.expect("the program starts");
        // The only copy of the terminal's end that is left is the program's.
        drop(command);

        let (sender, output) = channel();
        let mut master = master;
        let read = move || {
            let mut piece = vec![0; 1 << 16];
            // EIO tells that the program has ended.
            while let Ok(len @ 1..) = master.read(&mut piece) {
                if sender.send(piece[..len].to_vec()).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().spawn(read).expect("a thread starts");
        let known = |number| NonZeroU16::new(number).expect("not zero");
        let screen = vt100::Parser::new(known(size.rows), known(size.columns), 0);
        let mut terminal = Self { child, output, screen, addresses: Vec::new() };
        terminal.wait_for("a ready server", |text| text.contains(" ready: "));
        let text = terminal.text();
        let (_, rest) = text.split_once("ready: echo on ").expect("echo is served");
        let end = rest.find('\n').unwrap_or(rest.len());
        terminal.addresses.push(rest[..end].trim().parse().expect("an address"));
        terminal
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let link = TcpStream::connect_timeout(&self.addresses[0], PATIENCE).expect("it accepts");
        link.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        link
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Waits until the screen shows what is expected.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str, is_shown: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_shown(&self.text()) {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(error) => panic!("{error} instead of {what}:\n{}", self.text()),
            }
        }
    }

    /// Waits for the end. The rest of the output is read.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.text()),
            }
        }
        self.child.wait().expect("it is our child")
    }

    /// What stands on the screen, without colours.
    pub(crate) fn text(&self) -> String {
        let (_, columns) = self.screen.screen().size();
        let rows = self.screen.screen().rows(0, columns.get());
        let rows: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
        rows.join("\n").trim_end().to_owned() + "\n"
    }

    /// The block: what stands under the log.
    pub(crate) fn statistics(&self) -> String {
        let text = self.text();
        text.split_once("\n\n").expect("a blank line").1.to_owned()
    }

    /// [`Terminal::text`], with placeholders for this program's own numbers.
    pub(crate) fn transcript(&self) -> String {
        with_placeholders(&self.text(), self.child.id(), &self.addresses)
    }

    /// As [`Terminal::transcript`], with the colours' names.
    pub(crate) fn coloured_transcript(&self) -> String {
        let (_, columns) = self.screen.screen().size();
        let rows = self.screen.screen().rows_formatted(0, columns.get());
        let text = rows.collect::<Vec<_>>().join("\n").trim_end().to_owned() + "\n";
        let text = colours_named(&text);
        with_placeholders(&text, self.child.id(), &self.addresses)
    }
}

/// `text` with a name in braces for each change of colour.
pub(crate) fn colours_named(text: &str) -> String {
    let names = [
        ("\x1b[m", "{}"),
        ("\x1b[0m", "{}"),
        ("\x1b[2m", "{dim}"),
        ("\x1b[32m", "{green}"),
        ("\x1b[33m", "{yellow}"),
        ("\x1b[36m", "{cyan}"),
    ];
    let text = names.iter().fold(text.to_owned(), |text, (code, name)| text.replace(code, name));
    assert!(!text.contains('\x1b'), "{text:?}");
    text
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
