//! Promise: a callback that does not return stops neither accepting nor the links of other shards. It
//! is reported with its worker and its link, new connections avoid its shard, and a program can end
//! although it never returns.
//!
//! Method: a callback that waits until the test releases it.

use crate::util::functions::functions;
use crate::util::{
    Case, Hold, PATIENCE, TestServer, connect, each_back_end, eventually, expect_bytes, finish,
    now, on_chunk, round_trip,
};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wharf::{Builder, Handler, Input, StalledCallback, Waited};

each_back_end!(
    a_callback_that_does_not_return_holds_up_no_accept_and_no_other_shard,
    a_callback_that_does_not_return_is_reported_once_until_it_returns,
    a_stop_with_a_callback_that_does_not_return_names_it_and_ends_when_it_returns,
    serve_returns_although_a_callback_never_does,
    an_on_disconnect_that_does_not_return_is_reported_with_its_link,
    a_full_inbox_of_a_shard_that_does_not_turn_holds_up_no_connection,
    any_time_to_report_after_is_fine,
);

/// No other callback takes as long, on a busy machine either.
const REPORT: Duration = Duration::from_millis(500);

/// Echoes; at `hold` the callback is held.
fn holding<'a>(case: &Case, hold: &'a Hold) -> Builder<impl Handler + use<'a>, (), ()> {
    let hold = hold.clone();
    let handler = on_chunk(move |link, data| {
        if data == b"hold" {
            hold.enter();
        }
        Ok(link.out.send(data)?)
    });
    case.builder(handler).links_max(40).report_callbacks_after(REPORT)
}

/// A link whose callback is held.
fn held(server: &TestServer, hold: &Hold) -> TcpStream {
    let mut client = server.connect();
    client.write_all(b"hold").unwrap();
    hold.wait();
    client
}

fn one_stall(server: &TestServer) -> StalledCallback {
    eventually(|| server.handle.stalled().len() == 1, "it is reported");
    server.handle.stalled()[0]
}

fn a_callback_that_does_not_return_holds_up_no_accept_and_no_other_shard(case: &Case) {
    for shards in [2, 4, 8] {
        let hold = Hold::default();
        let server = TestServer::start(holding(case, &hold).shards(shards));
        let mut holder = held(&server, &hold);
        one_stall(&server);
        // All go to the other shards, as many as these have slots.
        let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| round_trip(client, b"served"));
        let stats = server.stats();
        assert_eq!((stats.accepted, stats.connects), (11, 11));
        let busy = stats.workers.iter().filter(|worker| worker.links > 0).count();
        assert_eq!(busy, usize::try_from(shards).unwrap());
        assert_eq!(server.handle.stalled().len(), 1, "it is held all the time");
        hold.release();
        expect_bytes(&mut holder, b"hold");
        clients.push(holder);
        clients.iter_mut().for_each(finish);
        server.stop();
    }
}

fn a_callback_that_does_not_return_is_reported_once_until_it_returns(case: &Case) {
    let hold = Hold::default();
    let server = TestServer::start(holding(case, &hold).shards(1));
    let mut quick = server.connect();
    round_trip(&mut quick, b"quick");
    let mut holder = held(&server, &hold);
    let stall = one_stall(&server);
    assert_eq!((stall.worker.index(), stall.unread_bytes), (0, 4));
    assert!(stall.elapsed >= REPORT, "{stall:?}");
    eventually(|| server.handle.stalled()[0].elapsed >= 2 * REPORT, "it is seen further on");
    assert_eq!(server.handle.stalled()[0].link, stall.link);
    assert_eq!(server.stats().stalls, 1);
    hold.release();
    expect_bytes(&mut holder, b"hold");
    eventually(|| server.handle.stalled().is_empty(), "it has returned");
    // The link that was named is the one that was held.
    server.handle.link(stall.link.unwrap()).close();
    crate::util::expect_end(&mut holder);
    round_trip(&mut quick, b"quick");
    finish(&mut quick);
    drop(holder);
    assert_eq!(server.stop().stalls, 1);
}

fn a_stop_with_a_callback_that_does_not_return_names_it_and_ends_when_it_returns(case: &Case) {
    let hold = Hold::default();
    let running = holding(case, &hold).shards(2).start().unwrap();
    let address = running.local_addresses()[0].1.socket_addr().unwrap();
    let mut client = connect(address);
    client.write_all(b"hold").unwrap();
    hold.wait();
    let handle = running.handle();
    handle.stop(Duration::ZERO);
    eventually(|| handle.stalled().len() == 1, "it is reported after the stop, too");
    let begin = now();
    let Waited::Running { server, stalled, .. } =
        running.wait_timeout(Duration::from_millis(50)).unwrap()
    else {
        panic!("it stopped with a callback that has not returned")
    };
    assert!(begin.elapsed() >= Duration::from_millis(50));
    assert_eq!((stalled.len(), stalled[0].unread_bytes), (1, 4));
    hold.release();
    let Waited::Stopped(report) = server.wait_timeout(PATIENCE).unwrap() else {
        panic!("it has not stopped")
    };
    assert_eq!((report.stats.links, report.stats.forced_closes), (0, 1));
}

