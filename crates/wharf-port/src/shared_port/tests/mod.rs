//! The promises of the shared port, on io_uring, epoll and the simulated port.
//!
//! | promise | tests on threads (`promises`, `stress`) | on stepped threads (`stepped`) |
//! | --- | --- | --- |
//! | INV-SHARED-1 | `at_most_as_many_threads_run_as_there_are_seats` | each step of each seed |
//! | INV-SHARED-2 | `waiting_threads_are_released_last_in_first_out`, `a_thread_that_returns_comes_before_those_that_wait` | `the_thread_that_waits_the_shortest_is_released_first` |
//! | INV-SHARED-3 | `a_thread_that_blocks_gives_its_place_to_one_that_waits`, `one_thread_serves_the_sockets_of_all_seats`, `a_seat_that_becomes_free_is_covered_by_threads_that_sleep` | `every_byte_comes_back_on_every_seed` |
//! | INV-SHARED-4 | `no_wake_up_is_lost_when_threads_block_and_return` | `every_byte_comes_back_on_every_seed`; `seats::loom_tests` |
//! | INV-SHARED-5 | `an_operation_from_another_seat_completes_once`, `operations_of_a_thread_that_ends_go_on`, `a_full_seat_refuses_a_socket_also_while_another_closes`, `an_echo_on_many_links_is_exact_while_threads_block` | `every_byte_comes_back_on_every_seed` |
//! | INV-SHARED-6 | `a_packet_wakes_a_thread_that_sleeps`, `packets_come_in_order_to_a_seat` | `every_byte_comes_back_on_every_seed` |
//! | INV-SHARED-7 | `a_close_ends_every_wait`, `a_wait_lasts_as_long_as_its_timeout` | `every_byte_comes_back_on_every_seed`, `a_seat_that_is_granted_when_a_wait_times_out_is_not_lost` |
//! | INV-SHARED-8 | `an_echo_on_many_links_is_exact_while_threads_block`; the examples of [`Held`](super::Held) that do not compile | `every_byte_comes_back_on_every_seed` |

#[cfg(test)]
mod promises;
mod stepped;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod threads;

/// Compares the table above with the sources: it names every test of the promises.
#[test]
fn the_table_of_promises_names_every_test() {
    let table: String =
        include_str!("mod.rs").lines().take_while(|line| line.starts_with("//!")).collect();
    let sources = [include_str!("promises.rs"), include_str!("stress.rs")];
    let lists = sources.iter().filter_map(|source| source.split("on_threads!(").nth(1));
    let names = lists.filter_map(|list| list.split(");").next()).flat_map(|list| list.split(','));
    let names: Vec<_> = names.map(str::trim).filter(|name| !name.is_empty()).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(table.contains(&format!("`{name}`")), "the table lacks {name}");
    }
}
