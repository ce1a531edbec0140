"""Snapshots from one node to another over real gRPC: the leader's threads, and the follower's server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import pytest

from raftkv import snapshot_sender
from raftkv.log_storage import SnapshotReader, StorageError
from raftkv.memory_storage import MemoryStorage
from raftkv.raft.messages import InstallSnapshot, InstallSnapshotReply
from raftkv.raft.types import HardState, LogPosition, SnapshotMeta
from raftkv.replica import SnapshotReceived
from raftkv.snapshot_sender import MAX_TRANSFERS, SnapshotSenders
from raftkv.snapshot_transfer import CHUNK_BYTES
from raftkv.transport import Membership, SendingLimits, channel_options
from raftkv.wire import raft_pb2 as wire
from tests.node.fakes import FakeNode, fake_node
from tests.support.processes import free_port, wait_until
from tests.support.snapshots import encoded, file_with, machine_after

STATE = machine_after([1] * 9, value_bytes=10 * CHUNK_BYTES // 9)
SNAPSHOT, DATA = encoded(STATE)
CHUNKS = -(-len(DATA) // CHUNK_BYTES)
"""Some ten of them."""
LIMITS = SendingLimits(timeout=1.0, max_backoff=0.2, max_appends=4, max_message_bytes=1 << 20)
OPTIONS = channel_options(LIMITS)


class Leader:
    """Node 2, which leads, and has a snapshot; node 1 is the follower."""

    def __init__(self, address: str, data: bytes = DATA) -> None:
        self.membership = Membership(2, {1: address, 2: "two:2", 3: "three:3"}, b"c" * 16)
        self.brought: list[InstallSnapshotReply] = []
        self.lost: list[int] = []
        self.notes: list[str] = []
        self.bugs: list[BaseException] = []
        self.gates: list[Gate] = []
        self.term = 1
        self.time = 0.0
        self.storage = MemoryStorage()
        self.storage.persist(HardState(1), [], 0)
        self.storage.install_snapshot(SNAPSHOT, file_with(self.storage, data))
        self.senders = SnapshotSenders(self, OPTIONS, 5.0, self.notes.append, self.bugs.append)

    def open_snapshot(self, meta: SnapshotMeta) -> SnapshotReader | None:
        return self.storage.open_snapshot() if meta == self.storage.snapshot else None

    def leads(self, term: int) -> bool:
        return term == self.term

    def bring(self, item: InstallSnapshotReply) -> None:
        self.brought.append(item)

    def unreachable(self, peer: int) -> None:
        self.lost.append(peer)

    def now(self) -> float:
        return self.time

    def put_gate_before(self, storage: MemoryStorage) -> Gate:
        """Of the follower's disk; it is opened when all is over."""
        self.gates.append(Gate(storage))
        return self.gates[-1]

    def send(self, peer: int = 1) -> None:
        self.senders.send(InstallSnapshot(2, peer, self.term, SNAPSHOT), self.membership.addresses[peer])

    def wait(self) -> None:
        """Until something has come of one transfer."""
        wait_until(lambda: self.brought or self.lost, f"the transfer has ended: {self.notes}")

    def send_and_wait(self) -> None:
        self.brought.clear()
        self.lost.clear()
        self.send()
        self.wait()


@contextmanager
def two_nodes(data: bytes = DATA) -> Iterator[tuple[Leader, FakeNode]]:
    with fake_node() as node:
        leader = Leader(node.address, data)
        yield leader, node
        for gate in leader.gates:
            gate.open(CHUNKS)  # whoever waits there still would wait in vain
        leader.senders.close()
        wait_until(lambda: not leader.senders._under_way, "all transfers have ended")
        assert leader.bugs == node.bugs == []


