//! Promise: a message may be larger than a buffer, up to the send queue, and reaches the peer
//! as one unbroken run of bytes; a larger one is refused, and nothing of it is sent.
//!
//! Method: a client asks for messages of sizes around the edges of buffers; link, handle and
//! broadcast send them.

use crate::util;
use crate::util::{
    Case, TestServer, bytes, each_back_end, echo, exchange, expect_bytes, finish, on_chunk,
    on_receive,
};
use std::io::Write;
use std::sync::Arc;
use wharf::{Builder, Handler, Input, Link, PostError, Result, SendError};

each_back_end!(
    a_link_sends_messages_of_many_buffers,
    messages_queued_in_one_callback_leave_in_order,
    a_handle_sends_messages_of_many_buffers,
    a_broadcast_of_many_buffers_arrives_whole,
    a_message_as_large_as_the_queue_fits_and_one_byte_more_does_not,
    a_post_of_half_the_queue_fits_and_one_byte_more_does_not,
    the_smallest_and_the_largest_buffers_carry_the_same_bytes,
    bulk_is_echoed_beside_peers_that_hold_the_large_buffers,
);

const BUFFER: usize = 256;
const QUEUE: usize = 40 * BUFFER;

fn sizes() -> Vec<usize> {
    let mut sizes = vec![1, 2, QUEUE - 1, QUEUE];
    for buffers in [1, 2, 3, 16, 17, 39] {
        sizes.extend([buffers * BUFFER - 1, buffers * BUFFER, buffers * BUFFER + 1]);
    }
    sizes
}

/// Those that can be posted: at most half of the queue.
fn posted_sizes() -> impl Iterator<Item = usize> {
    sizes().into_iter().filter(|size| *size <= QUEUE / 2).chain([QUEUE / 2])
}

fn settings<H: Handler>(case: &Case, handler: H) -> Builder<H, (), ()> {
    // The pool for posts is an eighth: enough for two whole queues.
    case.builder(handler)
        .links_max(4)
        .buffer_count(800)
        .buffer_size_bytes(256)
        .output_bytes(40 * 256)
}

/// Replies to a size (four bytes) with as many bytes.
fn serve_size(link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
    while let Some(size) = input.take(4)? {
        let size = u32::from_le_bytes(size.try_into().unwrap());
        link.out.send(bytes(u64::from(size), size as usize))?;
    }
    Ok(())
}

fn ask(client: &mut impl Write, sizes: &[usize]) {
    let words = sizes.iter().flat_map(|size| u32::try_from(*size).unwrap().to_le_bytes());
    client.write_all(&words.collect::<Vec<u8>>()).unwrap();
}

/// Peers that do not read their echo, and peers that send half of a frame, use all large buffers;
/// bulk of others is still echoed.
fn bulk_is_echoed_beside_peers_that_hold_the_large_buffers(case: &Case) {
    const BULK: usize = 1 << 20;
    for shards in [1, 3] {
        let server = TestServer::start(case.builder(echo()).shards(shards).links_max(300));
        // With small receive windows, so that the echo stays at the server.
        let not_reading: Vec<_> =
            (0..200).map(|_| util::connect_small_share(server.address)).collect();
        for mut stream in &not_reading {
            stream.set_nonblocking(true).unwrap();
            let data = bytes(7, 128 * 1024);
            // As much as the system takes.
            while matches!(stream.write(&data), Ok(1..)) {}
        }
        let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        for (client, seed) in clients.iter_mut().zip(0..) {
            exchange(client, &bytes(seed, BULK), seed);
            finish(client);
        }
        drop(not_reading);
        server.stop();
    }
}

fn a_link_sends_messages_of_many_buffers(case: &Case) {
    let server = TestServer::start(settings(case, on_receive(serve_size)));
    let mut client = server.connect();
    for size in sizes() {
        ask(&mut client, &[size]);
        expect_bytes(&mut client, &bytes(size as u64, size));
    }
    finish(&mut client);
    server.stop();
}

fn messages_queued_in_one_callback_leave_in_order(case: &Case) {
    let server = TestServer::start(settings(case, on_receive(serve_size)));
    let mut client = server.connect();
    let sizes: Vec<usize> = (1..60).map(|n| n * 5).collect();
    ask(&mut client, &sizes);
    for size in sizes {
        expect_bytes(&mut client, &bytes(size as u64, size));
    }
    finish(&mut client);
    server.stop();
}

