"""Data directories as earlier versions have left them: what this one makes of them.

`samples/v<n>` is a directory that was made by the code of its day (make_sample.py, as it was then), when the metadata
had format n. It is never made anew: a new format gets a directory of its own before it is released.

    v1          a founding member, without snapshots and changes of the membership
    v2          a founding member that has a snapshot, and has seen a member added; made before identities had `joined`
    v2-joined   that member, which began with a snapshot
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raftkv.kv import StateMachine
from raftkv.operations import Batch, Code, Operation, Result, Status, encode_batch
from raftkv.raft.configuration import decode_configuration
from raftkv.raft.types import Configuration, Entry, EntryKind, HardState, LogPosition
from raftkv.snapshots import load_snapshot
from raftkv.storage import Storage
from tests.storage import make_sample

SAMPLES = Path(__file__).parent / "samples"
MEMBERS = {1: "127.0.0.1:50051", 2: "127.0.0.1:50052", 3: "127.0.0.1:50053"}


@pytest.fixture
def sample(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the sample that the test names."""
    return Path(shutil.copytree(SAMPLES / request.param, tmp_path / "node"))


def machine_of(storage: Storage) -> StateMachine:
    machine = StateMachine()
    load_snapshot(storage, machine)
    for entry in storage.replay():
        machine.apply(entry)
    return machine


@pytest.mark.parametrize("sample", ["v1"], indirect=True)
def test_the_first_format_is_read_and_goes_on_as_the_newest(sample: Path) -> None:
    storage = Storage(sample, member_id=2, members=MEMBERS)
    assert storage.notes == []
    assert storage.identity.incarnation == b"sample directory"
    assert storage.identity.cluster_id == b"cluster of a day"
    assert storage.hard_state == HardState(3, voted_for=3, longest_promise_ms=400)
    assert (storage.first_index(), storage.last_index(), storage.commit_index) == (1, 11, 10)
    assert [storage.term(index) for index in range(12)] == [0, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3]
    machine = machine_of(storage)
    assert machine.digest().hex() == "54e976c094dc298643de4643d9945a9d"
    assert len(machine) == 11
    assert machine.get(b"greeting") == b"bonjour"
    # A client of that day tries again what had been answered.
    retry = Batch([Operation(Code.DELETE, b"key-0", sequence=10)], session=2 << 16, lowest_unanswered=5)
    more = Entry(11, 4, EntryKind.BATCH, encode_batch(retry), 11_000)
    storage.persist(HardState(4), [more], 11)
    assert machine.apply(more) == [Result(Status.DONE)]
    storage.close()
    assert (sample / "metadata").read_bytes().startswith(b"raftkv metadata 2\n")
    restarted = Storage(sample, member_id=2, members=MEMBERS)
    assert machine_of(restarted).digest() == machine.digest()


DIGEST = "34f1a1f1bc62adbeb6634b0f740c9dd2"
"""Of both members' state, as of entry 12."""
WITH_FOUR = Configuration(
    frozenset({1, 2, 3, 4}), addresses=(*MEMBERS.items(), (4, "127.0.0.1:50054")), joined=((4, 9),)
)


def configurations_in(storage: Storage) -> dict[int, Configuration]:
    """Of the log, by index."""
    entries = storage.entries(storage.first_index(), storage.last_index(), 1 << 20)
    return {e.index: decode_configuration(e.payload) for e in entries if e.kind is EntryKind.CONFIGURATION}


def snapshot_of(storage: Storage) -> tuple[LogPosition, Configuration]:
    assert storage.snapshot is not None
    return storage.snapshot.last, decode_configuration(storage.snapshot.configuration)


@pytest.mark.parametrize("sample", ["v2"], indirect=True)
def test_the_second_format_is_read_with_its_snapshot_and_a_change_of_the_membership(sample: Path) -> None:
    assert b"joined" not in (sample / "identity").read_bytes()
    storage = Storage(sample, member_id=2, members=MEMBERS)
    assert storage.notes == []
    assert (storage.identity.incarnation, storage.identity.cluster_id) == (b"sample directory", b"cluster of a day")
    assert storage.identity.joined == 0
    assert storage.identity.peers == {
        1: (0, b"directory of one"),
        3: (0, b"directory, three"),
        4: (9, b"directory offour"),
    }
    assert storage.hard_state == HardState(3, voted_for=3, longest_promise_ms=400)
    assert snapshot_of(storage) == (LogPosition(3, 7), make_sample.FOUNDERS)
    assert (storage.first_index(), storage.last_index(), storage.commit_index) == (5, 13, 12)
    assert configurations_in(storage)[11] == WITH_FOUR
    assert configurations_in(storage)[9].learners == {4}
    machine = machine_of(storage)
    assert (machine.digest().hex(), len(machine), machine.get(b"greeting")) == (DIGEST, 11, b"bonjour")
    storage.remember_peer(1, 0, b"another disk 123")
    storage.close()
    restarted = Storage(sample, member_id=2, members=MEMBERS)
    assert restarted.identity.peers[1] == (0, b"another disk 123")
    assert machine_of(restarted).digest() == machine.digest()


@pytest.mark.parametrize("sample", ["v2-joined"], indirect=True)
def test_a_member_that_was_added_when_the_second_format_was_new_goes_on(sample: Path) -> None:
    storage = Storage(sample, member_id=4, members=None)
    assert storage.notes == []
    identity = storage.identity
    assert (identity.member_id, dict(identity.members), identity.joined) == (4, {}, 9)
    assert (identity.address, identity.cluster_id) == ("127.0.0.1:50054", b"cluster of a day")
    assert storage.hard_state == HardState(3, longest_promise_ms=400)
    assert snapshot_of(storage) == (LogPosition(3, 11), WITH_FOUR)
    assert (storage.first_index(), storage.last_index(), storage.commit_index) == (12, 13, 12)
    assert machine_of(storage).digest().hex() == DIGEST


def test_a_sample_of_the_present_formats_is_read(tmp_path: Path) -> None:
    def opened() -> Storage:
        return Storage(tmp_path / "node", member_id=2, members=MEMBERS, segment_bytes=600)

    storage = opened()
    machine = make_sample.write(storage)
    storage.close()
    restarted = opened()
    assert restarted.snapshot is not None
    assert (restarted.snapshot.last, restarted.first_index() > 1) == (LogPosition(3, 7), True)
    assert (restarted.last_index(), restarted.commit_index) == (13, 12)
    assert machine_of(restarted).digest() == machine.digest()


def test_a_sample_of_a_member_that_was_added_is_read(tmp_path: Path) -> None:
    storage = make_sample.open_joined(tmp_path / "node")
    machine = make_sample.write_joined(storage)
    storage.close()
    restarted = Storage(tmp_path / "node", member_id=4, members=None)
    assert restarted.identity.joined == make_sample.JOINED
    assert snapshot_of(restarted) == (LogPosition(3, 11), WITH_FOUR)
    assert machine_of(restarted).digest() == machine.digest()
