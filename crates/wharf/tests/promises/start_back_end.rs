//! Promise: a server whose back end was not named starts on the next if the best one cannot have all
//! that it needs, and says why.
//!
//! Method: a filter of system calls that permits small rings, as a limit of locked memory does, and no
//! larger ones.

use crate::util::skip::lacks;
use crate::util::{Case, TestServer, each_back_end, echo, open_files, round_trip};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use wharf::{BackEnd, Handler, Input, Link, Result, Server, StartErrorKind, Worker};

each_back_end!(a_ring_that_cannot_be_had_is_told_or_replaced_by_epoll);

/// Runs a program where `io_uring_setup` fails with ENOMEM for more than 8 entries.
const SMALL_RINGS: &str = "
import ctypes, os, struct, sys
LOAD, EQUAL, GREATER, RETURN = 0x20, 0x15, 0x25, 0x06
ALLOW, ENOMEM = 0x7FFF0000, 0x00050000 | 12
steps = [(LOAD, 0, 0, 0), (EQUAL, 0, 3, 425), (LOAD, 0, 0, 16), (GREATER, 0, 1, 8), (RETURN, 0, 0, ENOMEM),
    (RETURN, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
for option, *values in ((38, 1, 0, 0, 0), (22, 2, program, 0, 0)):
    if libc.prctl(option, *values) != 0:
        sys.exit(f'prctl {option}: {os.strerror(ctypes.get_errno())}')
os.execvp(sys.argv[1], sys.argv[1:])
";

/// Counts its workers.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Handler for Counting {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) < worker.count(), "once for each worker");
        Ok(())
    }

    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.out);
        Ok(())
    }
}

fn a_ring_that_cannot_be_had_is_told_or_replaced_by_epoll(case: &Case) {
    if let Err(reason) = BackEnd::Uring.probe() {
        return lacks(format_args!("io_uring is unavailable: {reason}"));
    }
    if case.role().is_some() {
        let files = open_files();
        BackEnd::Uring.probe().unwrap();
        let asked = case.small(echo()).start();
        match case.back_end {
            BackEnd::Uring => {
                let error = asked.err().unwrap();
                assert_eq!(error.kind(), StartErrorKind::BackEnd, "{error}");
                assert!(error.to_string().contains("io_uring_setup"), "{error}");
            }
            _ => {
                let running = asked.unwrap();
                running.handle().stop(crate::util::PATIENCE);
                running.wait().unwrap();
            }
        }
        for shards in [1, 3] {
            let builder = Server::builder(Counting::default()).listen("127.0.0.1:0").shards(shards);
            let builder = if shards == 1 { builder } else { builder.best_back_end() };
            let server = TestServer::start(builder);
            let chosen = server.running().back_end().clone();
            assert_eq!(chosen.back_end, BackEnd::Epoll);
            let reason = chosen.fallback_reason.unwrap();
            assert!(reason.contains("io_uring_setup") && reason.contains("ulimit -l"), "{reason}");
            round_trip(&mut server.connect(), b"served");
            server.stop();
        }
        crate::util::eventually(|| open_files() == files, "nothing is left");
        return;
    }
    let own = case.command("alone");
    let mut command = Command::new("python3");
    command.args(["-c", SMALL_RINGS]).arg(own.get_program()).args(own.get_args());
    command.env_remove("WHARF_BACKEND");
    for (name, value) in own.get_envs() {
        command.env(name, value.unwrap());
    }
    let Ok(output) = command.output() else {
        return lacks("there is no python3, which filters system calls");
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}
