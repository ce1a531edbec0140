"""Batches as clients send them: what is done at once for a batch of new numbers is what is done for each of them.

The logs are those of clients that number their writes in a row, and of all that may come between: retries in part,
gaps, numbers twice, below the mark and beyond the window, no space, a state that is frozen or thawing.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from raftkv.kv import Session, StateMachine
from raftkv.operations import Batch, Code, Operation, Result, Status, encode_batch, encode_settings
from raftkv.raft.types import Entry, EntryKind
from tests.kv.driving import (
    CLOSE,
    DONE,
    NOT_DONE,
    OPEN,
    SEQUENCE_STALE,
    SETTINGS,
    TOO_MANY_UNANSWERED,
    Driver,
    delete,
    set_,
    set_if_absent,
)
from tests.kv.test_model import Model
from tests.kv.test_snapshots import restored, saved

REPLAY = "replay: python -m pytest tests/kv/test_batches.py -k 'seed{seed}]'"
MAX_UNANSWERED = 12
OTHER_CODES = [Code.DELETE, Code.DELETE, Code.SET_IF_ABSENT, Code.COMPARE_AND_SET, Code.OPEN_SESSION]


class Writer:
    """A client with one session, as the log shows it."""

    def __init__(self, rng: random.Random, session: int) -> None:
        self.session = session
        self._rng = rng
        self._next = 1
        self._mark = 1

    def batch(self) -> Batch:
        rng = self._rng
        numbers = self._numbers(rng.randrange(1, 7))
        self._next = max(self._next, max(numbers) + 1)
        operations = [self._operation(number) for number in numbers]
        if rng.random() < 0.02:
            operations[rng.randrange(len(operations))] = CLOSE._replace(sequence=rng.choice([0, *numbers]))
        if rng.random() < 0.7:
            self._mark = rng.randrange(max(self._mark, self._next - 9), self._next + 1)
        return Batch(operations, self.session, self._mark if rng.random() < 0.9 else rng.randrange(self._next))

    def _numbers(self, count: int) -> list[int]:
        """Mostly the next ones, in a row."""
        rng = self._rng
        row = list(range(self._next, self._next + count))
        match rng.randrange(16):
            case 0:  # a retry, in part perhaps
                first = max(1, self._next - rng.randrange(1, 9))
                return list(range(first, first + count))
            case 1:  # a gap before
                return [number + 1 for number in row]
            case 2:  # a gap within, or twice the same
                return sorted(rng.choices(row, k=count))
            case 3:
                rng.shuffle(row)
            case 4 if rng.random() < 0.3:  # far ahead
                return [number + rng.randrange(MAX_UNANSWERED) for number in row]
        return row

    def _operation(self, number: int) -> Operation:
        rng = self._rng
        code = Code.SET if rng.random() < 0.93 else rng.choice(OTHER_CODES)
        return Operation(code, rng.choice([b"a", b"b", b"cc", b"d", b""]), rng.choice([b"", b"1", b"22"]), b"1", number)


def log_of_writers(seed: int, entries: int) -> list[Entry]:
    """Three sessions at a time, and leaders with different limits on the state."""
    rng = random.Random(seed)
    machine = StateMachine()  # only to learn the ids of sessions
    settings = replace(SETTINGS, max_unanswered=MAX_UNANSWERED)
    log = [Entry(1, 1, EntryKind.NO_OP, encode_settings(settings))]
    machine.apply(log[0])
    writers: list[Writer] = []
    for index in range(2, entries + 1):
        kind, batch = EntryKind.BATCH, Batch([OPEN])
        if rng.random() < 0.02:
            limit = rng.choice([0, 0, 330, 500, 660])
            log.append(Entry(index, 1, EntryKind.NO_OP, encode_settings(replace(settings, max_state_bytes=limit))))
        elif len(writers) < 3 or rng.random() < 0.02:
            log.append(Entry(index, 1, kind, encode_batch(batch)))
        else:
            batch = rng.choice(writers[-3:]).batch()
            log.append(Entry(index, 1, kind, encode_batch(batch)))
        results = machine.apply(log[-1])
        writers += [Writer(rng, result.value) for result in results if result.value]
        if CLOSE.code in [operation.code for operation in batch.operations]:
            writers = [writer for writer in writers if writer.session in machine._sessions]
    return log


def disturbed(machine: StateMachine, rng: random.Random) -> StateMachine:
    """Frozen, thawed, merged in part, or another machine from a snapshot: what no member can tell from the results."""
    if not machine.can_freeze:
        match rng.randrange(4):
            case 0:
                machine.thaw()
            case 1 | 2:
                machine.merge(rng.randrange(3))
    elif rng.random() < 0.2:
        machine.freeze()
    elif rng.random() < 0.05:
        return restored(saved(machine.freeze()))
    return machine


SEEDS = [pytest.param(seed, id=f"seed{seed}") for seed in range(40)]


@pytest.mark.parametrize("seed", SEEDS)
def test_batches_at_once_one_by_one_and_in_the_model_lead_to_the_same(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    log = log_of_writers(seed, entries=300)
    machine, at_once = StateMachine(), []
    for entry in log:
        machine = disturbed(machine, rng)
        at_once.append((machine.apply(entry), machine.revision, machine.state_bytes, machine.digest()))

    monkeypatch.setattr(Session, "has_none_of", lambda session, numbers: False)
    plain, model = StateMachine(), Model()
    for entry, seen in zip(log, at_once, strict=True):
        where = f"entry {entry.index}; {REPLAY.format(seed=seed)}"
        results = plain.apply(entry)
        assert seen == (results, plain.revision, plain.state_bytes, plain.digest()), where
        assert (results, plain.revision, plain.state_bytes) == (
            model.apply(entry),
            model.revision,
            model.state_bytes(),
        ), where


def test_the_logs_of_writers_meet_both_ways_and_every_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above proves less than it seems to."""
    seen: Counter[object] = Counter()
    keep = Session.keep

    def count(session: Session, numbers: range, results: list[Result]) -> None:
        seen["at once"] += 1
        seen["at once, not all done"] += len({result.status for result in results}) > 1
        seen["at once, no space"] += Result(Status.NO_SPACE) in results
        seen["in a row with the last"] += bool(session.done) and session.done.stop == numbers.start
        seen["behind a gap"] += bool(session.done) and session.done.stop < numbers.start
        seen["besides other answers"] += bool(session.answers)
        keep(session, numbers, results)

    monkeypatch.setattr(Session, "keep", count)
    for seed in range(10):
        rng, machine = random.Random(seed), StateMachine()
        for entry in log_of_writers(seed, entries=300):
            machine = disturbed(machine, rng)
            before = seen["at once"]
            for result in machine.apply(entry):
                seen[result.status] += 1
                seen["one by one", result.status] += seen["at once"] == before
            seen["frozen"] += machine._records._is_frozen and seen["at once"] > before
            seen["thawing"] += not machine._records._is_frozen and not machine.can_freeze and seen["at once"] > before
    expected = {*Status, "at once", "at once, not all done", "at once, no space", "in a row with the last"}
    expected |= {"behind a gap", "besides other answers", "frozen", "thawing", ("one by one", Status.DONE)}
    assert expected <= {what for what, times in seen.items() if times >= 10}


