"""A snapshot for somebody who wants one that is no older than an entry: for backups."""

from __future__ import annotations

from dataclasses import replace

from raftkv.kv_snapshot import check
from raftkv.log_storage import SnapshotReader
from raftkv.snapshots import SnapshotFailed, SnapshotWanted
from tests.replica.test_snapshots import POLICY, Lone

NEVER = replace(POLICY, log_bytes=1 << 40)
"""Nothing is saved that nobody wants."""


class Wanting:
    def __init__(self, lone: Lone, index: int | None = None) -> None:
        self.answers: list[SnapshotReader | str] = []
        lone.turn(SnapshotWanted(lone.machine.applied_index if index is None else index, self.answers.append))

    def last_index(self) -> int:
        (answer,) = self.answers
        assert not isinstance(answer, str)
        return check(answer).meta.last.index


def test_what_is_wanted_is_saved_at_once_and_handed_out_when_it_is_durable() -> None:
    lone = Lone(policy=NEVER)
    lone.fill(3)
    wanting = Wanting(lone)
    assert len(lone.saver.saves) == 1
    assert not wanting.answers
    lone.fill(2)
    lone.turn(lone.saver.write())
    assert wanting.last_index() == lone.machine.applied_index - 2


def test_a_snapshot_that_is_new_enough_is_handed_out_as_it_is() -> None:
    lone = Lone(policy=NEVER)
    lone.fill(3)
    first = Wanting(lone)
    lone.turn(lone.saver.write())
    second = Wanting(lone)
    assert len(lone.saver.saves) == 1
    assert first.last_index() == second.last_index() == lone.machine.applied_index


def test_a_save_that_was_under_way_is_too_old_and_the_next_one_begins_as_soon_as_it_is_done() -> None:
    lone = Lone(policy=NEVER)
    lone.fill(3)
    first = Wanting(lone)
    lone.fill(2)
    second = Wanting(lone)
    assert len(lone.saver.saves) == 1
    lone.turn(lone.saver.write())
    assert first.last_index() == lone.machine.applied_index - 2
    assert not second.answers
    assert len(lone.saver.saves) == 2, "without waiting for the next write, which may never come"
    lone.turn(lone.saver.write())
    assert second.last_index() == lone.machine.applied_index


def test_a_save_that_fails_is_told_at_once_and_the_next_wish_does_not_wait_for_the_usual_time() -> None:
    lone = Lone(policy=NEVER)
    lone.fill(3)
    wanting = Wanting(lone)
    lone.turn(SnapshotFailed(lone.saver.saves[-1], "disk full"))
    assert wanting.answers == ["the state could not be saved: disk full"]
    again = Wanting(lone)
    lone.turn(lone.saver.write())
    assert again.last_index() == lone.machine.applied_index


def test_who_waits_when_the_member_stops_is_told_so() -> None:
    lone = Lone(policy=NEVER)
    lone.fill(3)
    wanting = Wanting(lone)
    lone.replica.abandon("the node is stopping")
    assert wanting.answers == ["the node is stopping"]
