//! The tests that every back end must pass.
//!
//! A test is generic over a [`network::TestNetwork`], which has a port and peers; `each_back_end!`
//! instantiates it for each back end, so that `cargo test conformance::order::uring` runs one file
//! on one of them. A back end that this machine does not support is reported as *skipped, because
//! ...*.
//!
//! ```text
//!   network   what a test needs: a port, a listener, peers that never block
//!    ├ real         real sockets over loopback, on io_uring, epoll and IOCP
//!    ├ sim_network  the simulated network, without faults and with delays and reordering
//!    └ checker      compares every completion of every test with the submitted operations
//! ```
//!
//! A new back end needs one `TestNetwork` and one line in `each_back_end!`.
//!
//! # The tests of each promise
//!
//! The last column names a back end that lacks what the test is about, and does not run it.
//!
//! | promise | file | tests | not on |
//! | --- | --- | --- | --- |
//! | INV-PORT-1 | `exactly_once` | `a_oneshot_receive_completes_once` |  |
//! |  |  | `a_multishot_receive_completes_until_the_peer_ends` |  |
//! |  |  | `a_receive_if_ready_completes_at_once_either_way` |  |
//! |  |  | `a_cancelled_receive_ends_once` |  |
//! |  |  | `a_cancel_of_nothing_changes_nothing` |  |
//! |  |  | `data_that_races_a_cancel_is_neither_lost_nor_doubled` |  |
//! |  |  | `a_cancelled_send_says_how_much_it_sent` |  |
//! |  |  | `a_oneshot_accept_accepts_exactly_one` |  |
//! |  |  | `a_multishot_accept_takes_300_connections` |  |
//! |  |  | `a_cancelled_accept_ends_once_and_loses_no_connection` |  |
//! |  |  | `a_close_ends_receive_and_send_before_it_completes` |  |
//! |  |  | `a_close_of_a_listener_ends_its_accept` |  |
//! |  |  | `a_connection_that_was_reset_before_it_was_accepted_is_accepted_or_counted` |  |
//! |  |  | `a_close_that_races_data_and_the_peers_end_completes_once` |  |
//! |  |  | `a_peer_that_resets_ends_receive_and_send_once` |  |
//! |  |  | `a_reset_is_told_to_at_least_one_operation` |  |
//! |  |  | `a_second_operation_of_a_kind_is_busy_and_comes_back` |  |
//! |  |  | `a_closing_socket_takes_nothing_more` |  |
//! |  |  | `an_operation_that_does_not_fit_the_socket_comes_back` |  |
//! | INV-PORT-2 | `ownership` | `a_blocked_send_keeps_its_buffers_until_it_completes` |  |
//! |  |  | `late_data_never_lands_in_a_released_buffer` |  |
//! |  |  | `a_received_buffer_is_the_programs_and_stays_as_it_is` |  |
//! |  |  | `a_dropped_port_with_receives_in_flight_frees_all_and_ends_its_links` |  |
//! |  |  | `a_dropped_port_with_blocked_sends_frees_all_and_ends_its_links` |  |
//! |  |  | `a_dropped_port_with_accepts_in_flight_ends_what_came_in` |  |
//! |  |  | `a_dropped_port_with_completions_not_dequeued_frees_all` |  |
//! |  |  | `buffers_in_hand_outlive_the_port` |  |
//! |  |  | `a_port_that_is_its_pools_last_owner_frees_it_whatever_is_in_flight` |  |
//! | INV-PORT-3 | `order` | `four_mebibytes_of_short_sends_arrive_in_order` |  |
//! |  |  | `a_second_send_is_refused_and_the_first_arrives_whole` |  |
//! |  |  | `a_chain_with_a_skipped_prefix_sends_only_the_rest` |  |
//! |  |  | `a_chain_of_more_buffers_than_one_system_call_takes_arrives_whole` |  |
//! |  |  | `sends_behind_many_receives_keep_their_own_bytes` |  |
//! |  |  | `a_message_reaches_every_link_whole` |  |
//! |  |  | `an_echo_in_both_directions_at_once_keeps_both_in_order` |  |
//! |  |  | `many_small_sends_keep_their_order` |  |
//! | INV-PORT-4 | `generations` | `a_stale_socket_is_refused` |  |
//! |  |  | `a_stale_handle_leaves_the_next_owner_of_its_slot_alone` |  |
//! |  |  | `a_reused_slot_never_mixes_its_owners` |  |
//! |  |  | `nothing_follows_the_completion_of_a_close` |  |
//! |  |  | `a_full_table_gives_the_stream_back` |  |
//! | INV-PORT-5 | `idle` | `two_hundred_idle_links_hold_no_more_than_one` |  |
//! |  |  | `links_that_were_busy_hold_nothing_when_they_are_idle_again` |  |
//! |  |  | `idle_links_leave_a_tiny_pool_to_the_program` |  |
//! |  |  | `buffers_held_for_receives_are_at_most_those_configured_and_half_of_the_pool` |  |
//! | INV-PORT-6 | `pool_empty` | `receives_wait_while_the_pool_is_empty_and_none_fails` |  |
//! |  |  | `one_released_buffer_resumes_a_receive` |  |
//! |  |  | `links_get_buffers_in_the_order_in_which_they_began_to_wait` |  |
//! |  |  | `a_dequeue_serves_those_that_wait_before_it_sleeps` |  |
//! |  |  | `eight_flooding_links_on_two_buffers_are_all_served` |  |
//! |  |  | `a_pool_of_one_buffer_serves_many_links` |  |
//! |  |  | `a_receive_that_waits_for_a_buffer_can_be_cancelled_and_closed` |  |
//! |  |  | `a_receive_if_ready_on_an_empty_pool_completes_once_and_loses_nothing` |  |
//! |  |  | `a_link_whose_peer_ends_while_it_waits_for_a_buffer_still_gets_every_byte` |  |
//! |  |  | `sends_and_accepts_go_on_while_the_pool_is_empty` |  |
//! |  |  | `a_port_that_is_dropped_while_receives_wait_for_buffers_frees_all` |  |
//! |  | `fairness` | `a_receive_armed_anew_waits_behind_those_that_wait` |  |
//! |  |  | `failed_attempts_keep_their_order` |  |
//! |  |  | `links_that_are_rearmed_at_once_get_no_more_than_their_part` |  |
//! |  |  | `waiting_receives_are_cancelled_in_linear_time` |  |
//! | INV-PORT-7 | `posts` | `packets_of_eight_threads_arrive_once_and_in_each_threads_order` |  |
//! |  |  | `a_post_ends_a_wait_without_end` | sim |
//! |  |  | `a_wake_without_a_packet_ends_a_wait` | sim |
//! |  |  | `many_wakes_make_one` |  |
//! |  |  | `a_full_inbox_gives_the_packet_back` |  |
//! |  |  | `a_port_that_is_gone_gives_the_packet_back` |  |
//! |  |  | `packets_that_do_not_fit_come_with_the_next_dequeue` |  |
//! |  |  | `a_dequeue_that_is_not_full_leaves_no_packet` |  |
//! |  |  | `packets_and_bytes_come_side_by_side` |  |
//! | INV-PORT-8 | `limits` | `a_oneshot_receive_brings_no_more_than_it_may` |  |
//! |  |  | `a_multishot_receive_is_over_when_it_has_brought_all_that_it_may` |  |
//! |  |  | `a_limit_counts_all_completions_together` |  |
//! |  |  | `a_limit_below_one_buffer_is_kept_to_the_byte` |  |
//! |  |  | `a_receive_at_its_limit_can_be_cancelled_and_closed` |  |
//! |  |  | `a_limit_is_kept_by_a_receive_that_waited_for_a_buffer` |  |
//! |  |  | `a_peer_that_ends_at_the_limit_is_heard_by_the_next_receive` |  |
//! | INV-PORT-9 | `questions` | `a_receive_of_no_bytes_says_when_there_are_some` |  |
//! |  |  | `a_receive_of_no_bytes_if_ready_answers_at_once` |  |
//! |  |  | `what_was_received_is_not_there_any_more` |  |
//! |  |  | `a_question_finds_the_end_of_the_stream` |  |
//! |  |  | `a_question_finds_a_peer_that_has_reset` |  |
//! |  |  | `bytes_before_the_end_are_found_before_it` |  |
//! |  |  | `an_empty_pool_does_not_hold_a_question_up` |  |
//! |  |  | `a_question_can_be_cancelled_and_closed_under` |  |
//! |  |  | `a_port_that_is_dropped_with_questions_ends_its_links` |  |
//! | INV-PORT-10 | `bulk` | `a_stream_that_fills_buffers_comes_in_large_ones` |  |
//! |  |  | `a_trickle_comes_in_small_buffers_again` |  |
//! |  |  | `while_no_large_buffer_is_free_small_ones_serve` |  |
//! |  |  | `a_large_buffer_keeps_to_the_limit_of_its_receive` |  |
//! |  |  | `links_that_wait_after_bulk_hold_no_large_buffer` |  |
//! |  |  | `a_port_that_is_dropped_with_receives_into_large_buffers_frees_all` |  |
//! | beside the numbers | `beyond` | `a_wait_lasts_as_long_as_its_timeout` |  |
//! |  |  | `a_timeout_of_zero_returns_at_once` |  |
//! |  |  | `a_dequeue_with_something_there_does_not_wait` |  |
//! |  |  | `completions_are_appended_up_to_the_capacity` |  |
//! |  |  | `the_counters_and_the_clock_only_rise` |  |
//! |  |  | `a_link_whose_peer_has_shut_down_can_still_send` |  |
//! |  |  | `a_shutdown_ends_the_stream_after_the_last_byte` |  |
//! |  |  | `a_link_that_has_shut_down_can_still_receive` |  |
//! |  |  | `a_close_after_a_send_loses_no_byte` |  |
//! |  |  | `acknowledged_bytes_tell_a_reader_from_one_that_has_stopped` | iocp |
//! |  |  | `unread_bytes_are_those_that_no_receive_has_taken` |  |
//! |  |  | `the_local_address_is_where_the_peer_has_connected_to` |  |
//! |  |  | `a_value_out_of_its_range_is_refused_with_its_name_and_range` |  |
//! |  | `provided` | `a_lower_count_takes_effect_as_provided_buffers_are_used` |  |
//! |  |  | `one_provided_buffer_serves_many_links` |  |
//! |  |  | `without_provided_buffers_receives_wait_until_the_count_is_raised` |  |
//! | all at once | `crowd` | `a_crowd_of_links_keeps_every_promise` |  |

