//! Promise: input is echoed, byte for byte and in order, however it is split.
//!
//! Method: an echo server; clients send bytes without a period in pieces of random length, and
//! compare every byte that they read.

use crate::util;
use crate::util::{
    Case, TestServer, bytes, each_back_end, echo, exchange, expect_bytes, finish, round_trip,
};
use socket2::SockRef;
use std::io::Write;

each_back_end!(
    every_size_from_1_byte_to_8_mib_comes_back,
    one_link_carries_many_sizes_one_after_another,
    one_byte_in_a_segment_is_one_stream,
    links_at_once_get_their_own_bytes_each,
    a_server_listens_on_several_addresses,
    urgent_data_disturbs_no_link,
);

const SIZES: [usize; 12] =
    [1, 2, 63, 64, 65, 2_047, 2_048, 2_049, 65_535, 100_001, 1 << 20, 8 << 20];

fn every_size_from_1_byte_to_8_mib_comes_back(case: &Case) {
    let server = TestServer::start(case.builder(echo()));
    for (seed, size) in (0..).zip(SIZES) {
        let mut client = server.connect();
        exchange(&client, &bytes(seed, size), seed);
        finish(&mut client);
    }
    let stats = server.stop();
    let total: usize = SIZES.iter().sum();
    assert_eq!((stats.received_bytes, stats.sent_bytes), (total as u64, total as u64));
}

fn one_link_carries_many_sizes_one_after_another(case: &Case) {
    let server = TestServer::start(case.builder(echo()));
    let mut client = server.connect();
    for seed in 0..40 {
        exchange(&client, &bytes(seed, 1 << (seed % 17)), seed);
    }
    finish(&mut client);
    server.stop();
}

fn one_byte_in_a_segment_is_one_stream(case: &Case) {
    let server = TestServer::start(case.small(echo()));
    let (mut client, data) = (server.connect(), bytes(7, 3_000));
    for byte in data.chunks(1) {
        client.write_all(byte).unwrap();
    }
    expect_bytes(&mut client, &data);
    for byte in data.chunks(1).take(500) {
        round_trip(&mut client, byte);
    }
    finish(&mut client);
    server.stop();
}

fn links_at_once_get_their_own_bytes_each(case: &Case) {
    for shards in [1, 3] {
        let server = TestServer::start(case.builder(echo()).shards(shards).links_max(100));
        std::thread::scope(|scope| {
            for seed in 0..50 {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.connect();
                    exchange(&client, &bytes(seed, 200_000), seed);
                    finish(&mut client);
                });
            }
        });
        let stats = server.stop();
        assert_eq!((stats.connects, stats.received_bytes), (50, 50 * 200_000));
    }
}

fn a_server_listens_on_several_addresses(case: &Case) {
    let builder = case.small(echo()).listen("127.0.0.2:0").listen("[::1]:0");
    let server = TestServer::start(builder);
    let addresses = server.running().local_addresses().to_vec();
    assert_eq!(addresses.len(), 3);
    for (_, address) in addresses {
        let mut client = util::connect(address.socket_addr().unwrap());
        round_trip(&mut client, b"hello");
        finish(&mut client);
    }
    server.stop();
}

fn urgent_data_disturbs_no_link(case: &Case) {
    let server = TestServer::start(case.small(echo()));
    let mut client = server.connect();
    round_trip(&mut client, b"ab");
    // The stream of a socket without SO_OOBINLINE lacks the urgent byte (tcp(7)).
    assert_eq!(SockRef::from(&client).send_out_of_band(b"x").unwrap(), 1);
    round_trip(&mut client, b"cd");
    finish(&mut client);
    server.stop();
}
