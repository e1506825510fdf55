//! Promise: a server listens on what it was given, as far as the machine has it, and says of the rest
//! what it is, whose it is, and what to do.
//!
//! Method: listeners for both families, and addresses that are taken by this server, by another server
//! of the process, and by something else. `listen.rs` has tests for names and for faulty addresses.

use crate::util::skip::lacks;
use crate::util::{Case, TestServer, connect, each_back_end, echo, eventually, now, round_trip};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;
use wharf::{Server, StartError, StartErrorKind};

each_back_end!(
    one_listener_for_both_families_is_a_setting,
    a_name_and_its_address_are_one,
    the_owner_of_a_taken_address_is_told,
);

fn one_listener_for_both_families_is_a_setting(case: &Case) {
    if TcpListener::bind("[::1]:0").is_err() {
        return lacks("there is no IPv6");
    }
    let start = |dual_stack| {
        let builder = Server::builder(echo()).back_end(case.back_end).shards(2).listen("[::]:0");
        let builder = if dual_stack { builder.dual_stack(true) } else { builder };
        let server = TestServer::start(builder);
        let port = server.address.port();
        round_trip(&mut connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))), b"six");
        (server, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    // By default the other family's port is free, unless another test happens to have it.
    let mut others = None;
    eventually(
        || {
            let (server, four) = start(false);
            others = TcpListener::bind(four).ok();
            server.stop();
            others.is_some()
        },
        "IPv4 is not taken",
    );
    let (server, four) = start(true);
    round_trip(&mut connect(four), b"four");
    assert_eq!(TcpListener::bind(four).unwrap_err().kind(), ErrorKind::AddrInUse);
    server.stop();
}

/// Starts in vain; says how long it took.
fn fail(case: &Case, addresses: &[String]) -> (StartError, Duration) {
    let begin = now();
    let builder = Server::builder(echo()).back_end(case.back_end).shards(1);
    let builder = addresses.iter().fold(builder, |builder, address| builder.listen(address));
    let error = builder.start().err().unwrap();
    assert_eq!(error.kind(), StartErrorKind::Address, "{error}");
    (error, begin.elapsed())
}

fn a_name_and_its_address_are_one(case: &Case) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let given = [format!("localhost:{free}"), format!("127.0.0.1:{free}")];
    let (error, time) = fail(case, &given);
    let text = error.to_string();
    let expected =
        format!("cannot listen on {}: this server listens on {} already; ", given[1], given[1]);
    assert!(text.starts_with(&expected), "{text}");
    assert!(time < Duration::from_millis(500), "{time:?}");
    // In the other order, the name is told with its address.
    let (error, _) = fail(case, &[given[1].clone(), given[0].clone()]);
    assert!(error.to_string().contains(&format!("{} ({})", given[0], given[1])), "{error}");
}

fn the_owner_of_a_taken_address_is_told(case: &Case) {
    let server = TestServer::start(case.small(echo()));
    let (error, _) = fail(case, &[server.address.to_string()]);
    assert!(error.to_string().contains("in use by another server of this process"), "{error}");
    server.stop();
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = foreign.local_addr().unwrap();
    let (error, _) = fail(case, &[address.to_string()]);
    let remedy = format!("'sport = :{}'", address.port());
    assert!(error.to_string().contains(&remedy), "{error}");
}
