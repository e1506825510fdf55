//! What the program waits for in vain: a reader of its standard error, a terminal that Ctrl-S has
//! stopped, a name server. Signals and the drain do not wait.

use super::common::{PATIENCE, WHARF, clean, eventually, installed, read_until, wait_until, wharf};
use super::each_back_end;
use super::full_pipe::full_pipe;
use super::skip::lacks;
use super::snapshot::{matches, matches_but};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{Action, tcflow};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

each_back_end! {
    a_full_pipe_holds_up_no_drain,
    a_full_pipe_holds_up_no_forced_close,
    a_full_pipe_holds_up_no_second_signal,
    a_stopped_terminal_holds_up_no_drain,
    what_a_full_pipe_does_not_take_is_counted,
    a_full_file_ends_no_server,
}

/// A program that is killed when this is dropped.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it runs");
    }

    /// Its end, or `None` if it goes on for so long.
    fn ended_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().expect("ours") {
                return Some(status);
            }
            wait_until(Instant::now() + Duration::from_millis(2));
        }
        None
    }

    #[track_caller]
    fn ends_with(&mut self, code: i32) {
        let status = self.ended_within(PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(code), "{status}");
    }

    /// Where it listens, as soon as it does.
    fn address(&self) -> SocketAddr {
        let mut port = None;
        let pid = self.0.id();
        eventually(
            || listening_port(pid).inspect(|found| port = Some(*found)).is_some(),
            "it listens",
        );
        SocketAddr::from(([127, 0, 0, 1], port.expect("just found")))
    }

    fn connect(&self) -> TcpStream {
        let link = TcpStream::connect_timeout(&self.address(), PATIENCE).expect("it accepts");
        link.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        link
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// The port that a process listens on, as the system tells.
fn listening_port(pid: u32) -> Option<u16> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let links = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let sockets: Vec<String> = links
        .filter_map(|link| {
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("readable");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, state, inode) = (fields[1], fields[3], fields[9]);
        let listens = state == "0A" && sockets.iter().any(|socket| socket == inode);
        listens.then(|| u16::from_str_radix(address.split_once(':')?.1, 16).ok())?
    })
}

fn serve(back_end: &str, words: &[&str], stderr: impl Into<Stdio>) -> Process {
    Process(command(back_end, words).stderr(stderr).spawn().expect("the program starts"))
}

fn command(back_end: &str, words: &[&str]) -> Command {
    let serve = ["serve", "--backend", back_end, "--listen", "127.0.0.1:0", "--shards", "2"];
    wharf(&[&serve, words].concat())
}

fn works(back_end: &str) -> bool {
    super::common::Server::start(back_end, &[]).is_some()
}

/// A link that has its answer.
fn echo(process: &Process) -> TcpStream {
    let mut link = process.connect();
    link.write_all(b"hello\n").expect("it reads");
    read_until(&mut link, "hello\n");
    link
}

/// A link whose client asks for much and reads nothing.
fn stuck_link(process: &Process) -> TcpStream {
    let mut link = process.connect();
    link.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let piece = vec![b'x'; 65_536];
    while link.write_all(&piece).is_ok() {}
    link
}

fn a_full_pipe_holds_up_no_drain(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let (mut reader, writer) = full_pipe();
    let mut process = serve(back_end, &["--drain", "1h"], writer);
    let mut link = echo(&process);
    link.write_all(b"last\n").expect("it reads");
    process.signal(Signal::TERM);
    let mut rest = String::new();
    link.read_to_string(&mut rest).expect("the stream ends");
    assert_eq!(rest, "last\n");
    process.ends_with(0);
    drop(process);
    reader.read_to_string(&mut rest).expect("all that it has written");
}

fn a_full_pipe_holds_up_no_forced_close(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let (_reader, writer) = full_pipe();
    let mut process = serve(back_end, &["--drain", "300ms", "--stats", "10ms"], writer);
    let _stuck = stuck_link(&process);
    process.signal(Signal::TERM);
    process.ends_with(5);
}

fn a_full_pipe_holds_up_no_second_signal(back_end: &str) {
    if !works(back_end) {
        return;
    }
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (_reader, writer) = full_pipe();
        let mut process = serve(back_end, &["--drain", "1h"], writer);
        let _stuck = stuck_link(&process);
        let address = process.address();
        process.signal(signal);
        // It drains: no new connection is taken.
        eventually(|| TcpStream::connect(address).is_err(), "it accepts no connection");
        process.signal(signal);
        process.ends_with(code);
    }
}

