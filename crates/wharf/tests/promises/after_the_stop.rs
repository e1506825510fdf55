//! Promise: handles of servers that have stopped keep neither their buffers nor their descriptors, and
//! still show the final counters.
//!
//! Method: handles of ten servers of the default size; the process' descriptors and memory.

use crate::util::{
    Case, TestServer, each_back_end, echo, expect_bytes, finish, open_files, resident_bytes,
    round_trip,
};
use wharf::PostError;

each_back_end!(
    handles_of_stopped_servers_keep_no_buffers_and_no_descriptors,
    messages_are_not_made_after_the_stop,
);

fn handles_of_stopped_servers_keep_no_buffers_and_no_descriptors(case: &Case) {
    case.alone(|| {
        let mut handles = Vec::new();
        // The first one is for what the process allocates once.
        let mut before = (0, 0);
        let mut planned = 0;
        for n in 0..11 {
            let server = TestServer::start(case.builder(echo()).shards(2));
            let mut client = server.connect();
            round_trip(&mut client, b"hello");
            server.handle.all().post("to all");
            expect_bytes(&mut client, b"to all");
            finish(&mut client);
            drop(client);
            planned = server.running().plan().total_bytes();
            handles.push(server.handle.clone());
            server.stop();
            if n == 0 {
                before = (open_files(), resident_bytes());
            }
        }
        assert_eq!(open_files(), before.0, "descriptors");
        let kept = resident_bytes().saturating_sub(before.1) / 10;
        assert!(kept < planned / 10, "each handle keeps {kept} of {planned} bytes");
        for handle in handles {
            let stats = handle.stats();
            assert_eq!((stats.received_bytes, stats.connects), (5, 1));
            assert_eq!(stats.buffers.free, stats.buffers.total());
            assert!(stats.buffers.total() > 5_000, "{:?}", stats.buffers);
            assert_eq!(stats.post_buffers.free, stats.post_buffers.total());
            assert!(stats.post_buffers.total() > 1_000, "{:?}", stats.post_buffers);
        }
    });
}

fn messages_are_not_made_after_the_stop(case: &Case) {
    let server = TestServer::start(case.small(echo()));
    let handle = server.handle.clone();
    server.stop_within(std::time::Duration::ZERO);
    assert_eq!(handle.message("after").err(), Some(PostError::Closed));
    assert_eq!(handle.all().try_post("after"), Err(PostError::Closed));
}
