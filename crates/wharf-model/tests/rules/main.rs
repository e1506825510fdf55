//! Promise: the rules of the README, one by one.
//!
//! Method: small handlers that would break a rule if they could; a check that draws runs with several
//! seeds. `planted_bugs_are_found_by_rules` breaks each rule and runs the checks again.
#![cfg(test)]
#![expect(clippy::disallowed_types, reason = "handlers note what they have seen")]

#[path = "../common/mod.rs"]
mod common;
mod deferral;
mod ends;
mod errors;
mod input;
mod loans;
mod posts;
mod shares;

use common::{Check, SEEDS, find};
use wharf_model::ModelBug;

/// Makes a test of each check, and a list of all of them.
macro_rules! checks {
    ($($module:ident: $($name:ident)+;)+) => {
        const CHECKS: &[Check] = &[$($((stringify!($name), $module::$name),)+)+];
        $($(
            #[test]
            fn $name() {
                $module::$name(SEEDS);
            }
        )+)+
    };
}

checks! {
    errors:
        an_error_of_on_end_closes_the_link
        a_limit_is_at_least_two_grants
        a_reply_above_the_grant_waits_or_is_the_handlers_fault
        a_refused_message_is_tried_again_when_it_fits
        a_link_with_a_partner_asks_for_its_own_output
        the_partners_error_closes_the_link_that_returned_it
        what_can_never_be_is_an_error_at_once
        a_panic_resets_its_link_and_the_worker_goes_on;
    input:
        rewind_returns_to_the_mark
        rewind_does_not_return_forwarded_bytes
        resume_wakes_a_link_that_was_kept_with_unread_input
        a_paused_link_is_called_for_nothing_until_it_is_resumed
        more_capacity_calls_a_link_that_asked_for_nothing
        what_take_asked_for_wins_over_more_capacity
        a_link_has_a_budget_of_calls_in_a_turn
        what_came_before_a_reset_is_handled
        small_pieces_do_not_pin_buffers;
    deferral:
        a_deferral_holds_the_input_so_replies_keep_their_order
        a_reply_ends_by_none_or_by_close
        a_dropped_or_too_long_reply_closes_the_link
        a_late_reply_finds_its_link_closed
        a_close_waits_for_the_deferred_reply
        a_reply_within_the_guarantee_waits_for_the_links_own_send;
    ends:
        a_goodbye_at_the_end_has_its_grant
        a_finished_partner_does_not_make_a_link_deaf
        on_writable_comes_only_when_it_is_owed
        close_in_a_stream_sends_what_is_queued
        a_stream_goes_on_after_the_peers_half_has_ended
        a_failed_connect_undoes_all
        bits_wait_while_the_pool_has_the_link
        a_panic_of_one_partner_reaches_the_other
        a_link_is_idle_when_the_peer_owes_something
        a_drain_handles_and_sends_what_began_before_it
        a_drain_handles_unread_input_of_a_paused_link
        a_drain_is_told_to_a_handler_that_fills_its_output
        keep_at_a_drain_is_until_close_or_the_drain_timeout;
    posts:
        posts_leave_free_what_the_handler_was_promised
        a_post_that_does_not_fit_disconnects_if_that_is_asked_for
        posts_to_itself_follow_what_the_callback_queued
        posts_have_an_account_of_their_own
        posts_and_replies_share_an_output;
    loans:
        small_messages_get_through_whatever_others_hold
        the_largest_holder_is_closed_after_loan_wait_and_not_before
        a_slow_reader_gives_its_loan_back
        a_steady_reader_keeps_its_loan
        a_link_that_waits_for_its_own_reply_is_spared
        whole_messages_leave_buffers_for_their_replies
        two_whole_messages_leave_buffers_for_the_longest_reply
        messages_in_pieces_do_not_stop_each_other
        a_send_in_flight_pins_its_buffers
        a_link_waits_for_its_own_send_and_not_for_a_loan
        what_the_first_waiter_needs_is_reserved_for_it
        nothing_is_lost_and_nothing_is_stuck_in_a_small_pool
        incomplete_messages_stop_no_link_for_long;
    shares:
        shares_hold_for_all_settings
        victims_are_as_many_as_it_takes_and_no_more;
}

#[test]
fn incomplete_messages_of_273_stop_no_link() {
    loans::incomplete_messages_of_273_stop_no_link();
}

#[test]
fn planted_bugs_are_found_by_rules() {
    let found_by_programs = [
        ModelBug::NoCallAfterTaking,
        ModelBug::NeverWritable,
        ModelBug::WaitsForOwnOutput,
        ModelBug::CloseDropsQueued,
        ModelBug::ReplyCausesNoCall,
    ];
    let others = ModelBug::ALL.iter().filter(|bug| !found_by_programs.contains(bug));
    find(&others.copied().collect::<Vec<_>>(), CHECKS);
}
