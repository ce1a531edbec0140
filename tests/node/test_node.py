"""Nodes as a whole: what they do together, how they stop, and what makes them stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from raftkv.config import NodeConfig
from raftkv.log_storage import StorageError
from raftkv.node import RaftNode
from raftkv.operations import Batch, Code, Operation, encode_batch
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.types import Entry, EntryKind, HardState, LogPosition, SnapshotMeta
from raftkv.replica import Input, Unreachable
from raftkv.settings import server_limits
from raftkv.transport import entry_to_wire
from raftkv.wire import raft_pb2 as wire
from tests.node.members import STEADY, Members
from tests.support.processes import wait_until


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path, 3)
    yield members
    members.close()


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path, 3, STEADY)
    yield members
    members.close()


# ---- together --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_reaches_all_members(steady: Members) -> None:
    steady.start()
    leader = steady.elect(1)
    assert steady.ask(leader, "SET k v").success
    assert steady.ask(leader, "GET k").data == "v"
    assert steady.ask(leader, "KEYS").data == "k"
    steady.wait_until_equal()
    for id in (2, 3):
        reply = steady.ask(steady.nodes[id], "SET k w")
        assert (reply.success, reply.leader_id) == (False, 1)


def test_no_other_snapshot_is_opened_than_the_one_that_is_meant(steady: Members) -> None:
    steady.start()
    assert steady.nodes[1].open_snapshot(SnapshotMeta(LogPosition(1, 1))) is None


def test_each_member_has_dice_of_its_own(steady: Members) -> None:
    """Section 5.2. With the same ones, members that hear the last of their leader at the same time would stand for
    election at the same time, and again, and again."""
    dice = [steady.open(id)._replica.raft._rng.random() for id in steady.addresses]
    assert len(set(dice)) == len(dice)


def test_a_cluster_of_one_serves_at_once(tmp_path: Path) -> None:
    members = Members(tmp_path, 1)
    members.start()
    assert members.ask_leader("SET k v").success
    assert members.ask_leader("GET k").data == "v"
    members.close()


def test_the_rest_goes_on_when_the_leader_stops_and_it_catches_up_when_it_is_back(three: Members) -> None:
    three.start()
    three.ask_leader("SET a 1")
    old = three.leader().membership.me
    three.stop(old)
    three.ask_leader("SET b 2")
    assert three.ask_leader("GET a").data == "1"
    three.start(old)
    three.ask_leader("SET c 3")
    three.wait_until_equal()
    assert not any(three.failures.values())


def test_all_that_was_acknowledged_is_there_after_all_have_stopped(steady: Members) -> None:
    steady.start()
    leader = steady.elect(1)
    for i in range(20):
        assert steady.ask(leader, f"SET k{i} {i}").success
    steady.stop()
    steady.start()
    leader = steady.elect(steady.most_up_to_date())
    assert [steady.ask(leader, f"GET k{i}").data for i in range(20)] == [str(i) for i in range(20)]


def test_many_clients_at_once_are_all_answered(steady: Members) -> None:
    steady.start()
    leader = steady.elect(1)
    calls = [steady.begin(leader, f"SET k{i} v") for i in range(300)]
    assert all(call.result().success for call in calls)
    assert leader.count()[:2] == (300, 300)
    steady.wait_until_equal()


def test_every_directory_learns_the_clusters_id_and_keeps_it(steady: Members) -> None:
    """Rule 11."""
    steady.start()
    assert steady.ask(steady.elect(1), "SET k v").success
    wait_until(lambda: all(node.membership.cluster_id for node in steady.nodes.values()), "all know it")
    ids = [node.membership.cluster_id for node in steady.nodes.values()]
    assert len(set(ids)) == 1
    assert len(ids[0]) == 16
    senders = [sender for node in steady.nodes.values() for sender in node._peers.senders.values()]
    wait_until(lambda: {sender._identity.cluster_id for sender in senders} == {ids[0]}, "all requests carry it")
    steady.stop()
    assert [steady.open(id).membership.cluster_id for id in steady.addresses] == ids


def test_a_stranger_is_noted_once_and_again_when_something_else_is_wrong_or_after_a_while(
    three: Members, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = three.open(1)
    for why in ("another cluster", "another cluster", "another list", "another list"):
        node.note_stranger(2, "ipv4:1.2.3.4:5", why)
    for claimed in range(4, 1000):
        node.note_stranger(claimed, "ipv4:1.2.3.4:5", "no such peer")
    much_later = node._now() + 3600
    monkeypatch.setattr(node, "_now", lambda: much_later)
    node.note_stranger(2, "ipv4:1.2.3.4:5", "another list")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "refuses node 2 at ipv4:1.2.3.4:5: another cluster",
        "refuses node 2 at ipv4:1.2.3.4:5: another list",
        "refuses node 4 at ipv4:1.2.3.4:5: no such peer",
        "refuses node 2 at ipv4:1.2.3.4:5: another list",
    ]


# ---- sizes (hazards 15, 58) ------------------------------------------------------------------------------------------


def test_the_largest_batches_reach_a_member_that_was_away(steady: Members) -> None:
    """4 MiB each, gRPC's limit, and more of them than one request may carry."""
    steady.start()
    leader = steady.elect(1)
    steady.stop(3)
    operations = [Operation(Code.SET, b"k%d" % i, bytes(1 << 20)) for i in range(3)]
    operations.append(Operation(Code.SET, b"rest", bytes((1 << 20) - 200)))
    data = encode_batch(Batch(operations))
    assert STEADY.max_batch_bytes - 200 < len(data) <= STEADY.max_batch_bytes
    calls = [steady.begin_fields(leader, 30, batch=data) for _ in range(4)]
    assert all(call.result().success for call in calls)
    steady.start(3)
    steady.wait_until_equal()
    assert not any(steady.failures.values())