mod beyond;
mod bulk;
mod checker;
mod crowd;
mod exactly_once;
mod fairness;
mod generations;
mod idle;
mod limits;
pub(crate) mod network;
mod order;
mod ownership;
mod pool_empty;
mod posts;
mod provided;
mod questions;
mod real;
mod sim_network;

/// Compares the table above with the sources: each name in it is a test, each test is in it.
#[test]
fn the_table_of_promises_names_every_test() {
    let sources = [
        include_str!("beyond.rs"),
        include_str!("bulk.rs"),
        include_str!("crowd.rs"),
        include_str!("exactly_once.rs"),
        include_str!("fairness.rs"),
        include_str!("generations.rs"),
        include_str!("idle.rs"),
        include_str!("limits.rs"),
        include_str!("order.rs"),
        include_str!("ownership.rs"),
        include_str!("pool_empty.rs"),
        include_str!("posts.rs"),
        include_str!("questions.rs"),
        include_str!("provided.rs"),
    ];
    let table = include_str!("mod.rs").lines().filter(|line| line.starts_with("//! | "));
    let mut listed: Vec<_> = table
        .filter_map(|line| {
            let mut columns = line.split('|').skip(3).map(str::trim);
            let name = columns.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((name, columns.next()?))
        })
        .collect();
    let mut tests: Vec<_> = sources
        .iter()
        .filter_map(|source| source.split("each_back_end!(").nth(1)?.split(");").next())
        .flat_map(|tests| tests.split("except "))
        .flat_map(|names| {
            let (not_on, names) = names.split_once(": ").unwrap_or(("", names));
            let lines = names.lines().filter(|line| !line.trim().starts_with("//"));
            lines
                .flat_map(|line| line.split([',', ';']))
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(move |name| (name, not_on))
        })
        .collect();
    listed.sort_unstable();
    tests.sort_unstable();
    assert_eq!(listed, tests);
    assert!(tests.len() > sources.len());
}
