//! What it shows: the banner, the log, the live statistics; and which setting wins.

use super::common::{Server, WHARF, clean, installed, run, wharf};
use super::each_back_end;
use super::faults::where_a_call_fails;
use super::snapshot::{matches, matches_but, transcript};
use super::terminal::{Size, Terminal, USUAL, colours_named};
use rustix::process::{Resource, Rlimit, Signal};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

each_back_end! {
    the_banner_says_what_runs_where_and_how_to_stop_it,
    elsewhere_than_on_a_terminal_statistics_are_log_lines,
    on_a_terminal_statistics_are_drawn_in_place,
    a_terminal_that_shows_less_is_given_less,
    the_statistics_name_what_went_wrong,
    a_drain_is_shown_until_its_end,
}

/// A server with these arguments after `wharf serve`, from its start to its end.
fn session(back_end: &str, arguments: &str) -> Option<String> {
    let words: Vec<&str> = arguments.split(' ').collect();
    let mut server = Server::start(back_end, &words)?;
    server.wait_for_line(" try: ").expect("how to try it");
    Some(format!("$ wharf serve {arguments}\n{}\n", server.run_to_its_end()))
}

fn the_banner_says_what_runs_where_and_how_to_stop_it(back_end: &str) {
    let sessions = [
        "--shards 1",
        "--shards 3 --links 1,000 --buffers 4k --buffer-size 1500",
        "--shards 1 --buffer-size 1MiB --send-queue 2MiB --links 8 --buffers 40",
        "--shards 1 --app discard",
        "--shards 1 --app chargen",
        "--shards 1 --app chat --drain 1h",
        "--shards 1 --listen [::1]:0",
    ];
    let mut text = String::new();
    for arguments in sessions {
        let Some(session) = session(back_end, arguments) else { return };
        text += &session;
    }
    matches(&format!("session-{back_end}"), &text);
}

fn elsewhere_than_on_a_terminal_statistics_are_log_lines(back_end: &str) {
    let words = ["--shards", "1", "--stats", "100ms"];
    let Some(mut server) = Server::start(back_end, &words) else { return };
    let mut link = server.connect();
    link.write_all(b"hello").expect("it reads");
    link.read_exact(&mut [0; 5]).expect("it answers");
    // In the first line the answer may still be under way.
    server.wait_for_line(" links=1 ").expect("statistics");
    let line = server.wait_for_line(" links=1 ").expect("statistics");
    let varying = [
        (r"up_s=[0-9]+", "up_s=[SECONDS]"),
        (r"_per_s=[0-9]+", "_per_s=[RATE]"),
        (r"busy_percent=[0-9]+", "busy_percent=[PERCENT]"),
    ];
    matches_but("log-stats", &varying, &(line + "\n"));
    drop(link);
    server.stop();
}

/// How long it runs, and how busy the workers are, be it with what else the machine does.
const LIVE: [(&str, &str); 3] = [
    (r"(?m)^ up [0-9]+ [a-z]+( [0-9]+ s)?", " up [SPAN]"),
    (r" calls  [^ ]+ +[0-9]+ %", " calls  [BAR] [SHARE] %"),
    (r" busiest [0-9]+ %", " busiest [SHARE] %"),
];

/// A link on which nothing happens any more.
fn silent_link(terminal: &mut Terminal) -> TcpStream {
    let mut link = terminal.connect();
    link.write_all(b"hello").expect("it reads");
    link.read_exact(&mut [0; 5]).expect("it answers");
    link
}

/// Whether the statistics show a link that has its answer, and no traffic in the last second.
fn is_calm(text: &str) -> bool {
    let total = " in 1 recv, 5 B; out 1 send, 5 B";
    let lines = [" links          1 of ", " 0 recv/s     0 B/s", " 0 send/s     0 B/s", total];
    lines.iter().all(|line| text.contains(line)) && is_whole(text)
}

/// Whether the last line is there, too: what the terminal has may be the begin of what was drawn.
fn is_whole(text: &str) -> bool {
    let ends = ["no warnings", " refused connection", " stops immediately"];
    ends.iter().any(|end| text.trim_end().ends_with(end))
}

fn works(back_end: &str) -> bool {
    Server::start(back_end, &[]).is_some()
}