/// As by Ctrl-S.
fn a_stopped_terminal_holds_up_no_drain(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let (_master, slave) = super::terminal::open(super::terminal::USUAL);
    tcflow(&slave, Action::OOff).expect("a terminal");
    let slave: OwnedFd = slave.into();
    let mut process = serve(back_end, &["--drain", "1h"], slave.try_clone().expect("open"));
    let mut link = echo(&process);
    process.signal(Signal::TERM);
    assert_eq!(link.read(&mut [0]).expect("the stream ends"), 0);
    process.ends_with(0);
}

/// What the log says of lines that it lacks.
const DROPPED: &str = " log lines dropped: ";

/// Without the number of lines that are missing.
#[track_caller]
fn tells_of_dropped_lines(log: &str) {
    let line = log.lines().find(|line| line.contains(DROPPED)).expect("it is told");
    matches_but("log-dropped", &[("WARN [0-9,]+ log", "WARN [COUNT] log")], &format!("{line}\n"));
}

/// When it is read at last, the log says how much is missing, whichever lines it has.
fn what_a_full_pipe_does_not_take_is_counted(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let (mut reader, writer) = full_pipe();
    let mut command = command(back_end, &["--stats", "100us"]);
    let command = command.env("WHARF_LOG", "wharf::status=info").stderr(writer);
    let mut process = Process(command.spawn().expect("the program starts"));
    let _link = echo(&process);
    // In this processor time it makes many more lines than can wait for the reader.
    let (pid, begin) = (process.0.id(), ticks(process.0.id()));
    eventually(|| ticks(pid) >= begin + 50, "it makes lines");
    let (sender, found) = channel();
    let read = move || {
        let (mut log, mut piece) = (String::new(), [0; 4_096]);
        while let Ok(len @ 1..) = reader.read(&mut piece) {
            log += std::str::from_utf8(&piece[..len]).expect("ASCII");
            if log.split_once(DROPPED).is_some_and(|(_, rest)| rest.contains('\n')) {
                break;
            }
        }
        sender.send(log)
    };
    std::thread::Builder::new().spawn(read).expect("a thread starts");
    let log = found.recv_timeout(PATIENCE).expect("it is counted");
    assert!(log.len() < 1 << 20, "{}", log.len());
    tells_of_dropped_lines(&log);
    process.signal(Signal::TERM);
    process.ends_with(0);
}

/// The processor time of a process, in units of 10 ms (proc_pid_stat(5): utime).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("behind the name");
    fields.split_whitespace().nth(11).expect("utime").parse().expect("a number")
}

/// How many writes a process has tried.
fn writes(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("it runs");
    let count = io.lines().find_map(|line| line.strip_prefix("syscw: ")).expect("a line");
    count.parse().expect("a number")
}

/// At RLIMIT_FSIZE a write fails, and the system sends SIGXFSZ.
fn a_full_file_ends_no_server(back_end: &str) {
    const SIZE: usize = 4_096;
    if !works(back_end) || !installed("prlimit", "--version") {
        return;
    }
    let name = format!("wharf-{}-full-{back_end}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let file = std::fs::File::create(&path).expect("a file");
    let limit = format!("--fsize={SIZE}:");
    let serve = ["serve", "--backend", back_end, "--listen", "127.0.0.1:0", "--shards", "2"];
    let words = [&["--core=0", &limit, WHARF][..], &serve, &["--stats", "1ms"]].concat();
    let mut command = clean(Command::new("prlimit"), &words);
    let mut process = Process(command.stderr(file).spawn().expect("prlimit starts"));
    let log = || std::fs::read_to_string(&path).expect("ours");
    eventually(|| log().len() == SIZE, "the file is full");
    let pid = process.0.id();
    let before = writes(pid);
    eventually(|| writes(pid) > before + 4, "it goes on");
    let _link = echo(&process);
    assert_eq!(log().len(), SIZE);
    let limit = ["--pid", &pid.to_string(), "--fsize=unlimited:"];
    assert!(Command::new("prlimit").args(limit).status().expect("prlimit runs").success());
    let is_told = || log().split_once(DROPPED).is_some_and(|(_, rest)| rest.contains('\n'));
    eventually(is_told, "it is counted");
    process.signal(Signal::TERM);
    process.ends_with(0);
    // The line that did not fit is not continued by another one.
    let log = log();
    assert!(log.as_bytes()[SIZE - 1] == b'\n' || log.as_bytes()[SIZE] == b'\n', "{log}");
    tells_of_dropped_lines(&log);
    std::fs::remove_file(&path).expect("ours");
}

/// What every command says finds no reader.
#[test]
fn a_full_pipe_holds_up_no_refusal() {
    for (words, code) in [
        (&[][..], 2),
        (&["serve", "--zzz"][..], 2),
        (&["serve", "--links", "0"], 3),
        (&["serve", "--listen", "192.0.2.1:9527"], 4),
    ] {
        let (_reader, writer) = full_pipe();
        let mut process = Process(wharf(words).stderr(writer).spawn().expect("it starts"));
        process.ends_with(code);
    }
}

/// Files and a network of the test's own. Dropped, its folder is removed.
struct Place {
    folder: PathBuf,
}

impl Place {
    /// `None`, with the reason printed, if there is no such place.
    fn make(name: &str) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("wharf-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let place = Self { folder };
        place.write("hosts", "127.0.0.1 localhost\n");
        place.write("resolv.conf", "nameserver 127.0.0.1\n");
        place.write("nsswitch.conf", "hosts: files dns\n");
        if !installed("python3", "--version") {
            return None;
        }
        let works = place.command("pass", &["true"]).output();
        match works {
            Ok(output) if output.status.success() => Some(place),
            other => {
                lacks(format_args!("there are no name spaces of mounts and networks: {other:?}"));
                None
            }
        }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).expect("ours");
    }

    /// A command in this place, after some Python.
    fn command(&self, before: &str, words: &[&str]) -> Command {
        let folder = self.folder.to_str().expect("UTF-8");
        let script = "ip link set lo up && for file in hosts resolv.conf nsswitch.conf; do \
                      if [ -e /etc/$file ]; then mount --bind \"$0/$file\" /etc/$file || exit 1; fi; \
                      done; exec python3 -c \"$@\"";
        let python =
            format!("import os, socket, sys\n{before}\nos.execvp(sys.argv[1], sys.argv[1:])");
        let space = ["--map-root-user", "--net", "--mount", "sh", "-c", script, folder, &python];
        clean(Command::new("unshare"), &[&space[..], words].concat())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).expect("ours");
    }
}

