"""The pieces of the lease: what a voter has promised, a leader's rounds, and the grant that follows from them.

What they add up to is in test_lease_rules.py.
"""

from __future__ import annotations

import math

import pytest

from raftkv.raft.lease import Grant, Promises, Rounds

VOTERS = {1, 2, 3, 4, 5}


def test_a_grant_is_valid_before_its_end_and_not_at_it() -> None:
    grant = Grant(term=1, until=2.0)
    assert grant.is_valid(1.999)
    assert not grant.is_valid(2.0)


# ---- Promises --------------------------------------------------------------------------------------------------------


def test_who_has_promised_nothing_has_nothing_to_wait_for() -> None:
    promises = Promises(clock_drift=0.01)
    assert promises.until() == -math.inf
    assert promises.remaining_ms(now=0.0) == 0


def test_a_promise_is_lengthened_by_the_drift() -> None:
    promises = Promises(clock_drift=0.1)
    promises.promise(leader=1, term=1, duration_ms=1000, now=5.0)
    assert promises.until() == pytest.approx(6.1)


def test_what_remains_is_rounded_up_to_whole_milliseconds() -> None:
    promises = Promises(clock_drift=0.0)
    promises.promise(leader=1, term=1, duration_ms=100, now=0.0)
    assert promises.remaining_ms(now=0.0) == 100
    assert promises.remaining_ms(now=0.0504) == 50
    assert promises.remaining_ms(now=0.0999) == 1
    assert promises.remaining_ms(now=0.1) == 0
    assert promises.remaining_ms(now=7.0) == 0


def test_hazard_59_a_shorter_promise_does_not_cut_a_longer_one_short() -> None:
    promises = Promises(clock_drift=0.0)
    promises.promise(leader=1, term=1, duration_ms=1000, now=0.0)
    promises.promise(leader=1, term=1, duration_ms=10, now=0.5)
    assert promises.until() == pytest.approx(1.0)


def test_hazard_59_a_promise_to_one_leader_outlives_those_to_its_successors() -> None:
    promises = Promises(clock_drift=0.0)
    promises.promise(leader=1, term=1, duration_ms=1000, now=0.0)
    promises.promise(leader=2, term=2, duration_ms=10, now=0.1)
    promises.promise(leader=1, term=3, duration_ms=10, now=0.2)
    assert promises.until() == pytest.approx(1.0)


def test_what_has_run_out_is_forgotten_with_the_next_promise() -> None:
    promises = Promises(clock_drift=0.0)
    for term in range(1, 100):
        promises.promise(leader=1, term=term, duration_ms=10, now=float(term))
    assert promises.until() == pytest.approx(99.01)
    assert len(promises._until) == 1


# ---- Rounds ----------------------------------------------------------------------------------------------------------


def test_before_any_answer_a_majority_was_heard_when_the_term_began() -> None:
    rounds = Rounds(me=1, now=3.0)
    rounds.begin(4.0)
    assert rounds.by_majority(VOTERS) == 0
    assert rounds.majority_heard_at(VOTERS) == 3.0


def test_a_round_counts_once_a_majority_has_acknowledged_it_the_leader_included() -> None:
    rounds = Rounds(me=1, now=0.0)
    rounds.begin(1.0)
    rounds.acknowledge(2, 2, now=0.0)
    assert rounds.by_majority(VOTERS) == 0
    rounds.acknowledge(3, 2, now=0.0)
    assert rounds.by_majority(VOTERS) == 2
    assert rounds.majority_heard_at(VOTERS) == 1.0, "when the round began, not when the answers came"


def test_voters_that_acknowledge_different_rounds_vouch_for_the_earlier_one() -> None:
    rounds = Rounds(me=1, now=0.0)
    for now in (1.0, 2.0, 3.0):
        rounds.begin(now)
    rounds.acknowledge(2, 4, now=0.0)
    rounds.acknowledge(3, 3, now=0.0)
    assert rounds.by_majority(VOTERS) == 3
    assert rounds.majority_heard_at(VOTERS) == 2.0
    rounds.acknowledge(3, 4, now=0.0)
    assert rounds.majority_heard_at(VOTERS) == 3.0


def test_hazard_38_an_answer_of_an_earlier_round_does_not_lower_the_count() -> None:
    rounds = Rounds(me=1, now=0.0)
    rounds.begin(1.0)
    for voter in (2, 3):
        rounds.acknowledge(voter, 2, now=0.0)
        rounds.acknowledge(voter, 1, now=0.0)
    assert rounds.by_majority(VOTERS) == 2


def test_an_acknowledgement_is_news_once() -> None:
    rounds = Rounds(me=1, now=0.0)
    for now in (1.0, 2.0):
        rounds.begin(now)
    assert rounds.acknowledge(2, 2, now=3.0), "though a later round has begun"
    assert not rounds.acknowledge(2, 2, now=4.0)
    assert not rounds.acknowledge(2, 1, now=5.0)
    assert rounds.acknowledge(3, 2, now=6.0), "of another voter"
    assert rounds.acknowledge(2, 3, now=7.0)


def test_a_round_that_never_began_is_not_acknowledged() -> None:
    rounds = Rounds(me=1, now=0.0)
    assert not rounds.acknowledge(2, 99, now=0.0)
    assert not rounds.acknowledge(3, 99, now=0.0)
    assert rounds.by_majority(VOTERS) == 0


def test_a_leader_alone_acknowledges_each_round_by_itself() -> None:
    rounds = Rounds(me=1, now=0.0)
    rounds.begin(1.0)
    assert rounds.by_majority({1}) == 2
    assert rounds.majority_heard_at({1}) == 1.0


def test_a_learner_acknowledges_and_counts_for_nothing() -> None:
    rounds = Rounds(me=1, now=0.0)
    for learner in (7, 8):
        rounds.acknowledge(learner, 1, now=0.0)
    assert rounds.by_majority({1, 2, 3}) == 0


def test_rounds_that_a_majority_has_passed_take_no_room() -> None:
    rounds = Rounds(me=1, now=0.0)
    for now in range(1, 100):
        rounds.begin(float(now))
        rounds.acknowledge(2, rounds.current, now=0.0)
        rounds.by_majority({1, 2, 3})
    assert len(rounds._began) == 1
