"""Random logs, applied by the state machine and by a slow, obvious model of it; and by machines that must be equal.

The model keeps every answer for ever, looks at all sessions at every entry, and finds the oldest by its last use.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raftkv.kv import Record, StateMachine, keys_with_prefix
from raftkv.operations import (
    Batch,
    Code,
    Malformed,
    Operation,
    Result,
    Status,
    TermSettings,
    decode_batch,
    decode_settings,
    encode_batch,
    encode_settings,
    parse_text,
)
from raftkv.raft.types import Entry, EntryKind
from tests.kv.driving import replayed

ROOT = Path(__file__).parents[2]
REPLAY = "replay: python -m pytest tests/kv/test_model.py -k 'seed{seed}]'"


@dataclass
class ModelSession:
    last_use: tuple[int, int]
    """Entry, and position within it."""
    last_use_ms: int
    lowest_unanswered: int = 1
    answers: dict[int, Result] = field(default_factory=dict)


@dataclass
class Model:
    keys: dict[bytes, Record] = field(default_factory=dict)
    sessions: dict[int, ModelSession] = field(default_factory=dict)
    settings: TermSettings = field(default_factory=lambda: TermSettings(b"", 0, 0, 0))
    revision: int = 0
    time_ms: int = 0

    def apply(self, entry: Entry) -> list[Result]:
        self.time_ms = max(self.time_ms, entry.time_ms)
        if entry.kind is EntryKind.NO_OP:
            with suppress(Malformed):
                self.settings = decode_settings(entry.payload)
        self.end_sessions()
        try:
            if entry.kind in (EntryKind.NO_OP, EntryKind.CONFIGURATION):
                return []
            if entry.kind is EntryKind.TEXT:
                return [self.change(parse_text(entry.payload.decode()))]
            batch = decode_batch(entry.payload)
        except ValueError:
            return [Result(Status.MALFORMED)]
        if batch.session == 0:
            return [self.without_session(op, entry.index, i) for i, op in enumerate(batch.operations)]
        if batch.session in self.sessions:
            session = self.sessions[batch.session]
            session.last_use, session.last_use_ms = (entry.index, 0), self.time_ms
            session.lowest_unanswered = max(session.lowest_unanswered, batch.lowest_unanswered)
        return [self.in_session(op, batch.session) for op in batch.operations]

    def end_sessions(self) -> None:
        oldest_first = sorted(self.sessions, key=lambda s: self.sessions[s].last_use)
        too_many = oldest_first[: max(0, len(oldest_first) - self.settings.max_sessions)]
        idle = [
            s for s in oldest_first if self.time_ms - self.sessions[s].last_use_ms > self.settings.session_timeout_ms
        ]
        for session in {*too_many, *idle}:
            del self.sessions[session]

    def without_session(self, operation: Operation, index: int, position: int) -> Result:
        if operation.code is Code.OPEN_SESSION:
            session = index * 65536 + position
            self.sessions[session] = ModelSession((index, position), self.time_ms)
            self.end_sessions()
            return Result(Status.DONE, session)
        return self.change(operation)

    def in_session(self, operation: Operation, session_id: int) -> Result:
        session = self.sessions.get(session_id)
        if session is None:
            return Result(Status.SESSION_UNKNOWN)
        lowest = session.lowest_unanswered
        if operation.sequence >= lowest and operation.sequence in session.answers:
            return session.answers[operation.sequence]
        if operation.code is Code.CLOSE_SESSION:
            del self.sessions[session_id]
            return Result(Status.DONE)
        if operation.sequence < lowest:
            return Result(Status.SEQUENCE_STALE)
        if operation.sequence >= lowest + self.settings.max_unanswered:
            return Result(Status.TOO_MANY_UNANSWERED)
        session.answers[operation.sequence] = self.change(operation)
        return session.answers[operation.sequence]

    def state_bytes(self) -> int:
        return size_of({key: record.value for key, record in self.keys.items()})

    def change(self, operation: Operation) -> Result:
        old = self.keys.get(operation.key)
        match operation.code:
            case Code.SET:
                possible = True
            case Code.SET_IF_ABSENT:
                possible = old is None
            case Code.COMPARE_AND_SET:
                possible = old is not None and old.value == operation.expected
            case Code.DELETE:
                possible = old is not None
            case _:
                return Result(Status.MALFORMED)
        if not possible:
            return Result(Status.NOT_DONE)
        if operation.code is not Code.DELETE:
            after = {key: record.value for key, record in self.keys.items()} | {operation.key: operation.value}
            if self.settings.max_state_bytes and self.state_bytes() < size_of(after) > self.settings.max_state_bytes:
                return Result(Status.NO_SPACE)
        self.revision += 1
        if operation.code is Code.DELETE:
            del self.keys[operation.key]
        elif old is None:
            self.keys[operation.key] = Record(operation.value, self.revision, self.revision, 1)
        else:
            self.keys[operation.key] = Record(operation.value, old.create_revision, self.revision, old.version + 1)
        return Result(Status.DONE)


def size_of(values: dict[bytes, bytes]) -> int:
    return sum(len(key) + len(value) + 160 for key, value in values.items())


def random_log(seed: int, entries: int) -> list[Entry]:
    """A log in which everything happens often: few keys, few numbers, low limits, garbage, time in jumps."""
    rng = random.Random(seed)
    log: list[Entry] = []
    machine = StateMachine()  # only to learn the ids of sessions
    sessions = [0, 1]
    term, time_ms = 1, 0
    for index in range(1, entries + 1):
        time_ms += rng.choice([0, 1, 1, 5, 40]) if rng.random() < 0.9 else rng.randrange(-50, 200)
        kind, payload = _random_proposal(rng, sessions)
        if kind is EntryKind.NO_OP:
            term += rng.randrange(2)
        log.append(Entry(index, term, kind, payload, max(0, time_ms)))
        sessions += [result.value for result in machine.apply(log[-1]) if result.value]
        del sessions[2:-6]
    return log


def _random_proposal(rng: random.Random, sessions: list[int]) -> tuple[EntryKind, bytes]:
    chance = rng.random()
    if chance < 0.05:
        limits = (rng.randrange(1, 6), rng.choice([20, 100, 2000]), rng.randrange(1, 8), rng.choice([0, 161, 323, 484]))
        return EntryKind.NO_OP, rng.choice([b"", encode_settings(TermSettings(rng.randbytes(16), *limits))])
    if chance < 0.1:
        return EntryKind.TEXT, rng.choice(
            [b"SET a it's b", b"DEL a", b"SETNX b 1", b"CAS a 1 2", b"CAS a", b"SET \xff"]
        )
    if chance < 0.15:
        return rng.choice(list(EntryKind)), rng.randbytes(rng.randrange(50))
    if chance < 0.2:
        return EntryKind.BATCH, encode_batch(Batch([Operation(Code.OPEN_SESSION)] * rng.randrange(1, 3)))
    session = rng.choice(sessions[-3:] if rng.random() < 0.8 else sessions)
    codes = [*Code] if rng.random() < 0.1 else [*Code][:4]
    operations = [
        Operation(rng.choice(codes), rng.choice([b"a", b"b", b"c"]), rng.choice([b"", b"1"]), b"1", rng.randrange(12))
        for _ in range(rng.randrange(6))
    ]
    lowest_unanswered = rng.randrange(12) if rng.random() < 0.1 else 0
    return EntryKind.BATCH, encode_batch(Batch(operations, session, lowest_unanswered))


SEEDS = [pytest.param(seed, id=f"seed{seed}") for seed in range(60)]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_machine_does_what_the_model_does(seed: int) -> None:
    machine, model = StateMachine(), Model()
    for entry in random_log(seed, entries=400):
        where = f"entry {entry.index}; {REPLAY.format(seed=seed)}"
        assert machine.apply(entry) == model.apply(entry), where
        assert keys_with_prefix(machine.all_keys(), b"") == sorted(model.keys), where
        assert all(machine.record(key) == record for key, record in model.keys.items()), where
        assert machine.revision == model.revision, where
        assert machine.state_bytes == model.state_bytes(), where
        assert list(machine._sessions) == sorted(model.sessions, key=lambda s: model.sessions[s].last_use), where


def test_the_random_logs_meet_every_status() -> None:
    """Or the test above proves less than it seems to."""
    seen = set()
    for seed in range(5):
        machine = StateMachine()
        for entry in random_log(seed, entries=400):
            seen |= {result.status for result in machine.apply(entry)}
    assert seen == set(Status)


@pytest.mark.parametrize("seed", SEEDS[:10])
def test_equal_logs_make_equal_digests(seed: int) -> None:
    log = random_log(seed, entries=200)
    assert replayed(log).digest() == replayed(log).digest(), REPLAY.format(seed=seed)


def test_the_digest_does_not_depend_on_the_process_that_computes_it() -> None:
    """Python's hashes of bytes differ from process to process, unless told otherwise."""
    program = "from tests.kv.test_model import *; print(replayed(random_log(1, 400)).digest().hex())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("0", "1", "random")
    }
    assert digests == {replayed(random_log(1, 400)).digest().hex()}
