"""Makes data directories of the present formats, for tests/storage/samples: `python -m tests.storage.make_sample PATH`
makes that of a founding member, and with `joined` as a second word that of a member which was added later.

To be run once, when a format has changed and is about to be released; what it has made is never made anew. It prints
what the test of it has to expect.
"""

from __future__ import annotations

import os
import sys

from raftkv.kv import StateMachine
from raftkv.kv_snapshot import encode, meta_of
from raftkv.operations import Batch, Code, Operation, TermSettings, encode_batch, encode_settings
from raftkv.raft.configuration import Add, Promote, changed, encode_configuration
from raftkv.raft.types import Configuration, Entry, EntryKind, HardState
from raftkv.storage import Storage

MEMBERS = {1: "127.0.0.1:50051", 2: "127.0.0.1:50052", 3: "127.0.0.1:50053"}
CLUSTER = b"cluster of a day"
FOUR = "127.0.0.1:50054"
JOINED = 9
"""The entry that adds member 4, which listens there."""
FOUNDERS = Configuration(frozenset(MEMBERS), addresses=tuple(MEMBERS.items()))
SESSION = 2 << 16
"""The session that entry 2 opens."""


def main() -> None:
    path = sys.argv[1]
    if sys.argv[2:] == ["joined"]:
        storage = open_joined(path)
        machine = write_joined(storage)
    else:
        storage = Storage(path, member_id=2, members=MEMBERS, segment_bytes=600, incarnation=b"sample directory")
        machine = write(storage)
    print("commit index", storage.commit_index, "last index", storage.last_index(), "first", storage.first_index())
    print("digest", machine.digest().hex(), "keys", len(machine), "revision", machine.revision)
    for _ in storage.remove_leftovers():
        pass
    print(sorted(os.listdir(path)))
    storage.close()


def write(storage: Storage) -> StateMachine:
    """A little of everything: entries that were replaced, a snapshot, a member that is added. The state machine as of
    the commit index."""
    log = _log()
    storage.persist(HardState(1, 2), log[:1], 0)
    storage.remember_cluster(CLUSTER)
    storage.remember_peer(1, 0, b"directory of one")
    storage.persist(None, log[1:3], 1)
    storage.persist(None, log[3:4], 3)
    storage.persist(None, [_text(5, 1, "SET lost never"), _text(6, 1, "SET lost too")], 4)
    storage.persist(HardState(2, 1), [], 4)
    storage.persist(HardState(3, 3, longest_promise_ms=400), log[4:6], 4)
    storage.remember_peer(3, 0, b"directory, three")
    storage.persist(None, log[6:8], 6)
    machine = StateMachine()
    for entry in log[:7]:
        machine.apply(entry)
    state, configuration = machine.freeze(), encode_configuration(FOUNDERS)
    writer = storage.begin_snapshot()
    for piece in encode(state, configuration):
        writer.write(piece)
    writer.finish()
    storage.adopt_snapshot(meta_of(state, configuration), writer, keep_from=6)
    machine.thaw()
    storage.persist(None, log[8:10], 8)
    storage.remember_peer(4, JOINED, b"directory offour")
    storage.persist(None, log[10:12], 10)
    storage.persist(None, log[12:], 12)
    for entry in log[7:12]:
        machine.apply(entry)
    return machine


def open_joined(path: str | os.PathLike[str]) -> Storage:
    """That of the member that is added, when it has just found its place."""
    return Storage(
        path,
        member_id=4,
        members=None,
        segment_bytes=600,
        incarnation=b"directory offour",
        cluster_id=CLUSTER,
        address=FOUR,
        joined=JOINED,
    )


def write_joined(storage: Storage) -> StateMachine:
    """It gets a snapshot, which is of a time when it had its vote already, and the entries after it."""
    log = _log()
    storage.persist(HardState(3), [], 0)
    storage.remember_peer(3, 0, b"directory, three")
    machine = StateMachine()
    for entry in log[:11]:
        machine.apply(entry)
    state, configuration = machine.freeze(), log[10].payload
    writer = storage.begin_snapshot()
    for piece in encode(state, configuration):
        writer.write(piece)
    writer.finish()
    storage.install_snapshot(meta_of(state, configuration), writer)
    machine.thaw()
    storage.persist(HardState(3, longest_promise_ms=400), log[11:12], 11)
    storage.persist(None, log[12:], 12)
    machine.apply(log[11])
    return machine


def _log() -> list[Entry]:
    """The cluster's; the last one is not committed."""
    added = changed(FOUNDERS, Add(4, FOUR), JOINED)
    return [
        *(_no_op(1, 1), _batch(2, 1, Operation(Code.OPEN_SESSION)), _text(3, 1, "SET greeting hello, world")),
        _batch(
            4, 1, *(Operation(Code.SET, b"key-%d" % n, b"value-%d" % n, sequence=n + 1) for n in range(9)), lowest=1
        ),
        _no_op(5, 3),
        _batch(
            *(6, 3, Operation(Code.DELETE, b"key-0", sequence=10)),
            Operation(Code.COMPARE_AND_SET, b"greeting", b"bonjour", b"hello, world", 11),
            lowest=5,
        ),
        *(_text(7, 3, "SET binary ä\n€"), Entry(8, 3, EntryKind.BATCH, _large(), 8000)),
        _configuration(JOINED, 3, added),
        _text(10, 3, "DEL large"),
        _configuration(11, 3, changed(added, Promote(4), 11)),
        *(_text(12, 3, "SETNX late 1"), _text(13, 3, "SET not-committed 1")),
    ]


def _configuration(index: int, term: int, configuration: Configuration) -> Entry:
    return Entry(index, term, EntryKind.CONFIGURATION, encode_configuration(configuration), 1000 * index)


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
