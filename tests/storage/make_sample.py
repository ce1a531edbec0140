"""Makes a data directory of the present formats, for tests/storage/samples: `python -m tests.storage.make_sample PATH`.

To be run once, when a format has changed and is about to be released; what it has made is never made anew. It prints
what the test of it has to expect.
"""

from __future__ import annotations

import os
import sys

from raftkv.kv import StateMachine
from raftkv.kv_snapshot import encode, meta_of
from raftkv.operations import Batch, Code, Operation, TermSettings, encode_batch, encode_settings
from raftkv.raft.configuration import encode_configuration
from raftkv.raft.types import Configuration, Entry, EntryKind, HardState
from raftkv.storage import Storage

MEMBERS = {1: "127.0.0.1:50051", 2: "127.0.0.1:50052", 3: "127.0.0.1:50053"}
CLUSTER = b"cluster of a day"
SESSION = 2 << 16
"""The session that entry 2 opens."""


def main() -> None:
    path = sys.argv[1]
    storage = Storage(path, member_id=2, members=MEMBERS, segment_bytes=600, incarnation=b"sample directory")
    machine = write(storage)
    print("commit index", storage.commit_index, "last index", storage.last_index(), "first", storage.first_index())
    print("digest", machine.digest().hex(), "keys", len(machine), "revision", machine.revision)
    storage.remove_leftovers()
    print(sorted(os.listdir(path)))
    storage.close()


def write(storage: Storage) -> StateMachine:
    """A little of everything. The state machine as of the commit index."""
    log = [
        *(_no_op(1, 1), _batch(2, 1, Operation(Code.OPEN_SESSION)), _text(3, 1, "SET greeting hello, world")),
        _batch(
            4, 1, *(Operation(Code.SET, b"key-%d" % n, b"value-%d" % n, sequence=n + 1) for n in range(9)), lowest=1
        ),
        *(_text(5, 1, "SET lost never"), _text(6, 1, "SET lost too")),
    ]
    storage.persist(HardState(1, 2), log[:1], 0)
    storage.remember_cluster(CLUSTER)
    storage.persist(None, log[1:3], 1)
    storage.persist(None, log[3:4], 3)
    storage.persist(None, log[4:6], 4)
    storage.persist(HardState(2, 1), [], 4)
    change = Operation(Code.DELETE, b"key-0", sequence=10)
    compare = Operation(Code.COMPARE_AND_SET, b"greeting", b"bonjour", b"hello, world", 11)
    log[4:] = [_no_op(5, 3), _batch(6, 3, change, compare, lowest=5)]
    storage.persist(HardState(3, 3, longest_promise_ms=400), log[4:6], 4)
    log += [_text(7, 3, "SET binary ä\n€"), Entry(8, 3, EntryKind.BATCH, _large(), 8000)]
    storage.persist(None, log[6:8], 6)
    machine = StateMachine()
    for entry in log[:7]:
        machine.apply(entry)
    save(storage, machine)
    log += [_text(9, 3, "DEL large"), _text(10, 3, "SETNX late 1"), _text(11, 3, "SET not-committed 1")]
    storage.persist(None, log[8:10], 8)
    storage.persist(None, log[10:], 10)
    for entry in log[7:10]:
        machine.apply(entry)
    return machine


def save(storage: Storage, machine: StateMachine) -> None:
    state = machine.freeze()
    configuration = encode_configuration(Configuration(frozenset(MEMBERS), addresses=tuple(MEMBERS.items())))
    writer = storage.begin_snapshot()
    for piece in encode(state, configuration):
        writer.write(piece)
    writer.finish()
    storage.adopt_snapshot(meta_of(state, configuration), writer, keep_from=6)
    machine.thaw()


def _no_op(index: int, term: int) -> Entry:
    settings = TermSettings(CLUSTER, max_sessions=100, session_timeout_ms=3_600_000, max_unanswered=1024)
    return Entry(index, term, EntryKind.NO_OP, encode_settings(settings), 1000 * index)


def _text(index: int, term: int, text: str) -> Entry:
    return Entry(index, term, EntryKind.TEXT, text.encode(), 1000 * index)


def _batch(index: int, term: int, *operations: Operation, lowest: int = 0) -> Entry:
    session = SESSION if lowest else 0
    return Entry(index, term, EntryKind.BATCH, encode_batch(Batch(operations, session, lowest)), 1000 * index)


def _large() -> bytes:
    return encode_batch(Batch([Operation(Code.SET, b"large", bytes(range(256)) * 3)]))


if __name__ == "__main__":
    main()
