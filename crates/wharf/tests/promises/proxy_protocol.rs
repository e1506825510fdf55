//! Promise: from a proxy that is trusted, a link begins with the header of the PROXY protocol, and its
//! peer is the client that the header names; without a header it is closed and counted. From any other
//! peer a header is input.
//!
//! Method: clients on 127.0.0.1 and 127.0.0.2 send headers whole and in pieces; the handler tells each
//! link its peer and echoes.

use crate::util::functions::Functions;
use crate::util::{
    Case, PATIENCE, TestServer, each_back_end, echo, eventually, expect_bytes, expect_end_or_reset,
    finish, functions::functions, now, reset,
};
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use wharf::{Builder, StartErrorKind};

each_back_end!(
    the_peer_is_the_client_that_the_header_names,
    a_header_may_come_in_pieces_and_bytes_behind_it_are_input,
    a_header_that_names_no_client_leaves_the_proxys_address,
    what_is_no_header_is_closed_and_counted_and_the_handler_hears_nothing,
    a_header_that_does_not_come_is_closed_after_five_seconds,
    a_header_of_a_peer_that_is_no_trusted_proxy_is_input,
    a_stop_does_not_wait_for_a_header,
    posts_to_all_pass_a_link_without_its_header_by,
    a_text_that_is_no_network_is_refused_at_start,
);

const CLIENT: &str = "192.0.2.7:4711";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb";

/// Tells each link its peer, and echoes.
fn tells_the_peer() -> Functions<()> {
    functions()
        .on_connect(|link| {
            let peer = format!("{}\n", link.peer());
            link.out.send(peer)?;
            Ok(())
        })
        .on_receive(|link, input| {
            input.forward(&mut link.out);
            Ok(())
        })
}

fn proxied(case: &Case) -> Builder<Functions<()>, (), ()> {
    case.short(tells_the_peer()).proxy_protocol("127.0.0.1").proxy_protocol("10.0.0.0/8")
}

fn named(client: &str) -> Vec<u8> {
    format!("{client}\n").into_bytes()
}

fn the_peer_is_the_client_that_the_header_names(case: &Case) {
    for shards in [1, 2, 8] {
        let handler = tells_the_peer();
        let record = std::sync::Arc::clone(&handler.record);
        let builder = case.short(handler).proxy_protocol("127.0.0.1");
        let server = TestServer::start(builder.shards(shards));
        let v6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n";
        for (header, client) in [(V1, CLIENT), (V2, CLIENT), (v6, "[2001:db8::7]:1")] {
            for _ in 0..2 * shards {
                let mut stream = server.connect();
                stream.write_all(&[header, b"hello"].concat()).unwrap();
                expect_bytes(&mut stream, &[named(client), b"hello".to_vec()].concat());
                finish(&mut stream);
            }
        }
        let stats = server.stop();
        assert_eq!((stats.connects, stats.proxy_errors), (u64::from(6 * shards), 0));
        assert_eq!(stats.received_bytes, u64::from(6 * shards) * 5, "without the headers");
        assert!(record.ends().iter().all(|end| end.totals.received_bytes == 5));
    }
}

fn a_header_may_come_in_pieces_and_bytes_behind_it_are_input(case: &Case) {
    let server = TestServer::start(proxied(case));
    for header in [V1, V2] {
        let sent = [header, b"PROXY and not a header\r\n"].concat();
        for cut in (1..sent.len()).step_by(3) {
            let mut stream = server.connect();
            stream.set_nodelay(true).unwrap();
            stream.write_all(&sent[..cut]).unwrap();
            // Each link has one receive in flight, so the pieces may join; each cut is tried.
            eventually(|| server.stats().links == 1, "the link is there");
            stream.write_all(&sent[cut..]).unwrap();
            let expected = [&named(CLIENT)[..], b"PROXY and not a header\r\n"].concat();
            expect_bytes(&mut stream, &expected);
            finish(&mut stream);
            server.wait_for_links(0);
        }
        let mut stream = server.connect();
        stream.set_nodelay(true).unwrap();
        sent.chunks(1).for_each(|byte| stream.write_all(byte).unwrap());
        expect_bytes(&mut stream, &named(CLIENT));
        expect_bytes(&mut stream, b"PROXY and not a header\r\n");
        finish(&mut stream);
        server.wait_for_links(0);
    }
    assert_eq!(server.stop().proxy_errors, 0);
}

fn a_header_that_names_no_client_leaves_the_proxys_address(case: &Case) {
    let server = TestServer::start(proxied(case));
    let local = [&V2[..12], b"\x20\x00\0\0"].concat();
    let unix = [&V2[..12], b"\x21\x31\0\xd8", &[b'/'; 216]].concat();
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), local, unix] {
        let mut stream = server.connect();
        stream.write_all(&header).unwrap();
        let own = named(&stream.local_addr().unwrap().to_string());
        expect_bytes(&mut stream, &own);
        finish(&mut stream);
    }
    assert_eq!(server.stop().connects, 3);
}