fn on_a_terminal_statistics_are_drawn_in_place(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let mut terminal = Terminal::start(back_end, USUAL, &[], &["--shards", "2"]);
    let link = silent_link(&mut terminal);
    terminal.wait_for("calm statistics", is_calm);
    matches_but(&format!("screen-{back_end}"), &LIVE, &terminal.coloured_transcript());
    // Taken away before each log line and at the end: nothing is left under the last line.
    drop(link);
    terminal.wait_for("statistics without a link", |text| text.contains(" links          0 of "));
    terminal.signal(Signal::INT);
    assert_eq!(terminal.wait().code(), Some(0));
    matches(&format!("screen-end-{back_end}"), &terminal.coloured_transcript());
}

fn a_terminal_that_shows_less_is_given_less(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let two = ["--shards", "2"];
    let plain = [("LC_ALL", "C"), ("NO_COLOR", "1")];
    let mut terminal = Terminal::start(back_end, USUAL, &plain, &two);
    let _link = silent_link(&mut terminal);
    terminal.wait_for("calm statistics", is_calm);
    let text = terminal.coloured_transcript();
    assert!(text.is_ascii() && !text.contains('{'), "{text}");
    matches_but(&format!("screen-plain-{back_end}"), &LIVE, &text);

    let mut terminal = Terminal::start(
        back_end,
        USUAL,
        &[("WHARF_ASCII", "1"), ("NO_COLOR", "1")],
        &["--shards", "5"],
    );
    let _link = silent_link(&mut terminal);
    terminal.wait_for("calm statistics", is_calm);
    matches_but(&format!("screen-workers-{back_end}"), &LIVE, &terminal.transcript());

    let narrow = Size { rows: 24, columns: 50 };
    let mut terminal = Terminal::start(back_end, narrow, &plain, &two);
    let _link = silent_link(&mut terminal);
    terminal.wait_for("a link", |text| {
        [" links          1 of ", " worker 0            2 calls", "; out 1 send, 5 B"]
            .iter()
            .all(|line| text.contains(line))
            && is_whole(text)
    });
    matches_but("screen-narrow", &LIVE, &terminal.statistics());

    let low = Size { rows: 6, columns: 80 };
    let mut terminal = Terminal::start(back_end, low, &plain, &two);
    terminal.wait_for("one line", |text| text.contains("\n up ") && is_whole(text));
    matches_but(&format!("screen-low-{back_end}"), &LIVE, &terminal.transcript());
}

fn the_statistics_name_what_went_wrong(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let few = ["--shards", "1", "--links", "1", "--when-full", "refuse"];
    let mut terminal = Terminal::start(back_end, USUAL, &[], &few);
    let _link = silent_link(&mut terminal);
    let mut refused = terminal.connect();
    assert!(!matches!(refused.read(&mut [0]), Ok(1..)));
    terminal.wait_for("a refused link", |text| text.contains("refused") && is_calm(text));
    matches_but(&format!("screen-refused-{back_end}"), &LIVE, &terminal.coloured_transcript());
}

fn a_drain_is_shown_until_its_end(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let plain = [("NO_COLOR", "1")];
    let words = ["--shards", "1", "--drain", "1h"];
    let mut terminal = Terminal::start(back_end, USUAL, &plain, &words);
    // A client that does not read keeps its link from finishing.
    let mut link = terminal.connect();
    link.set_write_timeout(Some(std::time::Duration::from_millis(300))).expect("a timeout");
    let piece = vec![b'x'; 65_536];
    while link.write_all(&piece).is_ok() {}
    terminal.signal(Signal::TERM);
    terminal.wait_for("a drain", |text| {
        let is_quiet = text.contains(" in          0 recv/s     0 B/s");
        text.contains("\n draining: ") && is_quiet && is_whole(text)
    });
    let varying = [
        (r" buffers +[0-9,]+ of", " buffers [COUNT] of"),
        (r" worker 0 +[0-9,]+ calls", " worker 0 [COUNT] calls"),
        (r" out +[0-9,]+ send/s +[0-9.]+ [kM]?B/s", " out [RATE]"),
        (r"[█░]+ +[0-9]+ %", "[BAR] [SHARE] %"),
        (r" in [0-9]+ recv, .* accepted", " [TOTALS]"),
        (r" in (59 min( [0-9]+ s)?|1 h);", " in [SPAN];"),
    ];
    matches_but(&format!("screen-drain-{back_end}"), &varying, &terminal.transcript());
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.wait().code(), Some(143));
    // Without a word, and without a wait for the terminal.
    matches_but(&format!("screen-second-signal-{back_end}"), &varying, &terminal.transcript());
}

