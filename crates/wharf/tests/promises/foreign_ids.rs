//! Promise: the id of a link reaches that link only: no link of a server that was started
//! later, nor one of another server of the process, also as the exception of a broadcast.
//!
//! Method: two servers whose links have the same slots; each is asked with the ids of the other.

use crate::util::functions::functions;
use crate::util::{
    Case, Mutex, TestServer, each_back_end, echo, eventually, expect_bytes, finish, round_trip,
};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use wharf::{Handle, LinkId, PostError, Reply};

each_back_end!(
    ids_of_another_server_reach_nobody,
    ids_of_a_stopped_server_reach_nobody,
    a_reply_of_a_stopped_server_reaches_nobody,
);

/// Tries everything with a foreign id.
fn try_all(handle: &Handle, id: LinkId) {
    assert_eq!(handle.link(id).try_post(b"stray"), Err(PostError::Closed));
    handle.link(id).post(b"stray");
    write!(handle.link(id), "stray");
    handle.link(id).resume();
    handle.link(id).close();
    handle.link(id).abort();
}

/// A server of one slot, its client and the id of its link.
fn one(case: &Case) -> (TestServer, std::net::TcpStream, LinkId) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler).links_max(1));
    let client = server.connect();
    let id = record.id(0);
    (server, client, id)
}

fn ids_of_another_server_reach_nobody(case: &Case) {
    let (one_server, mut one_client, one_id) = one(case);
    let (other_server, mut other_client, other_id) = one(case);
    assert_ne!(one_id, other_id);
    assert_eq!(one_id.to_string(), other_id.to_string(), "they have the same slots");
    try_all(&one_server.handle, other_id);
    try_all(&other_server.handle, one_id);
    // A foreign id excepts no link.
    one_server.handle.all().except(other_id).try_post(b"to all").unwrap();
    other_server.handle.all().except(one_id).try_post(b"to all").unwrap();
    for client in [&mut one_client, &mut other_client] {
        expect_bytes(client, b"to all");
        round_trip(client, b"still here");
        finish(client);
    }
    assert_eq!((one_server.stop().missed, other_server.stop().missed), (0, 0));
}

fn ids_of_a_stopped_server_reach_nobody(case: &Case) {
    let (old_server, old_client, old_id) = one(case);
    let old_handle = old_server.handle.clone();
    drop(old_client);
    old_server.stop();
    let (server, mut client, id) = one(case);
    for (handle, id) in [(&server.handle, old_id), (&old_handle, old_id), (&old_handle, id)] {
        try_all(handle, id);
    }
    server.handle.all().except(old_id).close();
    expect_end_of(&mut client);
    assert_eq!(server.stop().missed, 0);
}

#[track_caller]
fn expect_end_of(client: &mut std::net::TcpStream) {
    crate::util::expect_end(client);
}

fn a_reply_of_a_stopped_server_reaches_nobody(case: &Case) {
    let kept: Arc<Mutex<Vec<Reply>>> = Arc::default();
    let keeps = Arc::clone(&kept);
    let handler = functions::<()>().on_receive(move |link, input| {
        let Some(_) = input.line(10)? else { return Ok(()) };
        keeps.lock().unwrap().push(input.defer(&mut link.out, 10)?);
        Ok(())
    });
    let old_server = TestServer::start(case.small(handler).links_max(1));
    let mut old_client = old_server.connect();
    old_client.write_all(b"?\n").unwrap();
    eventually(|| kept.lock().unwrap().len() == 1, "a reply is deferred");
    old_server.stop_within(Duration::ZERO);
    let (server, mut client, _) = one(case);
    let reply = kept.lock().unwrap().pop().unwrap();
    assert_eq!(reply.send(b"stray"), Err(PostError::Closed));
    round_trip(&mut client, b"still here");
    finish(&mut client);
    server.stop();
}