fn a_handle_sends_messages_of_many_buffers(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(settings(case, handler));
    let mut client = server.connect();
    let id = record.id(0);
    let mut sent = 0;
    for size in posted_sizes() {
        server.handle.link(id).try_post(bytes(size as u64, size)).unwrap();
        expect_bytes(&mut client, &bytes(size as u64, size));
        sent += size as u64;
        wait_for_sent(&server, sent);
    }
    finish(&mut client);
    server.stop();
}

fn a_broadcast_of_many_buffers_arrives_whole(case: &Case) {
    let server = TestServer::start(settings(case, echo()));
    let mut clients = [server.connect(), server.connect(), server.connect()];
    server.wait_for_links(3);
    let mut sent = 0;
    for size in posted_sizes() {
        server.handle.all().try_post(bytes(size as u64, size)).unwrap();
        for client in &mut clients {
            expect_bytes(client, &bytes(size as u64, size));
        }
        sent += 3 * size as u64;
        wait_for_sent(&server, sent);
    }
    drop(clients);
    let stats = server.stop();
    assert_eq!(stats.missed, 0);
}

/// A client can have all bytes before the server has the send's completion; until then they count as
/// unsent.
fn wait_for_sent(server: &TestServer, bytes: u64) {
    util::eventually(|| server.stats().sent_bytes >= bytes, "the server hears that all has left");
}

fn a_message_as_large_as_the_queue_fits_and_one_byte_more_does_not(case: &Case) {
    let handler = on_chunk(|link, data| {
        assert_eq!(link.out.send(bytes(1, QUEUE + 1)), Err(SendError::TooLarge));
        assert_eq!(link.server.all().try_post(bytes(1, QUEUE + 1)), Err(PostError::TooLarge));
        link.out.send(data)?;
        assert_eq!(link.out.send(bytes(2, QUEUE)), Err(SendError::Full));
        link.out.send(b"")?;
        Ok(link.out.send(bytes(3, QUEUE - data.len()))?)
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(settings(case, handler));
    let mut client = server.connect();
    client.write_all(b"x").unwrap();
    expect_bytes(&mut client, b"x");
    expect_bytes(&mut client, &bytes(3, QUEUE - 1));
    let large = bytes(1, QUEUE + 1);
    assert_eq!(server.handle.link(record.id(0)).try_post(&large), Err(PostError::TooLarge));
    assert_eq!(server.handle.all().try_post(&large), Err(PostError::TooLarge));
    finish(&mut client);
    server.stop();
}

fn a_post_of_half_the_queue_fits_and_one_byte_more_does_not(case: &Case) {
    let handler = on_chunk(|link, _| {
        assert_eq!(link.server.all().try_post(bytes(1, QUEUE / 2 + 1)), Err(PostError::TooLarge));
        Ok(link.server.all().except(link.id()).try_post(bytes(2, QUEUE / 2))?)
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(settings(case, handler));
    let mut clients = [server.connect(), server.connect()];
    server.wait_for_links(2);
    let id = record.id(0);
    let large = bytes(1, QUEUE / 2 + 1);
    assert_eq!(server.handle.link(id).try_post(&large), Err(PostError::TooLarge));
    assert_eq!(server.handle.all().try_post(&large), Err(PostError::TooLarge));
    server.handle.link(id).try_post(bytes(3, QUEUE / 2)).unwrap();
    expect_bytes(&mut clients[0], &bytes(3, QUEUE / 2));
    clients[0].write_all(b"?").unwrap();
    expect_bytes(&mut clients[1], &bytes(2, QUEUE / 2));
    clients.iter_mut().for_each(finish);
    server.stop();
}

fn the_smallest_and_the_largest_buffers_carry_the_same_bytes(case: &Case) {
    for (size, buffers, queue) in [(64, 8_192, 64 << 10), (1 << 20, 27, 8 << 20)] {
        let builder =
            case.builder(echo()).links_max(4).buffer_count(buffers).buffer_size_bytes(size);
        let server = TestServer::start(builder.output_bytes(queue));
        let mut client = server.connect();
        exchange(&client, &bytes(9, 1 << 20), 9);
        finish(&mut client);
        server.stop();
    }
}
