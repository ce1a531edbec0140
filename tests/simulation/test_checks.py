"""The checks of the cluster as a whole: each of them can fail."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from raftkv.kv import StateMachine
from raftkv.memory_storage import MemoryStorage
from raftkv.operations import Batch, Code, Operation, encode_batch
from raftkv.raft.messages import AppendEntries, AppendEntriesReply, RequestVoteReply
from raftkv.raft.types import ORIGIN, Configuration, Entry, EntryKind, HardState
from tests.simulation.checks import Checks
from tests.simulation.world import Clock, Violation, World


@pytest.fixture
def checks() -> Checks:
    world = World(seed=1)
    checks = Checks(world, trusts_clocks=True)
    checks.configuration = Configuration(frozenset({1, 2, 3}))
    for member in (1, 2, 3):
        checks.watch(member, Clock(world, rate=1.0, start=0.0))
    return checks


def entry(index: int, term: int, payload: bytes = b"SET k v") -> Entry:
    return Entry(index, term, EntryKind.TEXT, payload)


def persist(checks: Checks, member: int, hard_state: HardState | None, *entries: Entry) -> None:
    checks.persisting(member, hard_state, entries, 0)
    checks.persisted(member)


def append(sender: int, term: int) -> AppendEntries:
    return AppendEntries(sender, 3, term, ORIGIN, (), 0, 0, 1)


def test_a_second_leader_of_a_term_is_noticed(checks: Checks) -> None:
    for member in (1, 2):
        persist(checks, member, HardState(term=5, voted_for=member))
    checks.sending(1, append(1, term=5))
    with pytest.raises(Violation, match="leader of term 5, which n1 leads"):
        checks.sending(2, append(2, term=5))


def test_a_second_vote_in_a_term_is_noticed(checks: Checks) -> None:
    persist(checks, 3, HardState(term=5, voted_for=1))
    with pytest.raises(Violation, match="n3 votes for n1 and for n2 in term 5"):
        persist(checks, 3, HardState(term=5, voted_for=2))


def test_a_vote_that_is_not_durable_is_noticed(checks: Checks) -> None:
    persist(checks, 3, HardState(term=5))
    with pytest.raises(Violation, match="grants a vote that is not durable"):
        checks.sending(3, RequestVoteReply(3, 1, term=5, granted=True))


def test_a_message_before_its_term_is_durable_is_noticed(checks: Checks) -> None:
    with pytest.raises(Violation, match="before its term is durable"):
        checks.sending(1, append(1, term=1))


def test_a_durable_term_that_goes_back_is_noticed(checks: Checks) -> None:
    persist(checks, 1, HardState(term=5))
    with pytest.raises(Violation, match="goes back"):
        persist(checks, 1, HardState(term=4))


def test_an_acknowledgement_of_what_is_not_durable_is_noticed(checks: Checks) -> None:
    persist(checks, 1, HardState(term=1), entry(1, 1))
    reply = AppendEntriesReply(1, 2, term=1, success=True, round=1, match_index=1)
    checks.sending(1, reply)
    with pytest.raises(Violation, match="acknowledges what is not durable"):
        checks.sending(1, AppendEntriesReply(1, 2, term=1, success=True, round=1, match_index=2))


def test_two_entries_of_equal_index_and_term_that_differ_are_noticed(checks: Checks) -> None:
    persist(checks, 1, HardState(term=1), entry(1, 1, b"SET k 1"))
    with pytest.raises(Violation, match="Log Matching"):
        persist(checks, 2, HardState(term=1), entry(1, 1, b"SET k 2"))


def test_equal_entries_after_different_ones_are_noticed(checks: Checks) -> None:
    persist(checks, 1, HardState(term=3), entry(1, 1), entry(2, 3))
    with pytest.raises(Violation, match="Log Matching"):
        persist(checks, 2, HardState(term=3), entry(1, 2), entry(2, 3))


@pytest.mark.parametrize(("committed_in", "is_noticed"), [(2, True), (3, False)])
def test_only_for_a_leader_of_before_is_a_committed_entry_dropped(
    checks: Checks, committed_in: int, is_noticed: bool
) -> None:
    """1 has led term 1. The leader of term 2 does not have entry 2, that of term 3 does."""
    for member in (1, 2, 3):
        persist(checks, member, HardState(term=1), entry(1, 1), entry(2, 1))
    checks.committed += [entry(1, 1), entry(2, 1)]
    checks.committed_in[2] = committed_in
    with pytest.raises(Violation) if is_noticed else nullcontext():
        persist(checks, 1, HardState(term=3), entry(2, 2))


def test_what_a_majority_holds_no_more_is_dropped_for_nobody(checks: Checks) -> None:
    for member in (1, 2):
        persist(checks, member, HardState(term=1), entry(1, 1), entry(2, 1))
    checks.committed += [entry(1, 1), entry(2, 1)]
    checks.committed_in[2] = 3
    with pytest.raises(Violation, match="n1 drops the committed entry 2 of term 1"):
        persist(checks, 1, HardState(term=3), entry(2, 2))


def test_a_committed_entry_is_not_dropped_for_a_leader_of_before_by_who_has_heard_a_later_one(checks: Checks) -> None:
    persist(checks, 1, HardState(term=3), entry(1, 1), entry(2, 1))
    checks.committed += [entry(1, 1), entry(2, 1)]
    checks.committed_in[2] = 3
    with pytest.raises(Violation, match="n1 drops the committed entry 2 of term 1"):
        persist(checks, 1, HardState(term=4), entry(2, 2))


def test_a_committed_entry_that_is_dropped_is_noticed(checks: Checks) -> None:
    persist(checks, 1, HardState(term=2), entry(1, 1), entry(2, 1))
    checks.committed += [entry(1, 1), entry(2, 1)]
    with pytest.raises(Violation, match="n1 drops the committed entry 2 of term 1"):
        persist(checks, 1, None, entry(2, 2))


def test_a_different_entry_applied_at_an_index_is_noticed(checks: Checks) -> None:
    checks.committed += [entry(1, 1, b"SET k 1")]
    machine = StateMachine()
    machine.apply(entry(1, 1, b"SET k 2"))
    with pytest.raises(Violation, match="State Machine Safety"):
        checks.applied(2, entry(1, 1, b"SET k 2"), machine, 0)


def test_a_write_that_is_carried_out_twice_is_noticed(checks: Checks) -> None:
    payload = encode_batch(Batch([Operation(Code.SET, b"k", b"unique")]))
    machine = StateMachine()
    for index in (1, 2):
        checks.committed.append(Entry(index, 1, EntryKind.BATCH, payload))
    machine.apply(checks.committed[0])
    checks.applied(1, checks.committed[0], machine, 0)
    machine.apply(checks.committed[1])
    with pytest.raises(Violation, match="written by entry 1 and by entry 2 again"):
        checks.applied(1, checks.committed[1], machine, 1)


def test_states_that_differ_after_the_same_entries_are_noticed(checks: Checks) -> None:
    machines = StateMachine(), StateMachine()
    machines[0].apply(entry(1, 1, b"SET k 1"))
    machines[1].apply(entry(1, 1, b"SET k 2"))
    checks.compare(1, machines[0])
    with pytest.raises(Violation, match="not that of the others"):
        checks.compare(2, machines[1])


def test_a_start_that_finds_less_than_was_durable_is_noticed(checks: Checks) -> None:
    found = MemoryStorage()
    found.persist(HardState(term=1), [entry(1, 1)], 0)
    persist(checks, 1, HardState(term=1), entry(1, 1))
    checks.recovered(1, found)
    persist(checks, 1, None, entry(2, 1))
    with pytest.raises(Violation, match="recovers"):
        checks.recovered(1, found)


@pytest.mark.parametrize(("length", "is_well"), [(0, True), (1, False), (2, True)])
def test_a_batch_under_way_may_be_found_or_not_but_not_by_half(checks: Checks, length: int, is_well: bool) -> None:
    batch = [entry(1, 1), entry(2, 1)]
    found = MemoryStorage()
    found.persist(HardState(term=1), batch[:length], 0)
    checks.persisting(1, HardState(term=1), batch, 0)
    if is_well:
        checks.recovered(1, found)
    else:
        with pytest.raises(Violation, match="log from 1 to 1"):
            checks.recovered(1, found)


def test_what_a_later_leader_has_replaced_may_still_be_acknowledged_to_the_earlier_one(checks: Checks) -> None:
    """Both arrived in one turn: the acknowledgement is of the time before. It can't commit anything that is gone:
    whoever voted for the later leader acknowledged to the earlier one before, or not at all."""
    persist(checks, 1, HardState(term=1), entry(1, 1), entry(2, 1))
    persist(checks, 1, HardState(term=2), entry(1, 2))
    checks.sending(1, AppendEntriesReply(1, 2, term=1, success=True, round=1, match_index=2))
    with pytest.raises(Violation, match="acknowledges what is not durable"):
        checks.sending(1, AppendEntriesReply(1, 2, term=2, success=True, round=1, match_index=2))