@pytest.fixture
def driver() -> Driver:
    return Driver()


class TestRows:
    """`max_unanswered` is 4."""

    def test_a_row_that_ends_beyond_the_window_is_applied_up_to_there(self, driver: Driver) -> None:
        session = driver.open_session()
        row = [set_(b"k", b"%d" % number, number) for number in range(1, 6)]
        assert driver.batch(*row, session=session) == [DONE] * 4 + [TOO_MANY_UNANSWERED]
        assert driver.machine.get(b"k") == b"4"

    def test_a_row_that_begins_below_the_mark_is_applied_from_there(self, driver: Driver) -> None:
        session = driver.open_session()
        row = [set_(b"k%d" % number, b"", number) for number in (2, 3)]
        assert driver.batch(*row, session=session, lowest_unanswered=3) == [SEQUENCE_STALE, DONE]
        assert driver.machine.all_keys() == (b"k3",)

    def test_a_row_that_was_answered_in_part_is_applied_for_the_rest(self, driver: Driver) -> None:
        session = driver.open_session()
        lock = [set_if_absent(b"lock", b"", number) for number in (1, 2, 3)]
        assert driver.batch(*lock[:2], session=session) == [DONE, NOT_DONE]
        assert driver.batch(delete(b"lock")) == [DONE]
        assert driver.batch(*lock, session=session) == [DONE, NOT_DONE, DONE]

    @pytest.mark.parametrize("numbers", [(1, 2, 2, 4), (1, 3, 3), (2, 2, 1, 4)])
    def test_a_number_that_comes_twice_in_a_batch_is_applied_once(
        self, driver: Driver, numbers: tuple[int, ...]
    ) -> None:
        session = driver.open_session()
        assert driver.batch(*(set_(b"k", b"", number) for number in numbers), session=session) == [DONE] * len(numbers)
        assert driver.machine.revision == len(set(numbers))

    def test_a_row_that_closes_its_session_ends_there(self, driver: Driver) -> None:
        session = driver.open_session()
        row = [set_(b"a", b"", 1), CLOSE._replace(sequence=2), set_(b"b", b"", 3)]
        assert [result.status for result in driver.batch(*row, session=session)] == [
            Status.DONE,
            Status.DONE,
            Status.SESSION_UNKNOWN,
        ]
        assert driver.machine.all_keys() == (b"a",)

    def test_answers_before_and_behind_a_gap_are_kept(self, driver: Driver) -> None:
        session = driver.open_session()
        for number in (1, 3, 4):
            assert driver.batch(set_(b"k", b"", number), session=session) == [DONE]
        again = [set_(b"k", b"again", number) for number in (1, 3, 4)]
        assert driver.batch(*again, session=session) == [DONE] * 3
        assert driver.machine.get(b"k") == b""
        assert driver.batch(set_(b"k", b"new", 2), session=session) == [DONE]
        assert driver.machine.get(b"k") == b"new", "the gap had not been applied"

    def test_a_long_row_takes_up_no_more_than_a_short_one(self, driver: Driver) -> None:
        driver.change_leader(max_unanswered=1000)
        session = driver.open_session()
        for first in range(1, 1000, 100):
            row = [set_(b"k", b"", number) for number in range(first, first + 100)]
            driver.batch(*row, session=session)
        kept = driver.machine._sessions[session]
        assert (kept.answers, kept.done) == ({}, range(1, 1001))
        driver.batch(set_(b"k", b"", 1001), session=session, lowest_unanswered=901)
        assert kept.done == range(901, 1002)
