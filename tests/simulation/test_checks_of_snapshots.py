"""The checks of snapshots: each of them can fail."""

from __future__ import annotations

import pytest

from raftkv.kv import StateMachine
from raftkv.kv_snapshot import encode, meta_of
from raftkv.memory_storage import MemoryStorage
from raftkv.raft.types import Entry, EntryKind, HardState, LogPosition, SnapshotMeta
from tests.simulation.checks import Checks
from tests.simulation.world import Clock, Violation, World

LOG = [Entry(i, 1, EntryKind.TEXT, b"SET k %d" % i) for i in range(1, 10)]


class Member:
    """Member 1, whose log of nine entries is committed as a whole; the checks have seen it all."""

    def __init__(self) -> None:
        world = World(seed=1)
        self.checks = Checks(world, trusts_clocks=True)
        self.checks.watch(1, Clock(world, rate=1.0, start=0.0))
        self.storage = MemoryStorage()
        self.storage.persist(HardState(term=1), LOG, 9)
        self.checks.committed += LOG
        self.checks.persisting(1, HardState(term=1), LOG, 9)
        self.checks.persisted(1)
        for entry, machine in zip(LOG, self._states(), strict=True):
            assert machine.applied_index == entry.index
            self.checks.compare(1, machine)

    def _states(self) -> list[StateMachine]:
        return [self.state(index) for index in range(1, 10)]

    def state(self, index: int) -> StateMachine:
        machine = StateMachine()
        for entry in LOG[:index]:
            machine.apply(entry)
        return machine

    def adopt(self, index: int, keep_from: int, state: StateMachine | None = None, tell: bool = True) -> None:
        frozen = (state or self.state(index)).freeze()
        meta, content = meta_of(frozen, b""), b"".join(encode(frozen, b""))
        if tell:
            self.checks.adopting(1, meta, content)
        writer = self.storage.begin_snapshot()
        writer.write(content)
        writer.finish()
        self.storage.adopt_snapshot(meta, writer, keep_from)
        if tell:
            self.checks.adopted(1, self.storage.first_index())


def test_a_restart_from_a_snapshot_and_the_rest_of_the_log_is_well() -> None:
    member = Member()
    member.adopt(6, keep_from=4)
    member.checks.recovered(1, member.storage)
    member.adopt(9, keep_from=10)
    member.checks.recovered(1, member.storage)


def test_a_snapshot_that_was_under_way_may_be_found_or_not() -> None:
    for is_there in (False, True):
        member = Member()
        frozen = member.state(6).freeze()
        member.checks.adopting(1, meta_of(frozen, b""), b"".join(encode(frozen, b"")))
        if is_there:
            member.adopt(6, keep_from=7, tell=False)
        member.checks.recovered(1, member.storage)
        if is_there:
            member.adopt(7, keep_from=1)


def test_a_restart_without_the_snapshot_that_was_adopted_is_noticed() -> None:
    member = Member()
    earlier = member.storage
    member.storage = MemoryStorage()
    member.storage.persist(HardState(term=1), LOG, 9)
    member.adopt(6, keep_from=1)
    with pytest.raises(Violation, match="snapshot to 0, log from 1 to 9"):
        member.checks.recovered(1, earlier)


def test_a_restart_from_a_snapshot_that_was_never_adopted_is_noticed() -> None:
    member = Member()
    member.adopt(6, keep_from=1, tell=False)
    with pytest.raises(Violation, match="snapshot to 6, log from 1 to 9"):
        member.checks.recovered(1, member.storage)


def test_hazard_34_a_gap_between_snapshot_and_log_is_noticed() -> None:
    member = Member()
    member.adopt(6, keep_from=7)
    member.storage._previous = LogPosition(1, 7)
    del member.storage._entries[0]
    with pytest.raises(Violation, match="has a snapshot up to 6, and a log from 8 on"):
        member.checks.recovered(1, member.storage)


def test_a_wrong_term_before_the_log_is_noticed() -> None:
    member = Member()
    member.adopt(6, keep_from=7)
    member.storage._previous = LogPosition(0, 6)
    with pytest.raises(Violation, match="has forgotten"):
        member.checks.recovered(1, member.storage)


def test_hazard_14_a_snapshot_of_another_state_is_noticed() -> None:
    member, other = Member(), Member().state(5)
    other.apply(Entry(6, 1, EntryKind.TEXT, b"SET k another"))
    with pytest.raises(Violation, match="not that of the others"):
        member.adopt(6, keep_from=7, state=other)


def test_a_snapshot_of_what_is_not_committed_is_noticed() -> None:
    member = Member()
    del member.checks.committed[5:]
    with pytest.raises(Violation, match="which was never committed"):
        member.adopt(6, keep_from=7)


def test_a_snapshot_older_than_the_last_one_is_noticed() -> None:
    member = Member()
    member.adopt(6, keep_from=1)
    member.storage.snapshot = None
    with pytest.raises(Violation, match="after one up to entry 6"):
        member.adopt(6, keep_from=1)


def test_a_snapshot_that_says_something_else_of_itself_is_noticed() -> None:
    member = Member()
    frozen = member.state(6).freeze()
    with pytest.raises(Violation, match="as one of"):
        member.checks.adopting(1, SnapshotMeta(LogPosition(1, 5)), b"".join(encode(frozen, b"")))
