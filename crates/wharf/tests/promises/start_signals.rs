//! Promise: `serve` catches signals from when the server runs until it returns, and no others than
//! those that would end the process.
//!
//! Method: each test's servers are in a process of its own, to which the test sends signals.

use crate::util::skip::lacks;
use crate::util::{
    Case, PATIENCE, each_back_end, echo, eventually, open_files, round_trip, server_threads, within,
};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGPIPE, SIGTERM};
use std::io::{BufRead, BufReader, Lines, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wharf::{Error, Handle, Handler, Input, Link, Result};

each_back_end!(
    a_second_serve_drains_on_its_first_signal,
    after_serve_has_returned_a_signal_ends_the_program_by_that_signal,
    after_serve_has_failed_a_signal_ends_the_program,
    before_the_server_runs_a_signal_ends_the_program,
    the_programs_own_handler_is_called_again_after_serve,
    two_servers_drain_on_one_signal,
    a_signal_that_was_blocked_drains,
    a_signal_that_was_ignored_stays_ignored,
);

/// The marker of what the child has reached.
const SAID: &str = "now: ";

/// The child of a test.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Open as long as the child shall wait.
    _input: ChildStdin,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, lines: BufReader::new(output).lines(), _input: input }
    }

    /// Waits until the child has said `what`; returns the text behind it.
    #[track_caller]
    fn wait_for(&mut self, what: &str) -> String {
        let sought = format!("{SAID}{what}");
        let mut lines = self.lines.by_ref().map(std::result::Result::unwrap);
        lines.find_map(|line| Some(line.strip_prefix(&sought)?.trim().to_owned())).expect(what)
    }

    /// A connection to the address that the child says next, whose link is open.
    #[track_caller]
    fn connect(&mut self) -> TcpStream {
        let address: SocketAddr = self.wait_for("listening on").parse().unwrap();
        let mut stream = None;
        eventually(
            || {
                stream = TcpStream::connect(address).ok();
                stream.is_some()
            },
            "the server listens",
        );
        let mut stream = stream.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        round_trip(&mut stream, b"served");
        stream
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// The drain ends the clients' streams, and then the program ends.
    #[track_caller]
    fn expect_drain<const N: usize>(mut self, clients: [TcpStream; N]) {
        for mut client in clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "the drain ends the stream");
        }
        assert!(self.end().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Errors mean that it has ended. Only a test that failed gets here with one that runs.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn say(what: &str) {
    println!("\n{SAID}{what}");
}

/// Waits to be ended by the test, or until that has failed.
fn stay() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Serves at a free port until a signal.
fn serve(case: &Case) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    say(&format!("listening on {address}"));
    let builder = case.small(echo()).listen(address.to_string());
    builder.serve().unwrap();
}

/// Runs `child` in a process of its own and `test` beside it.
fn beside(case: &Case, child: impl FnOnce(), test: impl FnOnce(Program)) {
    beside_command(case, case.command("serve"), child, test);
}

fn beside_command(case: &Case, command: Command, child: impl FnOnce(), test: impl FnOnce(Program)) {
    if case.role().is_some() {
        child();
        // The test can have several children.
        std::process::exit(0);
    }
    let _limit = within(3 * PATIENCE);
    test(Program::start(command));
}

fn a_second_serve_drains_on_its_first_signal(case: &Case) {
    let child = || {
        let files = open_files();
        for _ in 0..3 {
            serve(case);
            assert_eq!((open_files(), server_threads()), (files, Vec::new()));
        }
    };
    beside(case, child, |mut program| {
        for _ in 0..3 {
            let mut client = program.connect();
            program.signal(Signal::TERM);
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "the drain ends the stream");
        }
        assert!(program.end().success());
    });
}

fn after_serve_has_returned_a_signal_ends_the_program_by_that_signal(case: &Case) {
    let child = || {
        // Rust ignores SIGPIPE, other programs do not: it must not be raised.
        let pipe = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGPIPE, Arc::clone(&pipe)).unwrap();
        serve(case);
        assert!(!pipe.load(Ordering::SeqCst), "SIGPIPE was raised");
        say("returned");
        stay();
    };
    for signal in [Signal::TERM, Signal::INT] {
        beside(case, child, |mut program| {
            let _client = program.connect();
            program.signal(Signal::TERM);
            program.wait_for("returned");
            program.signal(signal);
            assert_eq!(program.end().signal(), Some(signal.as_raw()));
        });
    }
}