def test_a_long_line_of_the_shortest_entries_reaches_a_member_that_was_away(tmp_path: Path) -> None:
    """They are much larger on the wire than what the leader counts of them."""
    members = Members(tmp_path, 3, replace(STEADY, max_append_bytes=1 << 12))
    members.start()
    leader = members.elect(1)
    members.stop(3)
    for _ in range(4):
        assert all(call.result() for call in [members.begin(leader, "DEL k") for _ in range(300)])
    members.start(3)
    members.wait_until_equal()
    assert not any(members.failures.values())
    members.close()


def test_no_entry_is_ten_times_as_large_on_the_wire_as_its_payload() -> None:
    """What the limit of a message's size is made from."""
    shortest = Entry(1, 2**64 - 1, EntryKind.TEXT, b"DEL k", time_ms=2**64 - 1)
    request = wire.AppendEntriesRequest(entries=[entry_to_wire(shortest)])
    assert request.ByteSize() <= 10 * len(shortest.payload)


def test_a_message_has_room_for_the_shortest_entries_and_a_batch_besides() -> None:
    config = NodeConfig(max_append_bytes=1 << 24)
    assert server_limits(config).max_message_bytes >= 10 * config.max_append_bytes + config.max_batch_bytes


# ---- stopping --------------------------------------------------------------------------------------------------------


def cut_off(members: Members) -> RaftNode:
    """A leader all of whose followers have gone, and which does not know it yet."""
    members.start()
    leader = members.elect(1)
    members.stop(*(node.membership.me for node in members.followers()))
    return leader


def test_a_write_in_flight_is_answered_with_unknown_when_the_node_stops(steady: Members) -> None:
    leader = cut_off(steady)
    last = leader.status().last_log_index
    calls = [steady.begin(leader, f"SET k{i} v", timeout=30) for i in range(5)]
    wait_until(lambda: leader.status().last_log_index == last + 5, "they are proposed")
    begin = time.monotonic()
    steady.stop(leader.membership.me)
    assert time.monotonic() - begin < 3
    for call in calls:
        error = call.exception(timeout=5)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "the node is stopping; whether the write was or will be applied is unknown" in error.details()


def test_a_call_that_has_not_begun_when_the_node_stops_is_told_that_nothing_was_done(tmp_path: Path) -> None:
    members = Members(tmp_path, 3, replace(STEADY, client_threads=2))
    leader = cut_off(members)
    done = threading.Event()

    def wait() -> None:
        done.wait(30)

    for _ in range(2):
        leader._server.aside(wait)
    calls = [members.begin(leader, f"SET k{i} v", timeout=30) for i in range(4)]
    wait_until(lambda: leader._server._client_pool.calls == 6, "two are under way and four wait")
    abandon = leader._replica.abandon

    def abandon_and_go_on(reason: str) -> None:
        abandon(reason)
        done.set()

    leader._replica.abandon = abandon_and_go_on  # type: ignore[method-assign]
    members.stop(1)
    replies = [call.result(timeout=5) for call in calls]
    assert [(reply.success, reply.leader_id) for reply in replies] == [(False, 0)] * 4
    members.close()


def test_a_read_in_flight_is_answered_when_the_node_stops(steady: Members) -> None:
    leader = cut_off(steady)
    call = steady.begin(leader, "GET k", timeout=30)
    wait_until(lambda: leader._server._client_pool.calls == 1, "it has arrived")
    begin = time.monotonic()
    steady.stop(leader.membership.me)
    assert time.monotonic() - begin < 3
    wait_until(call.done, "the answer", seconds=5)
    wait_until(lambda: leader._server._client_pool.calls == 0, "it counts no more", seconds=5)


def test_calls_that_can_be_carried_out_are_carried_out_before_the_node_stops(steady: Members) -> None:
    steady.start()
    leader = steady.elect(1)
    calls = [steady.begin(leader, f"SET k{i} v") for i in range(50)]
    wait_until(lambda: leader.status().last_log_index > 10, "some are under way")
    steady.nodes.pop(1).stop()
    done = [call.exception(timeout=5) is None and call.result().success for call in calls]
    assert any(done)
    steady.stop()
    steady.start()  # a follower that remembers the leader would not vote
    leader = steady.elect(steady.most_up_to_date())
    written = {f"k{i}" for i in range(50) if done[i]}
    assert written <= set(steady.ask(leader, "KEYS").data.split())


