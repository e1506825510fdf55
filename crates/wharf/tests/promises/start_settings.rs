//! Promise: settings are refused with the setting, its value and its range, or they have a plan, and
//! what is planned starts.
//!
//! Method: settings at the ends of their ranges and beyond, and random small ones.

use crate::util::{Case, Random, TestServer, each_back_end, echo, round_trip};
use std::time::Duration;
use wharf::{Builder, Handler, Server, StartErrorKind};

each_back_end!(
    unchecked_settings_are_refused_by_plan_and_start_alike,
    what_is_planned_starts,
    defaults_fit_few_links,
    the_longest_times_are_never,
);

fn unchecked_settings_are_refused_by_plan_and_start_alike(case: &Case) {
    fn refused<H: Handler>(builder: Builder<H, (), ()>, parts: [&str; 2]) {
        let planned = builder.plan().unwrap_err();
        let started = builder.start().err().unwrap();
        for error in [planned, started] {
            assert_eq!(error.kind(), StartErrorKind::Settings);
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{parts:?}: {text}");
        }
    }
    let builder = || case.builder(echo());
    refused(builder().shards(0), ["shards is 0", "from 1 to 256"]);
    refused(builder().buffer_count(0), ["buffer_count is 0", "from 1 to 16777216"]);
    refused(builder().links_max(u32::MAX), ["links_max is 4294967295", "from 1 to 16777215"]);
    refused(builder().output_bytes(1_000), ["output_bytes, which is 1000", "2048"]);
    refused(builder().buffer_size_bytes(0), ["buffer_size_bytes is 0", "from 64 to 1048576"]);
    refused(builder().backlog(0), ["backlog is 0", "from 1 to 65535"]);
    refused(builder().loan_wait(Duration::ZERO), ["loan_wait is 0", "longer"]);
    let mut many = builder();
    for _ in 0..1_024 {
        many = many.listen("127.0.0.1:0");
    }
    refused(many, ["1025 addresses", "from 1 to 1024"]);
}

fn what_is_planned_starts(case: &Case) {
    let mut random = Random(3);
    let mut started = 0;
    while started < 40 {
        let mut number = |most: usize| u32::try_from(1 + random.below(most)).unwrap();
        let builder = case
            .builder(echo())
            .shards(number(4))
            .links_max(number(40))
            .buffer_count(number(4_000))
            .buffer_size_bytes(60 + number(5_000))
            .input_bytes(number(50_000))
            .output_bytes(number(100_000))
            .grant_bytes(number(6_000));
        let Ok(plan) = builder.plan() else { continue };
        assert!(plan.total_bytes() < 100_000_000, "{plan}");
        let server = TestServer::start(builder);
        assert_eq!(*server.running().plan(), plan);
        round_trip(&mut server.connect(), b"served");
        server.stop();
        started += 1;
    }
}

/// The number of cores does not make them too large: `limits.rs` has the test for all numbers.
fn defaults_fit_few_links(case: &Case) {
    for links in 1..4 {
        let builder = Server::builder(echo()).listen("127.0.0.1:0").back_end(case.back_end);
        let server = TestServer::start(builder.links_max(links));
        round_trip(&mut server.connect(), b"served");
        server.stop();
    }
}

fn the_longest_times_are_never(case: &Case) {
    let never = Duration::MAX;
    let builder = case.small(echo()).idle_timeout(never).stall_timeout(never);
    let server = TestServer::start(builder.answer_timeout(never).loan_wait(never));
    round_trip(&mut server.connect(), b"served");
    server.stop_within(never);
}
