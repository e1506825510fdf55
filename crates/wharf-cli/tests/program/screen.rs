//! What it shows: the banner, the log, the live figures; and which setting wins.

use super::common::{Server, WHARF, clean, installed, run, wharf};
use super::each_back_end;
use std::io::{Read, Write};
use std::process::Command;

each_back_end! {
    the_banner_says_what_runs_where_and_how_to_stop_it,
    elsewhere_than_on_a_terminal_figures_are_log_lines,
    on_a_terminal_figures_are_drawn_in_place,
}

fn the_banner_says_what_runs_where_and_how_to_stop_it(back_end: &str) {
    let words = ["--links", "1,000", "--buffers", "4k", "--buffer-size", "1500", "--shards", "3"];
    let Some(mut server) = Server::start(back_end, &words) else { return };
    let pid = server.pid();
    let port = server.addresses[0].port();
    server.wait_for_line(" try: ").expect("how to try it");
    // Time and level come first; then the text.
    let log: Vec<&str> =
        server.log.iter().map(|line| line.splitn(3, ' ').nth(2).unwrap()).collect();
    let name = if back_end == "uring" { "io_uring" } else { "epoll" };
    let first = format!("wharf {}, pid {pid}: {name} on Linux ", env!("CARGO_PKG_VERSION"));
    assert!(log[0].starts_with(&first) && log[0].ends_with(", 3 workers"), "{log:#?}");
    // An eighth is for posts, and those that wait to be received into come on top.
    let (links, rest) = log[1].split_once(" + ").expect("links and buffers");
    let (buffers, rest) = rest.split_once(" x ").expect("how many, and their size");
    let buffers: u32 = buffers.replace(',', "").parse().expect("a number");
    assert!(
        links == "memory: 1,000 links" && rest.starts_with("1,500 B buffers + posts = "),
        "{log:#?}"
    );
    assert!((3_400..6_000).contains(&buffers), "{log:#?}");
    assert!(log[1].ends_with(" MB, fixed"), "{log:#?}");
    assert_eq!(log[2], format!("ready: echo on 127.0.0.1:{port}"));
    assert_eq!(log[3], format!("try: nc 127.0.0.1 {port}; kill {pid} drains and stops"));
    for line in &server.log {
        let (time, rest) = line.split_at(24);
        let shape: String =
            time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{line}");
        assert!(rest.starts_with(" INFO "), "{line}");
    }
    server.stop();
}

fn elsewhere_than_on_a_terminal_figures_are_log_lines(back_end: &str) {
    let Some(mut server) = Server::start(back_end, &["--stats", "100ms"]) else { return };
    let mut link = server.connect();
    link.write_all(b"hello").expect("it reads");
    link.read_exact(&mut [0; 5]).expect("it answers");
    let line = server.wait_for_line(" links=1 ").expect("figures");
    assert!(line.contains(" INFO stats up_s=0 links=1 links_limit=3000 "), "{line}");
    assert!(line.ends_with(" faults=0") && line.contains(" accepts=1 "), "{line}");
    assert!(!line.contains('\x1b'), "{line}");
    drop(link);
    server.stop();
}

/// Runs `wharf` on a pseudo-terminal of 80 columns: waits for figures that show a link, ends it with
/// Ctrl-C, and prints all that it wrote, and its exit code last.
const ON_A_TERMINAL: &str = r#"
import fcntl, os, pty, re, select, socket, struct, sys, termios, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
seen, link, asked, deadline = b"", None, False, time.time() + 20
while time.time() < deadline:
    if terminal in select.select([terminal], [], [], 0.1)[0]:
        try:
            seen += os.read(terminal, 65536)
        except OSError:
            break
    port = re.search(rb"ready: echo on 127\.0\.0\.1:(\d+)", seen)
    if port and not link:
        link = socket.create_connection(("127.0.0.1", int(port[1])))
    if not asked and re.search(rb" links +1 of ", seen):
        asked = True
        os.write(terminal, b"\x03")
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.buffer.write(seen + b"\nexit %d\n" % code)
"#;

