"""The server: an address of its own, threads for each kind of call, and what happens if one raises."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest

from raftkv import clock, server
from raftkv.raft.messages import AppendEntries, RequestVote
from raftkv.raft.types import ORIGIN
from raftkv.replica import Input, NotLeader, Write
from raftkv.server import CannotListen, Server, ServerLimits
from raftkv.transport import Membership, request_to_wire
from raftkv.wire import raft_pb2 as wire
from tests.node.fakes import LIMITS, FakeNode, fake_node
from tests.support.processes import free_port, wait_until

ROOMY = replace(LIMITS, max_waiting_bytes=1 << 20)
"""For many writes that wait."""


def new_server() -> Server:
    return Server(ServerLimits(client_threads=1, max_waiting_calls=1, max_message_bytes=1000), 2, lambda error: None)


def vote_round_trip(node: FakeNode) -> float:
    """Seconds that a peer waits for its answer."""
    peer = Membership(2, node.host.membership.addresses, node.host.membership.cluster_id)
    request = request_to_wire(RequestVote(2, 1, 1, ORIGIN), peer.identity_for(1))
    begin = clock.now()
    assert node.call("RequestVote", request, wire.RequestVoteReply).vote_granted
    return clock.now() - begin


def heartbeat_round_trip(node: FakeNode) -> float:
    """Seconds that a leader waits for its answer."""
    begin = clock.now()
    assert begin_heartbeat(node).result().success
    return clock.now() - begin


def begin_heartbeat(node: FakeNode) -> Any:
    peer = Membership(2, node.host.membership.addresses, node.host.membership.cluster_id)
    request = request_to_wire(AppendEntries(2, 1, 1, ORIGIN, (), 0, 0, 1), peer.identity_for(1))
    return node.begin("AppendEntries", request, wire.AppendEntriesReply)


class HeldWrites:
    """Keeps all writes waiting until they are released."""

    def __init__(self, node: FakeNode) -> None:
        self.waiting: list[Write] = []
        self._node = node
        node.host.bring_instead = self._bring

    def _bring(self, item: Input) -> None:
        if isinstance(item, Write):
            self.waiting.append(item)
        elif isinstance(item, AppendEntries | RequestVote):
            self._node.host.reply(item)

    def release(self) -> None:
        self._node.host.bring_instead = None
        for write in self.waiting:
            write.caller.answer(NotLeader(2))


def begin_writes(node: FakeNode, count: int) -> list[Any]:
    request = wire.ServeClientRequest(request="SET k v")
    return [node.begin("ServeClient", request, wire.ServeClientReply, timeout=20) for _ in range(count)]


def test_peers_and_status_are_answered_at_once_while_every_client_thread_is_taken() -> None:
    """Hazard 49. This is also the test that notices if gRPC should drop the attribute that gives a method its pool."""
    with fake_node(ROOMY, client_threads=4) as node:
        held = HeldWrites(node)
        calls = begin_writes(node, 40)
        wait_until(lambda: len(held.waiting) == 4, "the clients' threads are taken")
        wait_until(lambda: node.server._client_pool.calls == 40, "the others wait")
        assert max(vote_round_trip(node) for _ in range(20)) < 1.0
        assert max(heartbeat_round_trip(node) for _ in range(20)) < 1.0
        assert node.call("Status", wire.StatusRequest(), wire.StatusReply, timeout=1.0).role == "leader"
        assert len(held.waiting) == 4
        held.release()
        assert all(call.result(timeout=10) for call in calls)


def test_a_peer_is_answered_while_the_others_wait_for_their_answers() -> None:
    """A slow disk holds up to two requests of each of the two peers."""
    with fake_node() as node:
        held: list[Input] = []
        node.host.bring_instead = held.append
        calls = [begin_heartbeat(node) for _ in range(4)]
        wait_until(lambda: len(held) == 4, "they wait")
        node.host.bring_instead = None
        assert heartbeat_round_trip(node) < 1.0
        for item in held:
            assert isinstance(item, AppendEntries)
            node.host.reply(item)
        assert all(call.result().success for call in calls)


def test_peers_are_answered_while_clients_call_as_fast_as_they_can() -> None:
    with fake_node(ROOMY, client_threads=4) as node:
        done = threading.Event()

        def flood() -> None:
            while not done.is_set():
                node.serve(request="SET k v")

        with ThreadPoolExecutor(16) as pool:
            floods = [pool.submit(flood) for _ in range(16)]
            waits = sorted(vote_round_trip(node) for _ in range(50))
            done.set()
        assert waits[25] < 0.3
        for one in floods:
            one.result()


def test_calls_beyond_those_that_may_wait_are_refused_before_anything_is_done() -> None:
    """Hazard 50."""
    with fake_node(ROOMY, client_threads=2, max_waiting_calls=5) as node:
        held = HeldWrites(node)
        calls = begin_writes(node, 20)
        wait_until(lambda: sum(call.done() for call in calls) == 15, "the refusals")
        refused = [call for call in calls if call.done()]
        errors = [call.exception() for call in refused]
        assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert vote_round_trip(node) < 1.0, "members are not refused"
        assert len(held.waiting) == 2
        held.release()
        assert all(call.result(timeout=10) for call in calls if call not in refused)
        wait_until(lambda: node.server._client_pool.calls == 0, "nobody waits any more")
        assert node.serve(request="SET k v").success


def test_a_call_that_its_client_gives_up_in_the_queue_makes_room_again() -> None:
    """It is never handed to the service, which therefore can't be what counts the calls."""
    with fake_node(ROOMY, client_threads=1, max_waiting_calls=3) as node:
        held = HeldWrites(node)
        calls = begin_writes(node, 3)
        wait_until(lambda: node.server._client_pool.calls == 3, "the queue is full")
        for call in calls:
            call.cancel()
        held.release()
        wait_until(lambda: node.server._client_pool.calls == 0, "nobody waits any more")
        assert node.serve(request="SET k v").success