fn after_serve_has_failed_a_signal_ends_the_program(case: &Case) {
    let child = || {
        case.small(echo()).links_max(0).serve().unwrap_err();
        case.small(Unwilling).serve().unwrap_err();
        say("failed");
        stay();
    };
    beside(case, child, |mut program| {
        program.wait_for("failed");
        program.signal(Signal::TERM);
        assert_eq!(program.end().signal(), Some(SIGTERM));
    });
}

struct Unwilling;

impl Handler for Unwilling {
    fn on_start(&self, _: &Handle) -> Result {
        Err(Error::msg("today is Sunday"))
    }

    fn on_receive(&self, _: &mut Link<'_>, _: &mut Input<'_>) -> Result {
        Ok(())
    }
}

/// Its start takes as long as its test.
struct Slow;

impl Handler for Slow {
    fn on_start(&self, _: &Handle) -> Result {
        say("starting");
        stay();
        Ok(())
    }

    fn on_receive(&self, _: &mut Link<'_>, _: &mut Input<'_>) -> Result {
        Ok(())
    }
}

fn before_the_server_runs_a_signal_ends_the_program(case: &Case) {
    beside(
        case,
        || case.small(Slow).serve().unwrap(),
        |mut program| {
            program.wait_for("starting");
            program.signal(Signal::TERM);
            assert_eq!(program.end().signal(), Some(SIGTERM));
        },
    );
}

fn the_programs_own_handler_is_called_again_after_serve(case: &Case) {
    let child = || {
        let called = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGTERM, Arc::clone(&called)).unwrap();
        serve(case);
        called.store(false, Ordering::SeqCst);
        say("returned");
        eventually(|| called.load(Ordering::SeqCst), "the handler is called");
    };
    beside(case, child, |mut program| {
        let _client = program.connect();
        program.signal(Signal::TERM);
        program.wait_for("returned");
        program.signal(Signal::TERM);
        assert!(program.end().success());
    });
}

fn two_servers_drain_on_one_signal(case: &Case) {
    let child = || {
        std::thread::scope(|scope| {
            scope.spawn(|| serve(case));
            serve(case);
        })
    };
    beside(case, child, |mut program| {
        let clients = [program.connect(), program.connect()];
        program.signal(Signal::TERM);
        program.expect_drain(clients);
    });
}

/// This test in a process of its own, which another program starts.
fn started_by(case: &Case, program: &str, arguments: &[&str]) -> Command {
    let own = case.command("serve");
    let mut command = Command::new(program);
    command.args(arguments).arg(own.get_program()).args(own.get_args());
    for (name, value) in own.get_envs() {
        command.env(name, value.unwrap());
    }
    command
}

fn a_signal_that_was_blocked_drains(case: &Case) {
    const BLOCK: &str = "import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
os.execv(sys.argv[1], sys.argv[1:])";
    if Command::new("python3").arg("--version").output().is_err() {
        return lacks("there is no python3, which blocks the signals");
    }
    for signal in [Signal::TERM, Signal::INT] {
        let command = started_by(case, "python3", &["-c", BLOCK]);
        beside_command(
            case,
            command,
            || serve(case),
            |mut program| {
                let client = program.connect();
                program.signal(signal);
                program.expect_drain([client]);
            },
        );
    }
}

fn a_signal_that_was_ignored_stays_ignored(case: &Case) {
    const IGNORE: &str = "trap '' INT; exec \"$0\" \"$@\"";
    let command = started_by(case, "sh", &["-c", IGNORE]);
    beside_command(
        case,
        command,
        || serve(case),
        |mut program| {
            let mut client = program.connect();
            program.signal(Signal::INT);
            program.signal(Signal::INT);
            round_trip(&mut client, b"still served");
            program.signal(Signal::TERM);
            program.expect_drain([client]);
        },
    );
}