/// Runs `wharf` on a pseudo-terminal that is its own, and types Ctrl-C; prints its exit code last.
const CTRL_C: &str = r#"
import os, pty, select, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen, asked, deadline = b"", False, time.time() + 20
while time.time() < deadline:
    if terminal in select.select([terminal], [], [], 0.1)[0]:
        try:
            seen += os.read(terminal, 65536)
        except OSError:
            break
    if not asked and b" try: " in seen:
        asked = True
        os.write(terminal, b"\x03")
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.buffer.write(seen + b"\nexit %d\n" % code)
"#;

#[test]
fn ctrl_c_stops_it() {
    if !installed("python3", "--version") {
        return;
    }
    let words = ["-c", CTRL_C, WHARF, "serve", "--listen", "127.0.0.1:0"];
    let output = run(&mut clean(Command::new("python3"), &words));
    assert!(output.stdout.ends_with("\nexit 0\n"), "{}{}", output.stdout, output.stderr);
}

/// What a shell runs first, and the lines of the log.
fn shell_session(script: &str, words: &str) -> String {
    let serve = ["serve", "--backend", "epoll", "--listen", "127.0.0.1:0", "--shards", "1"];
    let arguments = words.split(' ').filter(|word| !word.is_empty());
    let words: Vec<&str> = serve.into_iter().chain(arguments).collect();
    let line = format!("{script} exec \"$0\" \"$@\"");
    let shell = [&["-c", &line, WHARF][..], &words].concat();
    let mut server = Server::spawn(&mut clean(Command::new("sh"), &shell)).expect("epoll");
    server.wait_for_line(" try: ").expect("how to try it");
    server.run_to_its_end()
}

#[test]
fn a_raised_limit_of_open_files_is_told() {
    let log = shell_session("ulimit -Sn 100; ulimit -Hn 9000;", "");
    matches("session-files-raised", &log);
}

#[test]
fn the_journal_gets_no_time() {
    let script = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2);";
    matches("session-journal", &shell_session(script, ""));
}

#[test]
fn colours_can_be_asked_for() {
    matches("session-coloured", &colours_named(&shell_session("", "--color always")));
}

#[test]
fn all_addresses_of_the_machine_are_told_as_such() {
    let listen = ["--listen", "0.0.0.0:0", "--listen", "[::]:0"];
    let serve = ["serve", "--backend", "epoll", "--shards", "1"];
    let mut server = Server::spawn(&mut wharf(&[&serve[..], &listen].concat())).expect("epoll");
    server.wait_for_line(" try: ").expect("how to try it");
    matches("session-all-addresses", &server.run_to_its_end());
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
    assert!(log.contains(": 77 links, ") && log.contains("ready: chat on "), "{log}");
    assert!(log.contains(": epoll on ") && !log.contains("WARN"), "{log}");
    let log = start(&["--app", "echo"], "epoll");
    assert!(log.contains(": 123 links, ") && log.contains("ready: echo on "), "{log}");
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

/// On epoll only: io_uring takes the limit that was in force when it was told to accept.
#[test]
fn an_accept_that_fails_is_logged_for_who_wants_to_know() {
    let serve = ["serve", "--backend", "epoll", "--listen", "127.0.0.1:0", "--shards", "1"];
    let mut command = wharf(&serve);
    let mut server = Server::spawn(command.env("WHARF_LOG", "wharf=debug")).expect("epoll");
    // Fewer files than it has open already.
    let pid = i32::try_from(server.pid()).ok().and_then(rustix::process::Pid::from_raw);
    let usual = rustix::process::prlimit(
        pid,
        Resource::Nofile,
        Rlimit { current: Some(3), ..rustix::process::getrlimit(Resource::Nofile) },
    );
    let usual = usual.expect("ours");
    let link = server.connect();
    let line = server.wait_for_line("DEBUG").expect("a line");
    matches("log-debug-accept", &(line + "\n"));
    rustix::process::prlimit(pid, Resource::Nofile, usual).expect("ours");
    drop(link);
    server.stop();
}

/// As Docker does.
#[test]
fn without_io_uring_it_says_so_and_takes_epoll() {
    let serve = ["serve", "--listen", "127.0.0.1:0", "--shards", "1"];
    let without_rings = |words: &[&str]| where_a_call_fails("io_uring_setup", "EPERM", words);
    let Some(mut command) = without_rings(&serve) else { return };
    let mut server = Server::spawn(&mut command).expect("epoll");
    server.wait_for_line(" try: ").expect("how to try it");
    matches("session-fallback", &server.run_to_its_end());

    let words = [&serve[..], &["--backend", "uring"]].concat();
    let output = run(&mut without_rings(&words).expect("as before"));
    assert_eq!(output.code, Some(4), "{}", output.stderr);
    matches("refused-back-end", &transcript("wharf serve --backend uring", &output));
}