class Gate:
    """A disk that writes only as many chunks as the test has let through; all, once the test is over."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.let_through = threading.Semaphore(0)
        self.written = 0
        begin = storage.begin_snapshot

        def begin_behind_gate(at_disks_pace: bool = False) -> Any:
            writer = begin(at_disks_pace)
            write = writer.write

            def gated(data: bytes) -> None:
                assert self.let_through.acquire(timeout=20)
                write(data)
                self.written += 1

            writer.write = gated  # type: ignore[method-assign]
            return writer

        storage.begin_snapshot = begin_behind_gate  # type: ignore[method-assign]

    def open(self, chunks: int) -> None:
        for _ in range(chunks):
            self.let_through.release()


def received(node: FakeNode) -> list[SnapshotReceived]:
    return [item for item in node.host.brought if isinstance(item, SnapshotReceived)]


# ---- as it should be -------------------------------------------------------------------------------------------------


def test_the_follower_gets_the_message_the_file_and_the_state_machine() -> None:
    with two_nodes() as (leader, node):
        leader.send_and_wait()

        [item] = received(node)
        assert replace(item.message, call=0) == InstallSnapshot(2, 1, 1, SNAPSHOT)
        assert item.state == STATE.freeze()
        STATE.thaw()
        assert bytes(item.writer.read(0, len(DATA) + 1)) == DATA
        assert leader.brought == [InstallSnapshotReply(1, 2, 1, True, 9)]


def test_threads_and_files_of_a_transfer_go_with_it() -> None:
    with two_nodes() as (leader, _):
        leader.send_and_wait()
        wait_until(
            lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("transfer")],
            "the thread has ended",
        )


@pytest.mark.parametrize("why", ["it has it already", "it knows a later term"])
def test_nothing_is_sent_that_the_follower_would_not_want(why: str) -> None:
    with two_nodes() as (leader, node):
        if why == "it has it already":
            status = replace(node.host.status(), commit_index=9)
            node.host.status = lambda: status  # type: ignore[method-assign]
        else:
            node.host.term = 2
        leader.send_and_wait()

        assert received(node) == []
        assert [item for item in node.host.brought if isinstance(item, InstallSnapshot)] != []
        assert [reply.success for reply in leader.brought] == [why == "it has it already"]


def test_what_is_under_way_is_not_begun_twice() -> None:
    with two_nodes() as (leader, node):
        gate = leader.put_gate_before(node.storage)
        leader.send()
        gate.open(1)
        wait_until(lambda: gate.written, "the transfer is under way")
        leader.send()
        gate.open(20)
        leader.wait()

        assert len(received(node)) == 1
        assert (len(leader.brought), leader.lost) == (1, [])


def test_what_a_later_term_asks_for_is_not_answered_by_what_is_under_way() -> None:
    """The answer names the earlier term, so the algorithm would wait for ever."""
    with two_nodes() as (leader, node):
        gate = leader.put_gate_before(node.storage)
        leader.send()
        gate.open(1)
        wait_until(lambda: gate.written, "the transfer is under way")
        leader.term += 1
        leader.send()
        gate.open(20)
        leader.wait()

        wait_until(lambda: leader.lost == [1], "it is told that nothing has come of the second one")


def test_only_so_many_followers_at_a_time() -> None:
    with two_nodes() as (leader, node):
        gate = leader.put_gate_before(node.storage)
        members = {member: node.address for member in range(1, 9) if member != 2} | {2: "two:2"}
        leader.membership = Membership(2, members, b"c" * 16)
        for peer in [1, 3, 4][:MAX_TRANSFERS]:
            leader.send(peer)
        assert leader.lost == []

        leader.send(8)

        assert leader.lost == [8]
        gate.open(100)


# ---- what goes wrong on the way --------------------------------------------------------------------------------------


def test_half_a_transfer_does_nothing_and_the_next_one_goes_on_from_there() -> None:
    with two_nodes() as (leader, node):
        gate = leader.put_gate_before(node.storage)
        leader.send()
        gate.open(6)
        wait_until(lambda: gate.written == 6, "half of it is there")
        leader.term = 2  # it leads no more: the transfer is given up at the next answer
        gate.open(1)
        leader.wait()
        assert received(node) == []
        assert (leader.brought, leader.lost) == ([], [1])
        assert "term 1 is over" in leader.notes[-1]

        gate.open(20)
        node.host.term = 2
        leader.send_and_wait()

        assert len(received(node)) == 1
        assert gate.written == CHUNKS, "no chunk was written twice"


def test_half_a_transfer_is_thrown_away_once_the_follower_has_got_it_by_other_ways() -> None:
    with two_nodes() as (leader, node):
        gate = leader.put_gate_before(node.storage)
        leader.send()
        gate.open(2)
        wait_until(lambda: gate.written == 2, "some of it is there")
        asides: list[Callable[[], None]] = []

        node.receiver.committed(8, asides.append)
        assert asides == []
        node.receiver.committed(9, asides.append)
        [throw_away] = asides
        throwing_away = threading.Thread(target=throw_away)  # it waits for the chunk that is just being written
        throwing_away.start()

        def is_over() -> bool:
            gate.open(1)
            return not throwing_away.is_alive()

        wait_until(is_over, "it has been thrown away")
        leader.wait()

        assert leader.lost == [1]
        assert received(node) == []
        asides.clear()
        node.receiver.committed(10, asides.append)
        assert asides == []


def test_a_follower_that_is_not_there_is_soon_known_to_be_lost() -> None:
    leader = Leader(f"127.0.0.1:{free_port()}")
    leader.send_and_wait()
    assert leader.lost == [1]
    assert leader.bugs == []


def test_a_follower_that_dies_in_the_middle_is_soon_known_to_be_lost() -> None:
    with two_nodes() as (leader, node):
        gate = leader.put_gate_before(node.storage)
        leader.send()
        gate.open(2)
        wait_until(lambda: gate.written == 2, "the transfer is under way")
        node.server.drain(0)
        gate.open(1)
        node.server.stop()
        leader.wait()
        assert leader.lost == [1]


def test_a_leader_that_stops_gives_up() -> None:
    with two_nodes() as (leader, node):
        gate = leader.put_gate_before(node.storage)
        leader.send()
        gate.open(1)
        wait_until(lambda: gate.written, "the transfer is under way")

        leader.senders.close()
        leader.wait()
        gate.open(20)
        leader.lost.clear()
        leader.send()

        assert leader.lost == [1], "nothing is begun any more"
        assert received(node) == []


def test_a_follower_without_room_refuses_and_is_left_alone_for_a_while() -> None:
    with two_nodes() as (leader, node):
        node.storage.failure = "no space left"
        leader.send_and_wait()
        assert leader.lost == [1]
        assert "no space left" in leader.notes[-1]
        assert "no space left" in node.notes[-1]

        node.storage.failure = ""
        leader.send_and_wait()
        assert leader.lost == [1]
        leader.time = snapshot_sender._AGAIN_AFTER
        leader.send_and_wait()

        assert len(leader.brought) == 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (DATA[:-1], "can't be read"),
        (b"newer format", "this is not a snapshot"),
        (encoded(machine_after([1] * 10))[1], "holds the state after LogPosition(term=1, index=10)"),
    ],
)
def test_a_snapshot_that_is_not_what_it_should_be_is_refused(data: bytes, why: str) -> None:
    with two_nodes(data) as (leader, node):
        leader.send_and_wait()
        assert leader.lost == [1]
        assert why in leader.notes[-1]
        assert received(node) == []


def test_a_leader_whose_own_snapshot_can_not_be_read_goes_on_without() -> None:
    with two_nodes() as (leader, _):
        reader = leader.storage.open_snapshot()
        leader.open_snapshot = lambda meta: reader  # type: ignore[method-assign]

        def fail(offset: int, length: int) -> bytes:
            raise StorageError("I/O error")

        reader.read = fail  # type: ignore[method-assign]
        leader.send_and_wait()
        assert leader.lost == [1]
        assert "I/O error" in leader.notes[-1]


def test_a_snapshot_whose_place_another_has_taken_in_the_same_turn_is_not_mistaken_for_it() -> None:
    with two_nodes() as (leader, _):
        leader.senders.send(InstallSnapshot(2, 1, 1, SnapshotMeta(LogPosition(1, 2))), leader.membership.addresses[1])
        assert leader.lost == [1]
        assert leader.notes == []


def test_hazard_51_a_bug_in_a_transfer_stops_the_node() -> None:
    with fake_node() as node:
        leader = Leader(node.address)

        def bring(item: InstallSnapshotReply) -> None:
            raise RuntimeError("bug")

        leader.bring = bring  # type: ignore[method-assign]
        leader.send()
        [bug] = wait_until(lambda: leader.bugs, "the node is told")
        assert str(bug) == "bug"


# ---- strangers -------------------------------------------------------------------------------------------------------


def status_of(node: FakeNode, requests: list[wire.InstallSnapshotRequest]) -> grpc.StatusCode:
    """The status with which such a stream ends."""
    multi: Any = node.channel.stream_stream(
        "/RaftNode/InstallSnapshot",
        wire.InstallSnapshotRequest.SerializeToString,
        wire.InstallSnapshotReply.FromString,
    )
    call = multi(iter(requests), timeout=10)
    with suppress(grpc.RpcError):
        for _ in call:
            pass
    code: grpc.StatusCode = call.code()
    return code


def first(**changes: Any) -> wire.InstallSnapshotRequest:
    fields = {"term": 1, "leader_id": 2, "last_index": 9, "last_term": 1, "size": 5}
    return wire.InstallSnapshotRequest(**{**fields, **changes})


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (first(leader_id=7), grpc.StatusCode.FAILED_PRECONDITION),
        (first(identity=wire.Identity(cluster_id=b"x" * 16)), grpc.StatusCode.FAILED_PRECONDITION),
        (first(identity=wire.Identity(sender=3)), grpc.StatusCode.INVALID_ARGUMENT),
        (first(last_term=2), grpc.StatusCode.INVALID_ARGUMENT),
        (first(size=0), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_stranger_s_snapshot_is_refused(request_: wire.InstallSnapshotRequest, code: grpc.StatusCode) -> None:
    with fake_node() as node:
        assert status_of(node, [request_]) is code
        assert node.bugs == []


@pytest.mark.parametrize(
    ("requests", "code"),
    [
        ([], grpc.StatusCode.FAILED_PRECONDITION),
        ([first()], grpc.StatusCode.CANCELLED),
        ([first(), wire.InstallSnapshotRequest(offset=3, data=b"x")], grpc.StatusCode.ABORTED),
        ([first(), wire.InstallSnapshotRequest(data=b"xy", data_checksum=1)], grpc.StatusCode.DATA_LOSS),
    ],
    ids=["nothing", "no chunks", "a gap", "damage"],
)
def test_a_stream_that_is_not_as_it_should_be_ends_with_a_status(
    requests: list[wire.InstallSnapshotRequest], code: grpc.StatusCode
) -> None:
    with fake_node() as node:
        assert status_of(node, requests) is code
        assert node.bugs == []


def test_a_newer_stream_of_a_leader_frees_the_thread_of_the_one_before() -> None:
    with fake_node() as node:
        waiting = threading.Event()

        def requests() -> Iterator[wire.InstallSnapshotRequest]:
            yield first()
            waiting.wait(20)

        multi: Any = node.channel.stream_stream(
            "/RaftNode/InstallSnapshot",
            wire.InstallSnapshotRequest.SerializeToString,
            wire.InstallSnapshotReply.FromString,
        )
        older = multi(requests())
        assert next(older).next_offset == 0
        newer = multi(requests())
        assert next(newer).next_offset == 0
        assert older.code() is grpc.StatusCode.CANCELLED
        waiting.set()
        newer.cancel()
