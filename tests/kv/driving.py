"""A state machine and the end of its log, for tests: each method appends one entry and applies it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from raftkv.kv import StateMachine
from raftkv.operations import Batch, Code, Operation, Result, Status, TermSettings, encode_batch, encode_settings
from raftkv.raft.types import Entry, EntryKind
from raftkv.records import SLOT_SHIFT, Records

SETTINGS = TermSettings(cluster_id=b"c" * 16, max_sessions=3, session_timeout_ms=1000, max_unanswered=4)

DONE = Result(Status.DONE)
NOT_DONE = Result(Status.NOT_DONE)
MALFORMED = Result(Status.MALFORMED)
SESSION_UNKNOWN = Result(Status.SESSION_UNKNOWN)
SEQUENCE_STALE = Result(Status.SEQUENCE_STALE)
TOO_MANY_UNANSWERED = Result(Status.TOO_MANY_UNANSWERED)
NO_SPACE = Result(Status.NO_SPACE)


def set_(key: bytes, value: bytes, sequence: int = 0) -> Operation:
    return Operation(Code.SET, key, value, sequence=sequence)


def delete(key: bytes, sequence: int = 0) -> Operation:
    return Operation(Code.DELETE, key, sequence=sequence)


def set_if_absent(key: bytes, value: bytes, sequence: int = 0) -> Operation:
    return Operation(Code.SET_IF_ABSENT, key, value, sequence=sequence)


def compare_and_set(key: bytes, expected: bytes, new: bytes, sequence: int = 0) -> Operation:
    return Operation(Code.COMPARE_AND_SET, key, new, expected, sequence)


OPEN = Operation(Code.OPEN_SESSION)
CLOSE = Operation(Code.CLOSE_SESSION)


class Driver:
    """`machine` has applied all of `log`. `time_ms` is the log time of the entries to come."""

    def __init__(self, settings: TermSettings | None = SETTINGS) -> None:
        self.machine = StateMachine()
        self.log: list[Entry] = []
        self.term = 1
        self.time_ms = 0
        if settings is not None:
            self.no_op(settings)

    def apply(self, kind: EntryKind, payload: bytes) -> list[Result]:
        entry = Entry(len(self.log) + 1, self.term, kind, payload, self.time_ms)
        self.log.append(entry)
        return self.machine.apply(entry)

    def no_op(self, settings: TermSettings) -> None:
        assert self.apply(EntryKind.NO_OP, encode_settings(settings)) == []

    def change_leader(self, **settings: int) -> None:
        """A new term begins: its NO-OP, with SETTINGS but for those named."""
        self.term += 1
        self.no_op(replace(SETTINGS, **settings))  # type: ignore[arg-type]

    def batch(self, *operations: Operation, session: int = 0, lowest_unanswered: int = 0) -> list[Result]:
        return self.apply(EntryKind.BATCH, encode_batch(Batch(operations, session, lowest_unanswered)))

    def text(self, request: str) -> list[Result]:
        return self.apply(EntryKind.TEXT, request.encode())

    def open_session(self) -> int:
        [result] = self.batch(OPEN)
        assert result.status is Status.DONE
        return result.value


def keys_of_one_part(count: int) -> list[bytes]:
    """Keys that lie in the same dict of `Records`."""
    numbers = (b"%d" % n for n in itertools.count())
    return list(itertools.islice((key for key in numbers if hash(key) >> SLOT_SHIFT == 0), count))


def wrap_parts(records: Records, wrapped: Callable[[dict[bytes, bytes]], dict[bytes, bytes]]) -> None:
    """Put other dicts in the places of those that `records` consists of."""
    new = {id(part): wrapped(part) for part in records.parts}
    for places in (records.slots, records.parts):
        places[:] = [new[id(part)] for part in places]


def replayed(log: list[Entry]) -> StateMachine:
    """A machine that has applied `log` from the start."""
    machine = StateMachine()
    for entry in log:
        machine.apply(entry)
    return machine