def test_an_exception_in_a_method_stops_the_node() -> None:
    """Hazard 51."""
    bug = ZeroDivisionError("in a handler")

    def fail(_: Input) -> None:
        raise bug

    with fake_node() as node:
        node.host.bring_instead = fail
        code, _ = node.refusal(request="SET k v")
        assert code is grpc.StatusCode.UNKNOWN
        assert node.bugs == [bug]


def test_a_message_beyond_the_limit_is_refused_and_one_below_it_is_not() -> None:
    with fake_node(max_message_bytes=1000) as node:
        code, _ = node.refusal(request="x" * 1100)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        code, _ = node.refusal(request="x" * 900)
        assert code is grpc.StatusCode.INVALID_ARGUMENT


# ---- the address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what_happens", ["as it is", "both pass the check at the same moment"])
def test_two_servers_of_one_user_do_not_share_a_port(what_happens: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard 57: with gRPC's defaults the second would get half of the calls."""
    if what_happens != "as it is":
        monkeypatch.setattr(server, "_try_to_bind", lambda address: None)
    address = f"127.0.0.1:{free_port()}"
    first, second = new_server(), new_server()
    first.listen(address)
    with pytest.raises(CannotListen, match=f"cannot listen on {address}: "):
        second.listen(address)
    first.stop(0)


def test_a_port_that_a_program_shares_with_anybody_is_not_shared_with_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CannotListen, match="another process uses it"):
            new_server().listen(f"127.0.0.1:{other.getsockname()[1]}")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("192.0.2.1:50051", "it is not an address of this machine"),
        ("no-such-host.invalid:50051", "no-such-host.invalid is no known host"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_line_with_the_mend(
    address: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CannotListen) as caught:
        new_server().listen(address)
    assert address in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not capfd.readouterr().err


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0"])
def test_the_usual_addresses_can_be_listened_on(host: str) -> None:
    port = free_port()
    listening = new_server()
    assert listening.listen(f"{host}:{port}") == port
    listening.stop(0)