fn on_a_terminal_figures_are_drawn_in_place(back_end: &str) {
    if !installed("python3", "--version") || Server::start(back_end, &[]).is_none() {
        return;
    }
    let serve = [WHARF, "serve", "--backend", back_end, "--listen", "127.0.0.1:0"];
    let words = [&["-c", ON_A_TERMINAL][..], &serve].concat();
    let mut python = clean(Command::new("python3"), &words);
    python.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
    let screen = run(&mut python);
    assert!(screen.stdout.ends_with("\nexit 0\n"), "{}{}", screen.stdout, screen.stderr);
    let (banner, rest) = screen.stdout.split_once("Ctrl-C drains and stops").expect("a banner");
    assert!(banner.contains("\x1b[32mINFO\x1b[0m ready: echo on "), "{banner:?}");
    // Six lines: a blank one, links, buffers, two or more workers or one, and the time.
    assert!(rest.contains(" of   3,000  ") && rest.contains("░\x1b[0m   0 %"), "{rest:?}");
    assert!(rest.contains(" msg/s "), "{rest:?}");
    // Taken away before each log line and at the end: nothing is left under the last line.
    let (_, last) = rest.rsplit_once("\x1b[J").expect("the figures are taken away");
    assert!(last.contains("INFO\x1b[0m stopped: 1 drained, 0 cut; ") && !last.contains(" links  "));
    assert_eq!(last.lines().filter(|line| !line.trim().is_empty()).count(), 2, "{last:?}");

    python.env("NO_COLOR", "1").env("LC_ALL", "C");
    let plain = run(&mut python).stdout;
    assert!(plain.contains(" links          1 of   3,000  ..........   0 %"), "{plain:?}");
    assert!(plain.is_ascii() && !plain.contains("\x1b[3"), "{plain:?}");
}

#[test]
fn flags_beat_variables_and_variables_beat_defaults() {
    let start = |words: &[&str], back_end: &str| {
        let listen = ["serve", "--listen", "127.0.0.1:0"];
        let mut command = wharf(&[&listen, words].concat());
        command.env("WHARF_LINKS", "123").env("WHARF_APP", "chat").env("WHARF_BACKEND", back_end);
        let mut server = Server::spawn(&mut command).expect("epoll works everywhere");
        server.wait_for_line(" try: ").expect("how to try it");
        let log = server.log.join("\n");
        server.stop();
        log
    };
    let log = start(&["--links", "77"], "epoll");
    assert!(log.contains(" 77 links + ") && log.contains("ready: chat on "), "{log}");
    assert!(log.contains(": epoll on ") && !log.contains("WARN"), "{log}");
    let log = start(&["--app", "echo"], "epoll");
    assert!(log.contains(" 123 links + ") && log.contains("ready: echo on "), "{log}");
    // As without the variable.
    let log = start(&["--backend", "auto"], "epoll");
    let default = start(&[], "");
    let named = |log: &str| log.contains(": io_uring on ");
    assert_eq!(named(&log), named(&default), "{log}");
}

#[test]
fn the_log_can_be_filtered() {
    let mut command = wharf(&["serve", "--listen", "127.0.0.1:0", "--app", "chat"]);
    let mut server = Server::spawn(command.env("WHARF_LOG", "off,wharf=info")).expect("auto");
    server.wait_for_line(" try: ").expect("how to try it");
    server.stop();
    let output = run(wharf(&["serve", "--listen", "192.0.2.1:1"]).env("WHARF_LOG", "off"));
    assert_eq!(output.stderr.lines().count(), 1, "errors are no log lines");
}

/// Forbids io_uring_setup (425 on x86-64 and arm64) with EPERM, as Docker does, and runs the rest.
const WITHOUT_URING: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def instruction(code, jt, jf, k):
    return struct.pack("HBBI", code, jt, jf, k)
program = b"".join([
    instruction(0x20, 0, 0, 0),                # load the system call's number
    instruction(0x15, 0, 1, 425),              # if it is io_uring_setup
    instruction(0x06, 0, 0, 0x00050000 | 1),   # then fail with EPERM
    instruction(0x06, 0, 0, 0x7FFF0000),       # else allow
])
memory = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
filter = Filter(len(program) // 8, ctypes.addressof(memory))
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter), 0, 0):
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn without_io_uring_it_says_so_and_takes_epoll() {
    if !installed("python3", "--version") {
        return;
    }
    let serve = [WHARF, "serve", "--listen", "127.0.0.1:0"];
    let words = [&["-c", WITHOUT_URING][..], &serve].concat();
    let server = Server::spawn(&mut clean(Command::new("python3"), &words)).expect("epoll");
    let log = server.log.join("\n");
    assert!(log.contains(": epoll on Linux "), "{log}");
    let reason = "WARN no io_uring here, so epoll: io_uring_setup: ";
    assert!(log.contains(reason) && log.contains("seccomp"), "{log}");
    let mut link = server.connect();
    link.write_all(b"hello").expect("it reads");
    link.read_exact(&mut [0; 5]).expect("it answers");
    drop(link);
    server.stop();

    let words = [&words[..], &["--backend", "uring"]].concat();
    let output = run(&mut clean(Command::new("python3"), &words));
    assert_eq!((output.code, output.stderr.lines().count()), (Some(4), 1), "{}", output.stderr);
    assert!(output.stderr.contains("io_uring does not work here: io_uring_setup"));
    assert!(output.stderr.contains("seccomp"), "{}", output.stderr);
}
