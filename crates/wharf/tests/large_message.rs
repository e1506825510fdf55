//! Promise: a message may be larger than a buffer, up to the send queue, and reaches the peer
//! as one unbroken run of bytes; one that is larger is refused, and nothing of it is sent.
//!
//! Method: a client asks for messages of sizes around the edges of buffers; link, handle and
//! broadcast send them.
#![cfg(target_os = "linux")]
#![cfg(test)]

mod util;

use std::io::Write;
use std::sync::Arc;
use util::{
    Case, TestServer, bytes, each_back_end, echo, exchange, expect_bytes, finish, on_receive,
};
use wharf::{Link, Result, SendError};

each_back_end!(
    a_link_sends_messages_of_many_buffers,
    messages_queued_in_one_callback_leave_in_order,
    a_handle_sends_messages_of_many_buffers,
    a_broadcast_of_many_buffers_arrives_whole,
    a_message_as_large_as_the_queue_fits_and_one_byte_more_does_not,
    a_post_of_half_the_queue_fits_and_one_byte_more_does_not,
    the_smallest_and_the_largest_buffers_carry_the_same_bytes,
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

fn settings(case: &Case) -> wharf::Builder {
    // The pool for posts is an eighth: room for two whole queues.
    case.builder().links(4).buffers(800).buffer_size(256).send_queue(40 * 256)
}

/// Answers a size (four bytes) with as many bytes.
fn serve_size(link: &mut Link<'_, ()>, data: &[u8]) -> Result {
    for size in data.chunks_exact(4) {
        let size = u32::from_le_bytes(size.try_into().unwrap());
        link.send(&bytes(u64::from(size), size as usize))?;
    }
    Ok(())
}

fn ask(client: &mut impl Write, sizes: &[usize]) {
    let words = sizes.iter().flat_map(|size| u32::try_from(*size).unwrap().to_le_bytes());
    client.write_all(&words.collect::<Vec<u8>>()).unwrap();
}

fn a_link_sends_messages_of_many_buffers(case: &Case) {
    let server = TestServer::start(settings(case), on_receive(serve_size));
    let mut client = server.connect();
    for size in sizes() {
        ask(&mut client, &[size]);
        expect_bytes(&mut client, &bytes(size as u64, size));
    }
    finish(&mut client);
    server.stop();
}

fn messages_queued_in_one_callback_leave_in_order(case: &Case) {
    let server = TestServer::start(settings(case), on_receive(serve_size));
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
    let server = TestServer::start(settings(case), handler);
    let mut client = server.connect();
    let id = record.id(0);
    let mut sent = 0;
    for size in posted_sizes() {
        server.handle.send(id, &bytes(size as u64, size)).unwrap();
        expect_bytes(&mut client, &bytes(size as u64, size));
        sent += size as u64;
        wait_for_sent(&server, sent);
    }
    finish(&mut client);
    server.stop();
}

fn a_broadcast_of_many_buffers_arrives_whole(case: &Case) {
    let server = TestServer::start(settings(case), echo());
    let mut clients = [server.connect(), server.connect(), server.connect()];
    server.wait_for_links(3);
    let mut sent = 0;
    for size in posted_sizes() {
        server.handle.broadcast(&bytes(size as u64, size), None).unwrap();
        for client in &mut clients {
            expect_bytes(client, &bytes(size as u64, size));
        }
        sent += 3 * size as u64;
        wait_for_sent(&server, sent);
    }
    drop(clients);
    let stats = server.stop();
    assert_eq!(stats.broadcast_skips, 0);
}

/// A client can have all bytes before the server has heard that they left; until then they fill the
/// queue.
fn wait_for_sent(server: &TestServer, bytes: u64) {
    util::eventually(|| server.stats().sent_bytes >= bytes, "the server hears that all has left");
}

fn a_message_as_large_as_the_queue_fits_and_one_byte_more_does_not(case: &Case) {
    let handler = on_receive(|link, data| {
        assert_eq!(link.send(&bytes(1, QUEUE + 1)), Err(SendError::TooLarge));
        assert_eq!(link.broadcast(&bytes(1, QUEUE + 1)), Err(SendError::TooLarge));
        link.send(data)?;
        assert_eq!(link.send(&bytes(2, QUEUE)), Err(SendError::QueueFull));
        link.send(b"")?;
        Ok(link.send(&bytes(3, QUEUE - data.len()))?)
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(settings(case), handler);
    let mut client = server.connect();
    client.write_all(b"x").unwrap();
    expect_bytes(&mut client, b"x");
    expect_bytes(&mut client, &bytes(3, QUEUE - 1));
    let large = bytes(1, QUEUE + 1);
    assert_eq!(server.handle.send(record.id(0), &large), Err(SendError::TooLarge));
    assert_eq!(server.handle.broadcast(&large, None), Err(SendError::TooLarge));
    finish(&mut client);
    server.stop();
}

fn a_post_of_half_the_queue_fits_and_one_byte_more_does_not(case: &Case) {
    let handler = on_receive(|link, _| {
        assert_eq!(link.broadcast(&bytes(1, QUEUE / 2 + 1)), Err(SendError::TooLarge));
        Ok(link.broadcast(&bytes(2, QUEUE / 2))?)
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(settings(case), handler);
    let mut clients = [server.connect(), server.connect()];
    server.wait_for_links(2);
    let id = record.id(0);
    let large = bytes(1, QUEUE / 2 + 1);
    assert_eq!(server.handle.send(id, &large), Err(SendError::TooLarge));
    assert_eq!(server.handle.broadcast(&large, None), Err(SendError::TooLarge));
    server.handle.send(id, &bytes(3, QUEUE / 2)).unwrap();
    expect_bytes(&mut clients[0], &bytes(3, QUEUE / 2));
    clients[0].write_all(b"?").unwrap();
    expect_bytes(&mut clients[1], &bytes(2, QUEUE / 2));
    clients.iter_mut().for_each(finish);
    server.stop();
}

fn the_smallest_and_the_largest_buffers_carry_the_same_bytes(case: &Case) {
    for (size, buffers, queue) in [(64, 8_192, 64 << 10), (1 << 20, 27, 8 << 20)] {
        let builder = case.builder().links(4).buffers(buffers).buffer_size(size);
        let server = TestServer::start(builder.send_queue(queue), echo());
        let mut client = server.connect();
        exchange(&client, &bytes(9, 1 << 20), 9);
        finish(&mut client);
        server.stop();
    }
}
