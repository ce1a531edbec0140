"""Snapshots for tests: real ones, of a state that some entries have made."""

from __future__ import annotations

from collections.abc import Sequence

from raftkv.kv import StateMachine
from raftkv.kv_snapshot import encode, meta_of
from raftkv.log_storage import LogStorage, SnapshotWriter
from raftkv.raft.types import Entry, EntryKind, SnapshotMeta


def machine_after(terms: Sequence[int], value_bytes: int = 1) -> StateMachine:
    """A state machine that has applied entries of these terms, each of which sets a key to so many bytes."""
    machine = StateMachine()
    for index, term in enumerate(terms, 1):
        value = (b"%d" % term).ljust(value_bytes, b".")
        machine.apply(Entry(index, term, EntryKind.TEXT, b"SET k%d %s" % (index, value), time_ms=index))
    return machine


def encoded(machine: StateMachine, configuration: bytes = b"") -> tuple[SnapshotMeta, bytes]:
    """A snapshot of a machine: what it stands for, and the bytes of its file."""
    assert machine.can_freeze
    state = machine.freeze()
    try:
        return meta_of(state, configuration), b"".join(encode(state, configuration))
    finally:
        machine.thaw()


def file_with(storage: LogStorage, data: bytes) -> SnapshotWriter:
    """A finished file with these bytes, not adopted or installed yet."""
    writer = storage.begin_snapshot()
    writer.write(data)
    writer.finish()
    return writer
