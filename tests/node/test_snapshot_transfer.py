"""A snapshot's way from a leader's disk to a follower's, without threads or a network (figure 13 of the paper)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.log_storage import SnapshotReader, SnapshotWriter, StorageError
from raftkv.memory_storage import MemoryStorage
from raftkv.raft.configuration import encode_configuration
from raftkv.raft.messages import InstallSnapshot, InstallSnapshotReply
from raftkv.raft.types import Configuration, HardState, SnapshotMeta
from raftkv.snapshot_transfer import (
    BrokenOff,
    Offer,
    Outgoing,
    Staging,
    arrived_to_wire,
    checksum_of,
    install_reply_to_wire,
    offer_from_wire,
)
from raftkv.transport import Malformed
from raftkv.wire import raft_pb2 as wire
from tests.raft.lone import at

CHUNK = 10
MEMBERS = encode_configuration(Configuration(frozenset({1, 2, 3})))
MESSAGE = InstallSnapshot(1, 2, term=4, snapshot=SnapshotMeta(at(9, 3), 1_000, MEMBERS))


def file_of(data: bytes, storage: MemoryStorage | None = None) -> SnapshotWriter:
    writer = (storage or MemoryStorage()).begin_snapshot()
    writer.write(data)
    return writer


def reader_of(data: bytes) -> SnapshotReader:
    storage = MemoryStorage()
    writer = file_of(data, storage)
    writer.finish()
    storage.persist(HardState(term=4), [], 0)
    storage.install_snapshot(MESSAGE.snapshot, writer)
    return storage.open_snapshot()


def content(file: Any) -> bytes:
    return bytes(file.read(0, file.size))


class Ends:
    """A leader's end and a follower's, and the chunks that are under way between them."""

    def __init__(self, data: bytes, storage: MemoryStorage | None = None, message: InstallSnapshot = MESSAGE) -> None:
        self.message = message
        self.storage = storage or MemoryStorage(2)
        self.files: list[SnapshotWriter] = []
        self.staging = Staging(self.begin)
        self.under_way: deque[wire.InstallSnapshotRequest] = deque()
        self.load(data)

    def begin(self) -> SnapshotWriter:
        self.files.append(self.storage.begin_snapshot())
        return self.files[-1]

    def load(self, data: bytes) -> None:
        self.data, self.reader = data, reader_of(data)

    def connect(self) -> int:
        """A new stream begins. From where on the snapshot is wanted."""
        self.under_way.clear()
        self.outgoing = Outgoing(
            self.message, self.reader, checksum_of(self.reader), wire.Identity(), chunk_bytes=CHUNK, window=3
        )
        self.stream, arrived = self.staging.open(self.offer())
        self.answer(arrived)
        return arrived

    def offer(self) -> Offer:
        first = wire.InstallSnapshotRequest.FromString(self.outgoing.first().SerializeToString())
        return offer_from_wire(first, me=2, call=7)

    def answer(self, arrived: int) -> None:
        self.under_way.extend(self.outgoing.answered(arrived_to_wire(4, arrived)))

    def step(self) -> None:
        self.answer(self.staging.take(self.stream, self.under_way.popleft()))

    def run(self) -> bytes:
        """Let all arrive: what the follower has in the end."""
        while not self.staging.is_complete(self.stream):
            self.step()
        return content(self.staging.finish(self.stream))


# ---- as it should be -------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=100))
def test_what_arrives_is_what_was_sent(data: bytes) -> None:
    ends = Ends(data)
    assert ends.connect() == 0
    assert ends.run() == data


def test_the_follower_learns_what_the_snapshot_stands_for_before_the_first_chunk() -> None:
    ends = Ends(b"x" * 25)
    ends.connect()
    assert ends.offer() == Offer(replace(MESSAGE, call=7), 25, google_crc32c.value(b"x" * 25))


def test_only_so_many_chunks_are_under_way() -> None:
    ends = Ends(b"x" * 1000)
    ends.connect()
    assert [chunk.offset for chunk in ends.under_way] == [0, 10, 20]
    ends.step()
    assert [chunk.offset for chunk in ends.under_way] == [10, 20, 30]


def test_the_file_is_durable_before_it_is_handed_over() -> None:
    ends = Ends(b"x" * 25)
    ends.connect()
    while ends.under_way:
        ends.step()
    ends.storage.failure = "no room"
    with pytest.raises(StorageError, match="no room"):
        ends.staging.finish(ends.stream)
    with pytest.raises(BrokenOff):
        ends.staging.finish(ends.stream)


def test_the_last_answer_is_the_algorithms() -> None:
    ends = Ends(b"x")
    ends.connect()
    answer = InstallSnapshotReply(2, 1, term=4, success=True, match_index=9)
    assert ends.outgoing.answered(install_reply_to_wire(answer)) == []
    assert ends.outgoing.answer == answer


def test_the_algorithm_may_answer_before_anything_was_sent() -> None:
    ends = Ends(b"x" * 100)
    ends.outgoing = Outgoing(MESSAGE, ends.reader, 0, wire.Identity())
    refusal = InstallSnapshotReply(2, 1, term=5, success=False)
    assert ends.outgoing.answered(install_reply_to_wire(refusal)) == []
    assert ends.outgoing.answer == refusal


# ---- streams that break off ------------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=100), st.lists(st.integers(0, 12), max_size=5))
def test_the_next_stream_goes_on_where_the_last_one_stopped(data: bytes, cuts: list[int]) -> None:
    ends = Ends(data)
    arrived = 0
    for chunks in cuts:
        assert ends.connect() == arrived
        assert not ends.under_way or ends.under_way[0].offset == arrived, "what is there is not sent again"
        for _ in range(min(chunks, len(ends.under_way))):
            ends.step()
        arrived = ends.outgoing.acknowledged
    ends.connect()
    assert ends.run() == data
    assert len(ends.files) == 1


def test_another_leader_that_has_the_same_snapshot_goes_on_too() -> None:
    ends = Ends(b"x" * 50)
    ends.connect()
    ends.step()
    ends.message = replace(MESSAGE, sender=3, term=5)
    assert ends.connect() == 10
    assert ends.offer().message.term == 5


@pytest.mark.parametrize("other", [b"x" * 51, b"x" * 49 + b"y"], ids=["another size", "other bytes"])
def test_another_snapshot_begins_a_new_file(other: bytes) -> None:
    ends = Ends(b"x" * 50)
    ends.connect()
    ends.step()
    ends.load(other)
    assert ends.connect() == 0
    assert ends.run() == other
    assert len(ends.files) == 2


def test_a_snapshot_of_another_entry_begins_a_new_file() -> None:
    ends = Ends(b"x" * 50)
    ends.connect()
    ends.step()
    ends.message = replace(MESSAGE, snapshot=SnapshotMeta(at(10, 3)))
    assert ends.connect() == 0


def test_a_stream_that_was_taken_over_adds_nothing_any_more() -> None:
    ends = Ends(b"x" * 50)
    ends.connect()
    old_stream, [chunk, *_] = ends.stream, list(ends.under_way)
    ends.connect()
    with pytest.raises(BrokenOff, match="newer stream"):
        ends.staging.take(old_stream, chunk)
    with pytest.raises(BrokenOff, match="newer stream"):
        ends.staging.is_complete(old_stream)
    with pytest.raises(BrokenOff, match="newer stream"):
        ends.staging.finish(old_stream)
    assert ends.run() == ends.data


def test_a_chunk_that_arrives_twice_is_taken_once() -> None:
    ends = Ends(b"abcdefghij" * 3)
    ends.connect()
    chunk = ends.under_way[0]
    ends.step()
    assert ends.staging.take(ends.stream, chunk) == 10
    assert ends.run() == ends.data


def test_a_chunk_that_overtakes_another_breaks_the_stream_off() -> None:
    ends = Ends(b"x" * 50)
    ends.connect()
    with pytest.raises(BrokenOff, match="does not follow"):
        ends.staging.take(ends.stream, ends.under_way[1])
    assert ends.connect() == 0
    assert ends.run() == ends.data


def test_when_the_node_stops_the_file_goes() -> None:
    ends = Ends(b"x" * 50)
    ends.connect()
    ends.step()
    ends.staging.close()
    assert content(ends.files[0]) == b""
    with pytest.raises(BrokenOff):
        ends.step()


@pytest.mark.parametrize(("committed", "is_kept"), [(8, True), (9, False), (12, False)])
def test_half_a_snapshot_goes_once_the_follower_has_all_that_by_other_ways(committed: int, is_kept: bool) -> None:
    ends = Ends(b"x" * 50)
    assert ends.staging.last_index == 0
    ends.connect()
    ends.step()
    assert ends.staging.last_index == 9

    ends.staging.forget_up_to(committed)

    assert ends.staging.last_index == (9 if is_kept else 0)
    assert content(ends.files[0]) == (b"x" * 10 if is_kept else b"")
    if not is_kept:
        with pytest.raises(BrokenOff):
            ends.step()


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def damage_data(chunk: wire.InstallSnapshotRequest) -> None:
    chunk.data = b"?" + chunk.data[1:]


def damage_checksum(chunk: wire.InstallSnapshotRequest) -> None:
    chunk.data_checksum ^= 1


def go_beyond_the_end(chunk: wire.InstallSnapshotRequest) -> None:
    chunk.data = b"x" * 51
    chunk.data_checksum = google_crc32c.value(chunk.data)


@pytest.mark.parametrize("damage", [damage_data, damage_checksum, go_beyond_the_end])
def test_a_damaged_chunk_is_refused(damage: Callable[[wire.InstallSnapshotRequest], None]) -> None:
    ends = Ends(b"x" * 50)
    ends.connect()
    damage(ends.under_way[0])
    with pytest.raises(Malformed, match="the chunk at 0 is damaged"):
        ends.step()
    ends.connect()
    assert ends.run() == ends.data


def test_chunks_that_are_whole_but_not_of_this_snapshot_are_noticed_in_the_end() -> None:
    ends = Ends(b"x" * 20)
    ends.connect()
    ends.under_way[1].data = b"y" * 10
    ends.under_way[1].data_checksum = google_crc32c.value(b"y" * 10)
    with pytest.raises(Malformed, match="not the snapshot that was offered"):
        ends.run()
    assert ends.connect() == 0, "nothing of it is used"


def test_a_disk_that_is_full_costs_the_file_and_nothing_else() -> None:
    ends = Ends(b"x" * 50)
    ends.connect()
    ends.step()
    ends.storage.failure = "no room"
    with pytest.raises(StorageError, match="no room"):
        ends.step()
    assert content(ends.files[0]) == b""
    ends.storage.failure = ""
    assert ends.connect() == 0
    assert ends.run() == ends.data


@pytest.mark.parametrize(
    "change",
    [
        {"term": 0},
        {"term": 2},
        {"last_index": 0},
        {"last_term": 0},
        {"size": 0},
        {"last_index": 1 << 63},
        {"size": 1 << 63},
        {"configuration": b"nobody"},
    ],
)
def test_what_no_leader_offers_is_malformed(change: dict[str, Any]) -> None:
    request = Outgoing(MESSAGE, reader_of(b"x"), 1, wire.Identity()).first()
    for field, value in change.items():
        setattr(request, field, value)
    with pytest.raises(Malformed):
        offer_from_wire(request, me=2, call=7)


@pytest.mark.parametrize(
    "replies",
    [
        [arrived_to_wire(4, 51)],
        [arrived_to_wire(4, 0), arrived_to_wire(4, 31)],
        [wire.InstallSnapshotReply(term=1 << 63, done=True)],
    ],
    ids=["more than there is", "more than was sent", "an impossible term"],
)
def test_an_impossible_answer_is_malformed(replies: list[wire.InstallSnapshotReply]) -> None:
    outgoing = Outgoing(MESSAGE, reader_of(b"x" * 50), 1, wire.Identity(), chunk_bytes=CHUNK, window=3)
    *possible, impossible = replies
    for reply in possible:
        outgoing.answered(reply)
    with pytest.raises(Malformed):
        outgoing.answered(impossible)
