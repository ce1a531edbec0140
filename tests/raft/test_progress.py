"""What a leader knows of one follower."""

from __future__ import annotations

import pytest

from raftkv.raft.progress import Progress, State


def replicating(match: int = 3) -> Progress:
    progress = Progress(next_index=match + 1)
    progress.succeeded(match)
    return progress


def test_it_starts_as_a_probe_that_knows_nothing() -> None:
    progress = Progress(next_index=8)
    assert progress.state is State.PROBE
    assert progress.match_index == 0


def test_a_probe_is_one_request_at_a_time_at_one_place() -> None:
    progress = Progress(next_index=8)
    assert progress.may_send(max_in_flight=2)
    progress.sent(9, now=0.0)
    assert not progress.may_send(max_in_flight=2)
    assert progress.next_index == 8


def test_a_success_ends_the_probing() -> None:
    progress = Progress(next_index=8)
    progress.sent(9, now=0.0)
    assert progress.succeeded(9)
    assert (progress.state, progress.match_index, progress.next_index) == (State.REPLICATE, 9, 10)
    assert progress.may_send(max_in_flight=1)


def test_a_success_below_the_probes_place_is_where_to_go_on_from() -> None:
    progress = Progress(next_index=8)
    progress.succeeded(4)  # the late answer to an earlier probe, further down
    assert (progress.state, progress.next_index) == (State.REPLICATE, 5)


def test_a_new_probe_may_be_sent_at_once() -> None:
    progress = Progress(next_index=8)
    progress.sent(9, now=0.0)
    progress.succeeded(9)
    progress.sent(11, now=1.0)
    progress.probe(10)  # the answer is overdue
    assert progress.may_send(max_in_flight=1)


def test_entries_go_out_ahead_of_the_answers_as_far_as_the_window_allows() -> None:
    progress = replicating(match=3)
    progress.sent(5, now=0.0)
    progress.sent(7, now=0.0)
    assert progress.next_index == 8
    assert not progress.may_send(max_in_flight=2)
    progress.succeeded(5)
    assert progress.may_send(max_in_flight=2)
    assert progress.next_index == 8, "an answer to the first request does not call back the second"


def test_one_answer_stands_for_all_requests_that_it_covers() -> None:
    progress = replicating(match=3)
    progress.sent(5, now=0.0)
    progress.sent(7, now=0.0)
    progress.succeeded(7)
    assert not progress.in_flight


@pytest.mark.parametrize("state", State)
def test_hazard_29_an_answer_that_comes_late_never_lowers_the_match_index(state: State) -> None:
    progress = replicating(match=7)
    if state is State.PROBE:
        progress.probe(8)
    assert not progress.succeeded(4)
    assert progress.match_index == 7
    assert progress.next_index == 8


def test_a_match_beyond_what_was_sent_moves_the_next_index_along() -> None:
    progress = replicating(match=3)
    assert progress.succeeded(6)  # sent before a probe that has forgotten it
    assert progress.next_index == 7


def test_a_success_that_says_nothing_new_is_no_news() -> None:
    progress = replicating(match=3)
    assert not progress.succeeded(3)


def test_probing_never_goes_below_what_is_known_to_match() -> None:
    progress = replicating(match=5)
    progress.probe(2)
    assert progress.next_index == 6


def test_probing_forgets_what_is_in_flight() -> None:
    progress = replicating(match=3)
    progress.sent(5, now=0.0)
    progress.probe(4)
    assert not progress.in_flight
    assert progress.may_send(max_in_flight=1)


@pytest.mark.parametrize(("rejected", "stale"), [(6, True), (7, False), (8, True), (0, True)])
def test_a_probing_leader_listens_to_the_rejection_of_its_probe_alone(rejected: int, stale: bool) -> None:
    assert Progress(next_index=8).is_stale_rejection(rejected) is stale


@pytest.mark.parametrize(("rejected", "stale"), [(2, True), (3, True), (4, False), (5, False)])
def test_a_replicating_leader_knows_better_than_a_rejection_of_what_matches(rejected: int, stale: bool) -> None:
    assert replicating(match=3).is_stale_rejection(rejected) is stale


def test_a_failed_call_leads_back_to_a_probe_that_waits_for_the_heartbeat() -> None:
    progress = replicating(match=3)
    progress.sent(5, now=0.0)
    progress.interrupted()
    assert (progress.state, progress.next_index) == (State.PROBE, 4)
    assert not progress.may_send(max_in_flight=2)


def test_a_failed_probe_keeps_its_place() -> None:
    progress = Progress(next_index=8)
    progress.interrupted()
    assert (progress.state, progress.next_index) == (State.PROBE, 8)
    assert not progress.may_send(max_in_flight=2)


def test_hazard_27_an_answer_is_overdue_once_the_oldest_request_has_waited_too_long() -> None:
    progress = replicating(match=3)
    assert not progress.is_overdue(now=100.0, patience=0.5)
    progress.sent(5, now=1.0)
    progress.sent(7, now=1.4)
    assert not progress.is_overdue(now=1.5, patience=0.5)
    assert progress.is_overdue(now=1.6, patience=0.5)
    progress.succeeded(5)
    assert not progress.is_overdue(now=1.6, patience=0.5)


# ---- while a snapshot is on its way ----------------------------------------------------------------------------------


def awaiting_snapshot() -> Progress:
    """The follower has 3 and lacks 4, which has been compacted."""
    progress = replicating(match=3)
    progress.sent(5, now=0.0)
    progress.probe(4)
    progress.await_snapshot(7)
    return progress


def test_nothing_is_sent_while_a_snapshot_is_on_its_way() -> None:
    progress = awaiting_snapshot()
    assert not progress.may_send(max_in_flight=2)
    assert not progress.is_overdue(now=99.0, patience=1.0)


@pytest.mark.parametrize("match", [0, 3])
def test_an_answer_that_says_nothing_of_what_is_lacking_does_not_end_the_wait(match: int) -> None:
    progress = awaiting_snapshot()
    assert not progress.succeeded(match)
    assert (progress.state, progress.match_index) == (State.SNAPSHOT, 3)


def test_once_the_follower_has_what_it_lacked_entries_follow() -> None:
    progress = awaiting_snapshot()
    assert progress.succeeded(8)
    assert (progress.state, progress.match_index, progress.next_index) == (State.REPLICATE, 8, 9)


def test_what_comes_after_the_snapshot_is_still_to_be_sent() -> None:
    progress = awaiting_snapshot()
    assert progress.needs_from == 8
    progress.interrupted()
    assert progress.needs_from == 4, "it has to be sent again, from wherever it ends then"


def test_no_rejection_speaks_of_a_snapshot() -> None:
    assert awaiting_snapshot().is_stale_rejection(3)


def test_a_snapshot_that_may_be_lost_is_not_sent_again_before_the_follower_answers() -> None:
    progress = awaiting_snapshot()
    progress.interrupted()
    assert (progress.state, progress.next_index) == (State.PROBE, 4)
    assert not progress.may_send(max_in_flight=2)
