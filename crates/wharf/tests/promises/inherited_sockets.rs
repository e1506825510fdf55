//! Promise: a peer hears of the end of its link when the link ends, also while another process holds
//! the link's socket, such as a child that was forked from the server's.
//!
//! Method: a child gets a copy of the descriptor of each link's socket, and lives on.

use crate::util::functions::functions;
use crate::util::{
    Case, Hold, ON_PURPOSE, TestServer, connect_small_window, each_back_end, eventually,
    silence_panics_on_purpose,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use wharf::{DisconnectReason, Error, Link, Result};

each_back_end!(
    an_idle_link_ends_though_a_child_holds_its_socket,
    a_link_whose_handler_panics_is_reset_though_a_child_holds_its_socket,
    an_aborted_link_is_reset_though_a_child_holds_its_socket,
    a_slow_reader_is_reset_though_a_child_holds_its_socket,
    a_link_that_is_closed_ends_though_a_child_holds_its_socket,
    a_link_that_the_drain_closes_ends_though_a_child_holds_its_socket,
    a_stopped_server_listens_no_more_though_a_child_holds_its_listener,
    links_of_a_server_whose_shard_fails_end_though_a_child_holds_their_sockets,
);

/// A process that holds a socket.
struct Holder(Child);

impl Holder {
    /// Of the server's socket of this client.
    fn of(server: &TestServer, client: &TcpStream) -> Self {
        Self::of_socket(inode(server.address, client.local_addr().unwrap().port()))
    }

    /// Of the server's listening socket.
    fn of_listener(server: &TestServer) -> Self {
        Self::of_socket(inode(server.address, 0))
    }

    fn of_socket(socket: u64) -> Self {
        let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let number = files.filter_map(|file| {
            let file = file.ok()?;
            let target = std::fs::read_link(file.path()).ok()?;
            (target.to_str()? == format!("socket:[{socket}]"))
                .then(|| file.file_name().to_str()?.parse::<i32>().ok())?
        });
        let number = number.min().expect("the server has the socket");
        let copy = pidfd_getfd(this, number, PidfdGetfdFlags::empty()).unwrap();
        let child = Command::new("sleep").arg("60").stdin(Stdio::from(copy)).spawn();
        Self(child.expect("every system has sleep"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _it_may_have_ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// The inode of the server's socket of a connection; of its listener, if the client's port is 0.
fn inode(server: SocketAddr, client: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if port(fields[1]) == Some(server.port()) && port(fields[2]) == Some(client) {
            return fields[9].parse().unwrap();
        }
    }
    panic!("the connection is not in the table");
}

/// Sends until the output is full; `on_writable` follows.
fn send_much(link: &mut Link<'_>) -> Result {
    while link.out.send([7; 4_096]).is_ok() {}
    Ok(())
}

/// Does what the line says.
fn server(case: &Case) -> TestServer {
    silence_panics_on_purpose();
    let handler = functions::<()>().on_receive(|link, input| {
        let Some(line) = input.line(100)? else { return Ok(()) };
        match line {
            b"idle" => link.set_idle_timeout(Duration::from_millis(100)),
            b"panic" => std::panic::panic_any(ON_PURPOSE),
            b"abort" => {
                link.abort();
                return Ok(());
            }
            b"close" => {
                link.close();
                return Ok(());
            }
            b"much" => return send_much(link),
            _ => return Err(Error::msg("not a word")),
        }
        Ok(link.out.send("yes\n")?)
    });
    let handler = handler.on_writable(send_much);
    let stall = Duration::from_millis(300);
    TestServer::start(case.builder(handler).links_max(10).stall_timeout(stall))
}

/// How the connection ended, with the bytes before.
fn end_of(mut client: &TcpStream) -> (usize, Option<ErrorKind>) {
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut got = Vec::new();
    let error = client.read_to_end(&mut got).err().map(|error| error.kind());
    (got.len(), error)
}

fn check(case: &Case, word: &str, reason: DisconnectReason, ends: &[Option<ErrorKind>]) {
    let server = server(case);
    let mut client = server.connect();
    server.wait_for_links(1);
    let _holder = Holder::of(&server, &client);
    writeln!(client, "{word}").unwrap();
    let (_, error) = end_of(&client);
    assert!(ends.contains(&error), "{word}: {error:?}");
    drop(client);
    eventually(|| server.stats().closed(reason) == 1, word);
    server.stop();
}

fn an_idle_link_ends_though_a_child_holds_its_socket(case: &Case) {
    check(case, "idle", DisconnectReason::Idle, &[None]);
}

fn a_link_whose_handler_panics_is_reset_though_a_child_holds_its_socket(case: &Case) {
    let reset = Some(ErrorKind::ConnectionReset);
    check(case, "panic", DisconnectReason::HandlerPanic, &[reset]);
}

fn an_aborted_link_is_reset_though_a_child_holds_its_socket(case: &Case) {
    let reset = Some(ErrorKind::ConnectionReset);
    check(case, "abort", DisconnectReason::HandlerClosed, &[reset]);
}

fn a_slow_reader_is_reset_though_a_child_holds_its_socket(case: &Case) {
    let server = server(case);
    let mut client = connect_small_window(server.address);
    server.wait_for_links(1);
    let _holder = Holder::of(&server, &client);
    writeln!(client, "much").unwrap();
    eventually(|| server.stats().closed(DisconnectReason::SlowReader) == 1, "it is closed");
    assert_eq!(end_of(&client).1, Some(ErrorKind::ConnectionReset));
    server.stop();
}

fn a_link_that_is_closed_ends_though_a_child_holds_its_socket(case: &Case) {
    check(case, "close", DisconnectReason::HandlerClosed, &[None]);
}

fn a_link_that_the_drain_closes_ends_though_a_child_holds_its_socket(case: &Case) {
    for drain in [Duration::ZERO, Duration::from_secs(5)] {
        let server = server(case);
        let client = server.connect();
        server.wait_for_links(1);
        let _holder = Holder::of(&server, &client);
        server.handle.stop(drain);
        assert_eq!(end_of(&client), (0, None));
        drop(client);
        server.wait().unwrap();
    }
}

fn a_stopped_server_listens_no_more_though_a_child_holds_its_listener(case: &Case) {
    for drain in [Duration::ZERO, Duration::from_secs(10)] {
        let first = server(case);
        let address = first.address;
        let _holder = Holder::of_listener(&first);
        let stats = first.stop_within(drain);
        assert_eq!(stats.accept_failures, 0);
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let builder = case.small(crate::util::echo()).listen(address.to_string());
        let second = builder.start().unwrap();
        second.handle().stop(Duration::ZERO);
        second.wait().unwrap();
    }
}

/// From now on the port of this thread fails: the call in which it waits is refused as invalid.
fn fail_port() {
    let mut calls = vec![libc::SYS_io_uring_enter, libc::SYS_epoll_pwait];
    #[cfg(target_arch = "x86_64")]
    calls.push(libc::SYS_epoll_wait);
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let action = SeccompAction::Errno(libc::EINVAL.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Which shard serves the client.
fn shard_of(mut client: &TcpStream) -> u8 {
    client.write_all(b"shard\n").unwrap();
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    answer[0]
}

fn links_of_a_server_whose_shard_fails_end_though_a_child_holds_their_sockets(case: &Case) {
    for fails in [b'0', b'1'] {
        let hold = Hold::default();
        let held = hold.clone();
        let handler = functions::<()>().on_receive(move |link, input| {
            let Some(line) = input.line(100)? else { return Ok(()) };
            if line == b"shard" {
                let thread = std::thread::current();
                let number = thread.name().and_then(|name| name.strip_prefix("wharf-"));
                return Ok(link.out.send(number.unwrap_or("?"))?);
            }
            held.enter();
            fail_port();
            Ok(())
        });
        let server = TestServer::start(case.builder(handler).links_max(10).shards(2));
        let mut clients: Vec<_> = (1..=2)
            .map(|links| {
                let client = server.connect();
                server.wait_for_links(links);
                client
            })
            .collect();
        clients.sort_by_key(|client| shard_of(client) != fails);
        let _listener = Holder::of_listener(&server);
        writeln!(clients[0], "fail").unwrap();
        hold.wait();
        if fails == b'1' {
            // One of the next two connections is put into the inbox of the shard that is held.
            clients.extend([server.connect(), server.connect()]);
            eventually(|| server.stats().accepted == 4, "all are accepted");
            assert_eq!(shard_of(&clients[1]), b'0', "and dealt out");
            assert_eq!(server.stats().connects, 3);
        }
        let _holders: Vec<_> = clients.iter().map(|client| Holder::of(&server, client)).collect();
        hold.release();
        for client in &clients {
            let end = end_of(client);
            assert!([None, Some(ErrorKind::ConnectionReset)].contains(&end.1), "{end:?}");
        }
        let address = server.address;
        let error = server.wait().unwrap_err().to_string();
        assert!(error.contains("epoll") || error.contains("io_uring"), "{error}");
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}
