//! A running `wharf`, seen from outside: what it prints, what it answers, how it ends.

use super::skip::lacks;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The program.
pub(crate) const WHARF: &str = env!("CARGO_BIN_EXE_wharf");

/// The program with arguments, and none of the variables that change what it does.
pub(crate) fn wharf(arguments: &[&str]) -> Command {
    clean(Command::new(WHARF), arguments)
}

pub(crate) fn clean(mut command: Command, arguments: &[&str]) -> Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("WHARF_") || name.starts_with("CLICOLOR") || name == "NO_COLOR" {
            command.env_remove(name);
        }
    }
    // The width of help texts, where there is no terminal.
    command.env_remove("COLUMNS");
    command.args(arguments).env_remove("JOURNAL_STREAM").stdin(Stdio::null());
    command
}

/// Copies the program, in a process of its own: had this one the copy open for writing, a process that
/// another test starts at this moment would hold it open, and a file that is written cannot be run
/// (ETXTBSY).
pub(crate) fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(WHARF).arg(to).status().expect("cp runs");
    assert!(copied.success(), "cp to {}", to.display());
}

/// What a program that ends by itself printed on both streams, and its exit code.
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

/// Runs a program that ends by itself. One that does not is killed.
pub(crate) fn run(command: &mut Command) -> Output {
    let pipes = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = pipes.spawn().expect("the program starts");
    let pid = rustix::process::Pid::from_child(&child);
    let (ended, watched) = channel::<()>();
    let watch = std::thread::spawn(move || {
        if watched.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            // An error means that it has just ended.
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().expect("it is our child");
    drop(ended);
    watch.join().expect("no panic");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    Output { stdout, stderr, code: output.status.code() }
}

/// A server that is ready. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    lines: Receiver<String>,
    /// What it has logged so far.
    pub(crate) log: Vec<String>,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts `wharf serve` on a port of the system's choice; `None`, with the reason printed, if
    /// this machine lacks the back end.
    pub(crate) fn start(back_end: &str, arguments: &[&str]) -> Option<Self> {
        let listen = ["serve", "--backend", back_end, "--listen", "127.0.0.1:0"];
        Self::spawn(&mut wharf(&[&listen, arguments].concat()))
    }

    pub(crate) fn spawn(command: &mut Command) -> Option<Self> {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, lines) = channel();
        let read = move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().spawn(read).expect("a thread starts");
        let mut server = Self { child, lines, log: Vec::new(), addresses: Vec::new() };
        let Some(ready) = server.wait_for_line(" ready: ") else {
            let log = server.log.join("\n");
            if log.contains("back end io_uring is unavailable") {
                lacks(log);
                return None;
            }
            panic!("not ready: {log}");
        };
        let list = ready.split_once(" on ").expect("the addresses stand after `on`").1;
        server.addresses = list.split(", ").map(|text| text.parse().expect("an address")).collect();
        Some(server)
    }

    /// Waits until the log has a line with `text`; `None` if it ends without.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return Some(line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("no {text:?} in {:#?}", self.log),
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let link = TcpStream::connect_timeout(&self.addresses[0], PATIENCE).expect("it accepts");
        link.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        link.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        link
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Waits for the end; what it was, and how long it took. The rest of the log is read.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        // Its log ends with it: no other process writes there.
        loop {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.log.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:#?}", self.log),
            }
        }
        let status = self.child.wait().expect("it is our child");
        (status, begin.elapsed())
    }

    /// Stops it, and checks that it ended with success.
    pub(crate) fn stop(self) {
        self.run_to_its_end();
    }

    /// Stops it, and checks that it ended with success; all that it has logged.
    pub(crate) fn run_to_its_end(mut self) -> String {
        self.signal(rustix::process::Signal::TERM);
        let (status, _) = self.wait();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log);
        self.transcript()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Reads until what came ends with `end`.
pub(crate) fn read_until(link: &mut impl Read, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        match link.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            other => panic!("{other:?} instead of {end:?} after {:?}", String::from_utf8(bytes)),
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// Waits until `condition` holds, and looks each time that `LOOK_EVERY` has passed.
#[track_caller]
pub(crate) fn eventually(mut condition: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        wait_until(Instant::now() + LOOK_EVERY);
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Waits for a moment.
pub(crate) fn wait_until(moment: Instant) {
    while let Some(left) =
        moment.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
}

/// Whether a program that is not ours is installed; says if not.
pub(crate) fn installed(name: &str, option: &str) -> bool {
    let found = Command::new(name).arg(option).stdin(Stdio::null()).output().is_ok();
    if !found {
        lacks(format_args!("{name} is not installed"));
    }
    found
}
