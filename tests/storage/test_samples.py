"""Data directories as earlier versions have left them: what this one makes of them.

`samples/v<n>` is a directory that was made by the code of its day (make_sample.py, as it was then), when the metadata
had format n. It is never made anew: a new format gets a directory of its own before it is released.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raftkv.kv import StateMachine
from raftkv.operations import Batch, Code, Operation, Result, Status, encode_batch
from raftkv.raft.types import Entry, EntryKind, HardState, LogPosition
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


def test_a_sample_of_the_present_formats_is_read(tmp_path: Path) -> None:
    def opened() -> Storage:
        return Storage(tmp_path / "node", member_id=2, members=MEMBERS, segment_bytes=600)

    storage = opened()
    machine = make_sample.write(storage)
    storage.close()
    restarted = opened()
    assert restarted.snapshot is not None
    assert (restarted.snapshot.last, restarted.first_index() > 1) == (LogPosition(3, 7), True)
    assert (restarted.last_index(), restarted.commit_index) == (11, 10)
    assert machine_of(restarted).digest() == machine.digest()