fn what_is_no_header_is_closed_and_counted_and_the_handler_hears_nothing(case: &Case) {
    let handler = tells_the_peer();
    let record = std::sync::Arc::clone(&handler.record);
    let builder = case.small(handler).proxy_protocol("127.0.0.0/8");
    let server = TestServer::start(builder.buffer_count(100));
    let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 2_000]].concat();
    let cases: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n",
        b"PROXY TCP4 192.0.2.7\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x01\x00",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &long,
    ];
    for (count, bytes) in (1..).zip(cases) {
        let mut stream = server.connect();
        stream.write_all(bytes).unwrap();
        expect_end_or_reset(&mut stream);
        eventually(|| server.stats().proxy_errors == count, "it is counted");
    }
    // A health check that only connects, half a header and an end, half a header and a reset.
    drop(server.connect());
    eventually(|| server.stats().proxy_errors == 7, "it is counted");
    let mut half = server.connect();
    half.write_all(&V1[..20]).unwrap();
    finish(&mut half);
    eventually(|| server.stats().proxy_errors == 8, "it is counted");
    let mut half = server.connect();
    half.write_all(&V2[..20]).unwrap();
    eventually(|| server.stats().links == 1, "it is accepted");
    reset(half);
    eventually(|| server.stats().proxy_errors == 9, "it is counted");
    eventually(|| server.stats().links == 0, "the slots are free again");
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.connects, stats.rejects), (9, 0, 0));
    assert!(record.ids().is_empty() && record.ends().is_empty());
}

fn a_header_that_does_not_come_is_closed_after_five_seconds(case: &Case) {
    let server = TestServer::start(proxied(case).idle_timeout(Duration::ZERO));
    let begin = now();
    let mut silent = server.connect();
    let mut slow = server.connect();
    let mut whole = server.connect();
    whole.write_all(V1).unwrap();
    // A byte now and then does not prolong the time.
    for byte in V2.chunks(1).take(20) {
        let _ends = slow.write_all(byte);
        std::thread::sleep(Duration::from_millis(350));
        if server.stats().proxy_errors == 2 {
            break;
        }
    }
    eventually(|| server.stats().proxy_errors == 2, "both are counted");
    let took = now() - begin;
    assert!(took >= Duration::from_millis(4_900) && took < Duration::from_secs(7), "{took:?}");
    expect_end_or_reset(&mut silent);
    expect_end_or_reset(&mut slow);
    expect_bytes(&mut whole, &named(CLIENT));
    whole.write_all(b"still here").unwrap();
    expect_bytes(&mut whole, b"still here");
    finish(&mut whole);
    server.stop();
}

fn a_header_of_a_peer_that_is_no_trusted_proxy_is_input(case: &Case) {
    let server = TestServer::start(proxied(case));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(V1).unwrap();
    let own = named(&stream.local_addr().unwrap().to_string());
    expect_bytes(&mut stream, &[&own[..], V1].concat());
    finish(&mut stream);
    server.stop();

    let server = TestServer::start(case.short(echo()));
    let mut stream = server.connect();
    stream.write_all(V2).unwrap();
    expect_bytes(&mut stream, V2);
    finish(&mut stream);
    server.stop();
}

fn a_stop_does_not_wait_for_a_header(case: &Case) {
    let server = TestServer::start(proxied(case).shards(2));
    let mut streams: Vec<_> = (0..4).map(|_| server.connect()).collect();
    streams[0].write_all(&V1[..9]).unwrap();
    eventually(
        || server.stats().workers.iter().map(|worker| worker.links).sum::<u32>() == 4,
        "all",
    );
    let begin = now();
    let stats = server.stop();
    assert!(now() - begin < Duration::from_secs(2), "{:?}", now() - begin);
    assert_eq!((stats.refused_stopping, stats.proxy_errors, stats.connects), (4, 0, 0));
    streams.iter_mut().for_each(expect_end_or_reset);
}

fn posts_to_all_pass_a_link_without_its_header_by(case: &Case) {
    let server = TestServer::start(proxied(case));
    let mut late = server.connect();
    let mut known = server.connect();
    known.write_all(V1).unwrap();
    expect_bytes(&mut known, &named(CLIENT));
    eventually(|| server.stats().links == 2, "both are there");
    server.handle.all().post("news\n");
    expect_bytes(&mut known, b"news\n");
    late.write_all(V2).unwrap();
    expect_bytes(&mut late, &named(CLIENT));
    server.handle.all().post("more\n");
    expect_bytes(&mut late, b"more\n");
    expect_bytes(&mut known, b"more\n");
    finish(&mut late);
    finish(&mut known);
    assert_eq!(server.stop().missed, 0);
}

fn a_text_that_is_no_network_is_refused_at_start(case: &Case) {
    for (builder, fault) in [
        (proxied(case).proxy_protocol("10.0.0.0/33"), "10.0.0.0/33"),
        (proxied(case).proxy_protocol("localhost"), "localhost"),
        (proxied(case).buffer_size_bytes(512), "buffer_size_bytes is 512"),
    ] {
        let error = builder.start().unwrap_err();
        assert_eq!(error.kind(), StartErrorKind::Settings);
        assert!(error.to_string().contains(fault), "{error}");
    }
}