def test_a_node_that_stops_waits_for_the_quorum_of_a_write_under_way(steady: Members) -> None:
    steady.start()
    leader = steady.elect(1)
    last = leader.status().last_log_index
    with ExitStack() as held:
        for follower in steady.followers():
            held.enter_context(follower._turn._lock)  # it takes part in nothing
        call = steady.begin(leader, "SET k v")
        wait_until(lambda: leader.status().last_log_index > last, "the write is under way")
        stopping = threading.Thread(target=steady.nodes.pop(1).stop, args=(10.0,))
        stopping.start()
        with pytest.raises(grpc.FutureTimeoutError):
            call.exception(timeout=0.3)
    assert call.result(timeout=5).success
    stopping.join()


def test_an_idle_node_stops_promptly(three: Members) -> None:
    three.start()
    three.leader()
    begin = time.monotonic()
    for id in list(three.nodes):
        three.nodes.pop(id).stop()
    assert time.monotonic() - begin < 3


def test_a_node_stops_at_once_though_streams_of_clients_and_peers_are_open(steady: Members) -> None:
    steady.start()
    leader = steady.elect(1)
    assert steady.ask(leader, "SET k v").success
    steady.wait_until_equal()
    followers = [node for node in steady.nodes.values() if node is not leader]
    assert all(node._server._peer_streams for node in followers), "the leader's streams to them"
    channel = grpc.insecure_channel(steady.addresses[1])
    begin: Any = channel.stream_stream("/RaftNode/ServeClientStream")
    requests: SimpleQueue[bytes | None] = SimpleQueue()
    answers = begin(iter(requests.get, None))
    requests.put(wire.ClientRequest(id=7, get=[b"k"]).SerializeToString())
    assert wire.ClientReply.FromString(next(answers)).values == [b"v"]
    for id in (3, 1, 2):
        began = time.monotonic()
        steady.nodes.pop(id).stop(grace=20.0)
        assert time.monotonic() - began < 10.0, "it has waited for a stream to end by itself"
    with suppress(grpc.RpcError):  # CANCELLED: it was the node that ended it
        assert not list(answers)
    requests.put(None)
    channel.close()


# ---- what makes a node stop (hazards 13, 51) -------------------------------------------------------------------------


class Sabotage:
    """Makes the replica raise as soon as a certain kind of thread holds the turn."""

    def __init__(self, node: RaftNode, thread: str) -> None:
        self.bug = ZeroDivisionError(f"in a thread of the kind {thread}")
        self._thread = thread
        self._turn = node._replica.turn
        node._replica.turn = self.turn  # type: ignore[method-assign]

    def turn(self, inputs: Iterable[Input], now: float) -> bool:
        name = threading.current_thread().name
        kind = name.split("_")[0] if name.startswith(("client", "peer", "timer")) else "gRPC"
        if kind == self._thread:
            raise self.bug
        return self._turn(inputs, now)


@pytest.mark.parametrize("thread", ["client", "peer", "timer", "gRPC"])
def test_an_exception_in_any_thread_stops_the_node(three: Members, thread: str) -> None:
    three.start()
    leader = three.leader()
    victim = three.followers()[0] if thread == "peer" else leader
    sabotage = Sabotage(victim, thread)

    def has_failed() -> bool:
        three.begin(leader, "SET k v", timeout=0.2)
        return bool(three.failures[victim.membership.me])

    wait_until(has_failed, "the node is told to stop")
    assert three.failures[victim.membership.me] == [sabotage.bug]


def test_after_a_failed_write_to_the_disk_nothing_leaves_the_node_any_more(steady: Members) -> None:
    """Hazard 13. The leader's entries have left before (dissertation, 10.2.1); an acknowledgement must not."""
    steady.start()
    leader, id = steady.elect(1), 1
    sent: list[object] = []
    writes = 0

    def persist(hard_state: HardState | None, entries: Sequence[Entry], commit_index: int) -> None:
        nonlocal writes
        writes += 1
        sent.clear()
        raise StorageError("log-1: no space left; free some, then start the node again")

    leader._storage.persist = persist  # type: ignore[method-assign]
    for sender in leader._peers.senders.values():
        sender.send = sent.append  # type: ignore[assignment, method-assign]
    leader._replica._send = sent.append
    calls = [steady.begin(leader, "SET k v", timeout=1.0) for _ in range(3)]
    wait_until(lambda: steady.failures[id], "the node is told to stop")
    codes = {call.exception().code() for call in calls}
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert [str(error) for error in steady.failures[id]] == [
        "log-1: no space left; free some, then start the node again"
    ]
    assert writes == 1, "a failed write was tried again"
    assert not sent


def test_a_snapshot_for_somebody_without_an_address_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the algorithm would wait for its end for as long as it leads."""
    members = Members(tmp_path, 1)
    node, brought = members.open(1), list[Input]()
    monkeypatch.setattr(node, "bring", brought.append)

    node._send(InstallSnapshot(1, 9, 1, SnapshotMeta(LogPosition(1, 1))))

    assert brought == [Unreachable(9)]
    monkeypatch.undo()
    members.close()