/// Takes questions and answers none.
const SILENT_NAME_SERVER: &str = "
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 53))
os.set_inheritable(server.fileno(), True)";

#[test]
fn a_silent_name_server_does_not_make_it_deaf() {
    let Some(place) = Place::make("silent") else { return };
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let words = [WHARF, "serve", "--listen", "name.example:9527"];
        let child = place.command(SILENT_NAME_SERVER, &words).spawn().expect("it starts");
        let mut process = Process(child);
        let pid = process.0.id();
        // It asks: a socket that is connected to port 53.
        let asks = || {
            let table = std::fs::read_to_string(format!("/proc/{pid}/net/udp"));
            table.is_ok_and(|table| table.contains(" 0100007F:0035 01 "))
        };
        eventually(asks, "it asks the name server");
        process.signal(signal);
        let begin = Instant::now();
        process.ends_with(code);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}

/// The name is there a moment later, as at boot.
#[test]
fn a_name_that_is_there_a_moment_later_is_found() {
    let Some(place) = Place::make("late") else { return };
    let words = [WHARF, "serve", "--listen", "late.example:9527"];
    let mut server =
        place.command("pass", &words).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stderr = server.stderr.take().expect("piped");
    let mut process = Process(server);
    let first = read_until(&mut stderr, "\n");
    assert!(first.contains("WARN cannot listen on \"late.example:9527\": "), "{first}");
    assert!(first.ends_with("; retrying for 3 s\n"), "{first}");
    place.write("hosts", "127.0.0.1 localhost late.example\n");
    let mut log = String::new();
    while !log.contains(" ready: echo on 127.0.0.1:9527\n") {
        log += &read_until(&mut stderr, "\n");
    }
    process.signal(Signal::TERM);
    process.ends_with(0);
}

/// The server listens on what the machine has of a name, and tells of the rest.
#[test]
fn an_address_of_a_name_that_the_machine_lacks_is_told() {
    let Some(place) = Place::make("two") else { return };
    // 192.0.2.0/24 is reserved for documentation (RFC 5737).
    place.write("hosts", "127.0.0.1 localhost two.example\n192.0.2.1 two.example\n");
    let words = [WHARF, "serve", "--listen", "two.example:9527"];
    let mut server =
        place.command("pass", &words).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stderr = server.stderr.take().expect("piped");
    let mut process = Process(server);
    let mut log = String::new();
    while !log.contains(" ready: ") {
        log += &read_until(&mut stderr, "\n");
    }
    let found = |text: &str| log.lines().find(|line| line.contains(text)).unwrap_or_default();
    matches("log-address-of-name", &format!("{}\n{}\n", found("WARN"), found(" ready: ")));
    process.signal(Signal::TERM);
    process.ends_with(0);
}
