//! Promise: thousands of links at once are served, and tens of thousands one after another leave no
//! slot, buffer or descriptor in use.
//!
//! Method: the servers whose resources are counted run in processes of their own; ten thousand
//! clients run in another one, with several source addresses, because one address has too few
//! ports.

use crate::util;
use crate::util::{
    Case, TestServer, bytes, each_back_end, echo, enough_files, eventually, expect_bytes, finish,
    open_files, reset, round_trip,
};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};

each_back_end!(
    two_thousand_links_at_once_are_served,
    ten_thousand_links_at_once_are_served,
    twenty_thousand_connects_and_disconnects_leave_nothing,
    links_are_spread_evenly_over_the_shards,
);

fn two_thousand_links_at_once_are_served(case: &Case) {
    case.alone(|| {
        if !enough_files(4_200) {
            return;
        }
        let builder = case.builder(echo()).shards(2).links_max(2_000).buffer_count(5_000);
        let server = TestServer::start(builder);
        let mut clients: Vec<_> = (0..2_000).map(|_| server.connect()).collect();
        for round in 0..3 {
            for (n, client) in (round..).zip(&mut clients) {
                client.write_all(&bytes(n, 500)).unwrap();
            }
            for (n, client) in (round..).zip(&mut clients) {
                expect_bytes(client, &bytes(n, 500));
            }
        }
        assert_eq!(server.stats().links, 2_000);
        clients.iter_mut().for_each(finish);
        let stats = server.stop();
        assert_eq!((stats.connects, stats.received_bytes), (2_000, 2_000 * 3 * 500));
    });
}

const MANY: u16 = 10_000;
const SOURCES: u8 = 10;

fn ten_thousand_links_at_once_are_served(case: &Case) {
    if let Some(address) = case.role().and_then(|role| role.parse().ok()) {
        return ten_thousand_clients(address);
    }
    case.alone(|| {
        if !enough_files(u64::from(MANY) + 300) {
            return;
        }
        let builder = case.builder(echo()).shards(2).links_max(MANY.into()).buffer_count(24_000);
        let server = TestServer::start(builder);
        let mut clients = case.command(&server.address.to_string()).spawn().unwrap();
        let all = u64::from(MANY) * 100;
        eventually(|| server.stats().received_bytes == all, "each has sent its message");
        let stats = server.stats();
        assert_eq!(stats.links, u32::from(MANY));
        assert!(stats.workers.iter().all(|worker| worker.links == u32::from(MANY / 2)));
        server.handle.all().try_post(b"to all").unwrap();
        assert!(clients.wait().unwrap().success());
        let stats = server.stop();
        assert_eq!((stats.connects, stats.missed), (u64::from(MANY), 0));
    });
}

fn ten_thousand_clients(address: SocketAddr) {
    assert!(enough_files(u64::from(MANY) + 100));
    let mut clients: Vec<_> = (0..MANY)
        .map(|n| {
            let [source, _] = (n % u16::from(SOURCES)).to_le_bytes();
            connect_from([127, 0, 0, 2 + source], address)
        })
        .collect();
    for (n, client) in (0..).zip(&mut clients) {
        client.write_all(&bytes(n, 100)).unwrap();
    }
    for (n, client) in (0..).zip(&mut clients) {
        expect_bytes(client, &bytes(n, 100));
    }
    clients.iter_mut().for_each(|client| expect_bytes(client, b"to all"));
}

fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(util::PATIENCE)).unwrap();
    stream
}

fn twenty_thousand_connects_and_disconnects_leave_nothing(case: &Case) {
    case.alone(|| {
        let before = open_files();
        let builder = case.short(echo()).shards(2).links_max(64).buffer_count(180);
        let server = TestServer::start(builder);
        let started = open_files();
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let server = &server;
                scope.spawn(move || {
                    for n in 0..10_000 {
                        let mut client = server.connect();
                        match (n + thread) % 4 {
                            0 => drop(client),
                            1 => reset(client),
                            2 => {
                                round_trip(&mut client, b"hello");
                                finish(&mut client);
                            }
                            _ => {
                                client.write_all(b"never read").unwrap();
                                reset(client);
                            }
                        }
                    }
                });
            }
        });
        eventually(|| server.stats().accepted >= 20_000, "all were accepted");
        server.wait_for_links(0);
        eventually(|| open_files() == started, "the descriptors are closed");
        // Every slot can still have a link.
        let mut clients: Vec<_> = (0..64).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
        drop(clients);
        let stats = server.stop();
        assert_eq!((stats.refused_full, stats.accept_failures), (0, 0), "{stats:?}");
        eventually(|| open_files() == before, "the server's descriptors are closed");
    });
}

fn links_are_spread_evenly_over_the_shards(case: &Case) {
    for shards in 2..=4 {
        let builder = case.builder(echo()).shards(shards).links_max(12 * shards);
        let server = TestServer::start(builder);
        let mut clients: Vec<_> = (0..10 * shards).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
        let stats = server.stats();
        assert!(stats.workers.iter().all(|worker| worker.links == 10), "{:?}", stats.workers);
        clients.iter_mut().for_each(finish);
        server.stop();
    }
}
