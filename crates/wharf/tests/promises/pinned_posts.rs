//! Promise: a peer that does not read keeps the buffers of posted messages from other links for at
//! most `loan_wait`.
//!
//! Method: each of many links whose peers do not read is posted messages of its own, until no
//! buffers for posts are free; then one whose peer reads is posted to.

use crate::util;
use crate::util::{Case, TestServer, each_back_end, echo, now, within};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wharf::DisconnectReason::SlowReader;
use wharf::PostError;

each_back_end!(messages_that_no_peer_reads_are_released_after_loan_wait);

const NOT_READING: usize = 30;
const LOAN_WAIT: Duration = Duration::from_millis(300);
/// Far below `stall_timeout`.
const PATIENCE: Duration = Duration::from_secs(5);

fn messages_that_no_peer_reads_are_released_after_loan_wait(case: &Case) {
    let _deadline = within(Duration::from_mins(1));
    for shards in [1, 3] {
        let handler = echo();
        let record = Arc::clone(&handler.record);
        let builder = case.builder(handler).shards(shards).links_max(40).loan_wait(LOAN_WAIT);
        let server = TestServer::start(builder);
        let not_reading: Vec<_> =
            (0..NOT_READING).map(|_| util::connect_small_window(server.address)).collect();
        server.wait_for_links(u32::try_from(NOT_READING).unwrap());
        let ids: Vec<_> = (0..NOT_READING).map(|number| record.id(number)).collect();
        let mut reads = server.connect();
        let reader = record.id(NOT_READING);

        let end = now() + PATIENCE;
        let message = vec![1; 64 * 1024];
        let mut refused_since = None;
        // The buffers of posts in an inbox are released sooner.
        while refused_since.is_none_or(|since: Instant| since.elapsed() < LOAN_WAIT / 3) {
            assert!(now() < end, "buffers to post from do not run out: {:?}", server.stats());
            for id in &ids {
                match server.handle.message(&message) {
                    Err(error) => {
                        assert_eq!(error, PostError::Full);
                        refused_since = refused_since.or(Some(now()));
                    }
                    Ok(message) => {
                        refused_since = None;
                        server.handle.link(*id).post(&message);
                    }
                }
            }
        }
        let end = now() + PATIENCE;
        while server.handle.link(reader).try_post(&message) != Ok(()) {
            assert!(now() < end, "there is nothing to post from: {:?}", server.stats());
            std::thread::yield_now();
        }
        let mut got = vec![0; message.len()];
        reads.read_exact(&mut got).unwrap();
        assert!(got == message);
        drop((not_reading, reads));
        let stats = server.stop();
        assert_eq!(stats.closed(SlowReader), stats.loans_revoked, "{stats:?}");
    }
}
