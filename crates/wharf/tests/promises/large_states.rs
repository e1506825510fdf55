//! Promise: a link's state and a worker's context may be large: a stack that can hold them is part of
//! the plan.
//!
//! Method: states and contexts of 1 MiB, in a debug build.
#![expect(clippy::large_stack_arrays, reason = "large values on the stack are what is tested")]

use crate::util::{Case, TestServer, each_back_end, echo, expect_bytes, finish, on_receive};
use std::io::Write;
use wharf::{Handler, Input, Link, Result, Worker};

each_back_end!(
    states_and_contexts_of_one_mebibyte_fit_the_stack,
    a_handler_that_needs_a_large_stack_sets_it,
    the_plan_counts_the_stack,
);

const SIZE: usize = 1 << 20;

struct Large;

impl Handler<[u8; SIZE], [u8; SIZE]> for Large {
    fn on_worker_start(&self, _: &mut Worker<'_>) -> Result<[u8; SIZE]> {
        Ok([1; SIZE])
    }

    fn on_connect(&self, link: &mut Link<'_, (), [u8; SIZE]>) -> Result<[u8; SIZE]> {
        Ok([link.worker[SIZE - 1]; SIZE])
    }

    fn on_receive(
        &self,
        link: &mut Link<'_, [u8; SIZE], [u8; SIZE]>,
        input: &mut Input<'_>,
    ) -> Result {
        input.consume(usize::MAX);
        link.state[SIZE - 1] += 1;
        Ok(link.out.send([link.state[SIZE - 1]])?)
    }
}

fn states_and_contexts_of_one_mebibyte_fit_the_stack(case: &Case) {
    case.alone(|| {
        let server = TestServer::start(case.small(Large));
        for _ in 0..3 {
            let mut client = server.connect();
            client.write_all(b"?").unwrap();
            expect_bytes(&mut client, &[2]);
            finish(&mut client);
        }
        server.stop();
    });
}

/// 3 MiB in one call, where a stack has 2 MiB by default.
fn a_handler_that_needs_a_large_stack_sets_it(case: &Case) {
    case.alone(|| {
        let deep = on_receive(|link, input| {
            let mut bytes = [0_u8; 3 * SIZE];
            let copied = input.chunk().len().min(bytes.len());
            bytes[..copied].copy_from_slice(&input.chunk()[..copied]);
            input.consume(copied);
            Ok(link.out.send(std::hint::black_box(&bytes)[..copied].to_vec())?)
        });
        let server = TestServer::start(case.small(deep).stack_bytes(8 << 20));
        let mut client = server.connect();
        client.write_all(b"deep").unwrap();
        expect_bytes(&mut client, b"deep");
        finish(&mut client);
        server.stop();
    });
}

fn the_plan_counts_the_stack(case: &Case) {
    let stacks = |terms: wharf::MemoryPlan| {
        terms.terms().find(|(name, _)| *name == "stacks").expect("a term").1
    };
    let small = stacks(case.small(echo()).plan().unwrap());
    let large = stacks(case.small(Large).plan().unwrap());
    let set = stacks(case.small(echo()).stack_bytes(8 << 20).plan().unwrap());
    assert_eq!(set, 8 << 20);
    assert!(large >= small + 2 * SIZE as u64, "{large} bytes, with small states {small}");
}