fn serve_returns_although_a_callback_never_does(case: &Case) {
    if let Some(role) = case.role() {
        let handler = on_chunk(move |link, _| {
            if role == "stops itself" {
                link.server.stop(Duration::ZERO);
            }
            println!("\n{RECEIVED}");
            std::thread::sleep(Duration::MAX);
            Ok(())
        });
        let address = std::env::var("ADDRESS_OF_TEST").unwrap();
        let builder = case.builder(handler).listen(address);
        let error = builder.report_callbacks_after(REPORT).serve().unwrap_err();
        println!("said: {error}");
        std::process::exit(3);
    }
    for role in ["stops itself", "is stopped"] {
        // A port that was free a moment ago.
        let address = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let mut command = case.command(role);
        command.env("ADDRESS_OF_TEST", address.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut client = connect_eventually(address);
        client.write_all(b"never answered").unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == RECEIVED));
        if role == "is stopped" {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        let said = lines.find(|line| line.contains("said: ")).unwrap_or_default();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let what = "worker 0 runs a callback of link 0.0.1 with 14 unread bytes for ";
        assert!(said.contains(what), "{said}");
        assert!(!matches!(client.read(&mut [0]), Ok(1..)));
    }
}

fn an_on_disconnect_that_does_not_return_is_reported_with_its_link(case: &Case) {
    let hold = Hold::default();
    let (held, id) = (hold.clone(), Arc::new(OnceLock::new()));
    let (known, abort) = (Arc::clone(&id), |link: &mut wharf::Link<'_>, _: &mut Input<'_>| {
        link.abort();
        Ok(())
    });
    let handler = functions::<()>().on_receive(abort).on_disconnect(move |link, _| {
        known.set(link.id()).unwrap();
        held.enter();
    });
    let server = TestServer::start(case.builder(handler).shards(2).report_callbacks_after(REPORT));
    let mut client = server.connect();
    client.write_all(b"go").unwrap();
    hold.wait();
    assert_eq!(one_stall(&server).link.as_ref(), id.get());
    hold.release();
    drop(client);
    server.stop();
}

/// Nothing is reported here, so that the shard with the held callback still has the fewest links.
fn a_full_inbox_of_a_shard_that_does_not_turn_holds_up_no_connection(case: &Case) {
    let hold = Hold::default();
    let builder = holding(case, &hold).shards(2).report_callbacks_after(Duration::ZERO);
    let server = TestServer::start(builder);
    let mut holder = held(&server, &hold);
    let message = server.handle.message("post").unwrap();
    let mut posted = 0;
    while server.handle.all().try_post(&message).is_ok() {
        posted += 1;
        assert!(posted < 1_000_000, "the inbox of a shard that does not turn is never full");
    }
    let begin = now();
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"served"));
    assert!(begin.elapsed() < PATIENCE / 2, "the callback is held meanwhile");
    assert_eq!((server.stats().accepted, server.handle.stalled().len()), (5, 0));
    hold.release();
    // It gets its reply and what was posted before.
    let mut got = vec![0; 4];
    holder.read_exact(&mut got).unwrap();
    drop((holder, clients, message));
    server.stop_within(Duration::ZERO);
}

fn any_time_to_report_after_is_fine(case: &Case) {
    for time in [Duration::from_nanos(1), Duration::MAX] {
        let server =
            TestServer::start(case.builder(crate::util::echo()).report_callbacks_after(time));
        let mut client = server.connect();
        let (begin, passes) = (now(), server.stats().service.passes);
        for _ in 0..50 {
            round_trip(&mut client, b"served");
        }
        let most = begin.elapsed().as_millis() + 50;
        assert!(u128::from(server.stats().service.passes - passes) <= most, "it spins");
        finish(&mut client);
        server.stop();
    }
}

/// The child's callback has begun.
const RECEIVED: &str = "now: received";

fn connect_eventually(address: SocketAddr) -> TcpStream {
    let mut client = None;
    eventually(
        || {
            client = TcpStream::connect(address).ok();
            client.is_some()
        },
        "the server listens",
    );
    let client = client.unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}
