"""Bugs that real Raft systems shipped, as far as a state machine alone can have them (the numbers are HAZARDS.md's)."""

from __future__ import annotations

import random

import pytest

from raftkv.operations import Operation, Result
from raftkv.raft.types import EntryKind
from raftkv.records import Layers, Records
from tests.kv.driving import (
    DONE,
    MALFORMED,
    NOT_DONE,
    SESSION_UNKNOWN,
    SETTINGS,
    Driver,
    replayed,
    set_,
    set_if_absent,
    wrap_parts,
)
from tests.kv.test_model import random_log


def test_hazard_14_a_machine_stopped_after_any_entry_and_rebuilt_is_the_one_that_never_stopped() -> None:
    log = random_log(seed=14, entries=120)
    survivor = replayed([])
    for i, entry in enumerate(log, start=1):
        survivor.apply(entry)
        assert replayed(log[:i]).digest() == survivor.digest()


def test_hazard_14_the_applied_index_is_not_seen_before_the_effects() -> None:
    """A reader without the turn takes the index for a promise."""
    driver = Driver()
    before = driver.machine.applied_index
    seen_during_writes = []

    class Part(dict[bytes, bytes]):
        def __setitem__(self, key: bytes, value: bytes) -> None:
            seen_during_writes.append(driver.machine.applied_index)
            super().__setitem__(key, value)

    records = Records()
    wrap_parts(records, Part)
    driver.machine._records = Layers(records)
    driver.batch(set_(b"a", b"1"), set_(b"b", b"1"))
    assert seen_during_writes == [before, before]
    assert driver.machine.applied_index == before + 1


def test_hazard_36_a_change_of_leader_loses_no_state() -> None:
    driver = Driver()
    session = driver.open_session()
    driver.batch(set_(b"k", b"1", 1), session=session)
    for _ in range(3):
        driver.change_leader()
    assert driver.machine.get(b"k") == b"1"
    assert driver.machine.cluster_id == SETTINGS.cluster_id
    assert driver.batch(set_(b"k", b"2", 1), session=session) == [DONE], "the session's answers outlive leaders too"
    assert driver.machine.get(b"k") == b"1"
    assert replayed(driver.log).digest() == driver.machine.digest()


def test_hazard_47_a_retry_through_another_leader_is_not_applied_again() -> None:
    driver = Driver()
    session = driver.open_session()
    assert driver.batch(set_if_absent(b"lock", b"mine", 1), session=session) == [DONE]
    driver.change_leader()  # the reply was lost with the old one
    assert driver.batch(set_if_absent(b"lock", b"mine", 1), session=session) == [DONE]
    assert driver.machine.revision == 1


@pytest.mark.parametrize("kind", [EntryKind.BATCH, EntryKind.TEXT])
@pytest.mark.parametrize("garbage", [b"", b"\x00", b"\xff" * 100, b"\x01" * 100, b"SET", b"SET k \xff"])
def test_hazard_54_committed_garbage_gets_an_error_result_and_changes_nothing_else(
    kind: EntryKind, garbage: bytes
) -> None:
    driver = Driver()
    driver.batch(set_(b"k", b"1"))
    assert driver.apply(kind, garbage) == [MALFORMED]
    assert driver.machine.revision == 1
    assert driver.batch(set_(b"k", b"2")) == [DONE]
    assert replayed(driver.log).digest() == driver.machine.digest()


def test_hazard_54_garbage_after_good_operations_spoils_the_whole_batch() -> None:
    driver = Driver()
    driver.batch(set_(b"k", b"1"), set_(b"k", b"2"))
    for cut in range(1, len(driver.log[-1].payload)):
        assert driver.apply(EntryKind.BATCH, driver.log[1].payload[:-cut]) == [MALFORMED]
    assert driver.machine.revision == 2


@pytest.mark.parametrize("seed", range(30))
def test_hazard_55_retries_regrouped_and_reordered_are_applied_once_and_answered_as_at_first(seed: int) -> None:
    rng = random.Random(seed)
    driver = Driver()
    driver.change_leader(max_unanswered=100)
    session = driver.open_session()
    operations: list[Operation] = [set_if_absent(b"%d" % (i // 2), b"v", sequence=i) for i in range(1, 40)]
    first_answers: dict[int, Result] = {}
    for _ in range(20):
        group = rng.sample(operations, rng.randrange(1, 12))
        for operation, result in zip(group, driver.batch(*group, session=session), strict=True):
            assert first_answers.setdefault(operation.sequence, result) == result
    done = [sequence for sequence, result in first_answers.items() if result == DONE]
    assert driver.machine.revision == len(done) == len(driver.machine)
    assert set(first_answers.values()) == {DONE, NOT_DONE}


def test_hazard_55_a_later_number_does_not_hide_the_retry_of_an_earlier_one() -> None:
    driver = Driver()
    session = driver.open_session()
    assert driver.batch(set_(b"late", b"1", 2), session=session) == [DONE]
    assert driver.batch(set_(b"early", b"1", 1), session=session) == [DONE]
    assert driver.machine.get(b"early") == b"1"


def test_hazard_56_a_retry_in_an_expired_session_is_not_applied_as_if_new() -> None:
    driver = Driver()
    session = driver.open_session()
    driver.batch(set_(b"k", b"1", 1), session=session)
    driver.time_ms += SETTINGS.session_timeout_ms + 1
    assert driver.batch(set_(b"k", b"1", 1), session=session) == [SESSION_UNKNOWN]
    assert driver.machine.revision == 1


def test_hazard_56_a_retry_in_an_evicted_session_is_not_applied_as_if_new() -> None:
    driver = Driver()
    session = driver.open_session()
    driver.batch(set_(b"k", b"1", 1), session=session)
    for _ in range(SETTINGS.max_sessions):
        driver.open_session()
    assert driver.batch(set_(b"k", b"1", 1), session=session) == [SESSION_UNKNOWN]
    assert driver.machine.revision == 1
