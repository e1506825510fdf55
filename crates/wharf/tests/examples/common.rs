//! A running example, and clients that send in pieces.

use super::skip::lacks;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use wharf::BackEnd;

/// Longer than any step takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running example; its drop kills it.
pub(crate) struct Example {
    child: Child,
    /// Its standard input.
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) address: SocketAddr,
}

impl Example {
    /// Starts it on a port that the system chooses; `None`, with the reason printed, if this
    /// machine lacks the back end.
    pub(crate) fn start(name: &str, back_end: BackEnd) -> Option<Self> {
        Self::start_in(name, back_end, Path::new("."))
    }

    /// As [`start`](Self::start), in a folder.
    pub(crate) fn start_in(name: &str, back_end: BackEnd, folder: &Path) -> Option<Self> {
        Self::spawn(program(name).arg("127.0.0.1:0").current_dir(folder), back_end)
    }

    /// Starts a program, and finds the port that it listens on.
    pub(crate) fn spawn(command: &mut Command, back_end: BackEnd) -> Option<Self> {
        if let Err(reason) = back_end.probe() {
            lacks(format_args!("{back_end} is unavailable: {reason}"));
            return None;
        }
        command.env("WHARF_BACKEND", back_end.name()).stdin(Stdio::piped());
        let mut child = command.spawn().expect("examples are built by `cargo test -p wharf`");
        let deadline = Instant::now() + PATIENCE;
        let address = loop {
            if let Some(port) = listening_port(child.id()) {
                break SocketAddr::from(([127, 0, 0, 1], port));
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the example ended: {status}");
            }
            assert!(Instant::now() < deadline, "the example does not listen");
            std::thread::yield_now();
        };
        Some(Self { stdin: child.stdin.take(), child, address })
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends `text` in `pieces`, ends the stream, and returns all that the server sends.
    pub(crate) fn ask(&self, text: &[u8], pieces: &mut Pieces) -> Vec<u8> {
        let mut stream = self.connect();
        let mut heard = Vec::new();
        std::thread::scope(|scope| {
            let mut writer = stream.try_clone().unwrap();
            scope.spawn(move || {
                // The server may close before it has read all; the replies show whether it may.
                let _closed = pieces.write(&mut writer, text);
                let _closed = writer.shutdown(Shutdown::Write);
            });
            stream.read_to_end(&mut heard).unwrap();
        });
        heard
    }

    /// The maximum of its resident memory so far, in bytes.
    pub(crate) fn memory_max_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Stops it by a signal; it must end with success.
    pub(crate) fn stop(self) {
        self.stop_while(|| {});
    }

    /// As [`stop`](Self::stop), with actions of clients meanwhile: the program waits 2 s for each
    /// to close.
    pub(crate) fn stop_while(self, clients: impl FnOnce()) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        clients();
        self.ends();
    }

    /// It ends with success.
    pub(crate) fn ends(mut self) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the example does not end");
            std::thread::yield_now();
        };
        assert!(status.success(), "{status}");
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The built example.
pub(crate) fn program(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let folder: PathBuf = tests.parent().unwrap().parent().unwrap().join("examples");
    Command::new(folder.join(name))
}

/// The first port that a process listens on, from the system's tables.
fn listening_port(pid: u32) -> Option<u16> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let sockets: Vec<String> = links
        .filter_map(|entry| fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok())
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, state, inode) = (fields[1], fields[3], fields[9]);
        let listens = state == "0A" && sockets.iter().any(|socket| socket == inode);
        listens.then(|| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap())
    })
}

/// The pieces in which a client sends.
pub(crate) enum Pieces {
    /// Of random lengths up to this one.
    Random(Rng, usize),
    ByteByByte,
}

impl Pieces {
    pub(crate) fn write(&mut self, stream: &mut TcpStream, mut text: &[u8]) -> std::io::Result<()> {
        while !text.is_empty() {
            let len = match self {
                Self::Random(rng, max) => 1 + rng.below(*max),
                Self::ByteByByte => 1,
            };
            let (piece, rest) = text.split_at(len.min(text.len()));
            stream.write_all(piece)?;
            text = rest;
            // So that the server may receive the piece by itself.
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// Has clients send the text that `talk` draws, from 8 seeds in random pieces and once byte by
/// byte; each must read the replies that `talk` returns, and then the end of the stream. One client
/// follows the other, so that `talk` may model the state of the server.
pub(crate) fn check(example: &Example, mut talk: impl FnMut(&mut Rng) -> (Vec<u8>, Vec<u8>)) {
    for seed in 1..=9 {
        let mut rng = Rng::new(seed);
        let (text, replies) = talk(&mut rng);
        let max = rng.pick(&[3, 100, 5_000]);
        let mut pieces = if seed < 9 { Pieces::Random(rng, max) } else { Pieces::ByteByByte };
        let heard = example.ask(&text, &mut pieces);
        assert_same(&heard, &replies, &format!("seed {seed}, pieces up to {max}"));
    }
}

/// Asserts that the bytes are the expected ones; shows where they differ.
#[track_caller]
pub(crate) fn assert_same(heard: &[u8], expected: &[u8], what: &str) {
    if heard == expected {
        return;
    }
    let at = heard.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let show =
        |bytes: &[u8]| String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 80)]).into_owned();
    panic!(
        "{what}: of {} bytes {} came, and differ from byte {at} on: {:?} in place of {:?}",
        expected.len(),
        heard.len(),
        show(heard),
        show(expected)
    );
}

/// Reads until the bytes so far end with `end`.
#[track_caller]
pub(crate) fn read_until(stream: &mut impl Read, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => panic!("{other:?} instead of {end:?} after {:?}", String::from_utf8(bytes)),
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// Whether a foreign program is installed; prints that it is not.
pub(crate) fn installed(name: &str, option: &str) -> bool {
    let found = Command::new(name).arg(option).stdin(Stdio::null()).output().is_ok();
    if !found {
        lacks(format_args!("{name} is not installed: only our own client asks"));
    }
    found
}

/// The output of a client with `input` as its standard input.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> String {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().expect("it is installed");
    let mut stdin = child.stdin.take().expect("piped");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("it ends")
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}, {errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Random numbers from a seed: xorshift64.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Less than `len_max` small letters.
    pub(crate) fn letters(&mut self, len_max: usize) -> Vec<u8> {
        let len = self.below(len_max);
        (0..len).map(|_| b"abcdefghijklmnopqrstuvwxyz"[self.below(26)]).collect()
    }
}
