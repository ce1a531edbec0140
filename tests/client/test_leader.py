"""Finding the leader, and following it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final

import grpc
import pytest

from raftkv.client import Client, NotApplied
from raftkv.routing import _trouble
from raftkv.wire.raft_pb2 import ClientReply, ClientRequest, Member
from tests.client.fake_cluster import (
    FakeCluster,
    FakeMember,
    FakeStream,
    hang_undone,
    lose_request,
    refuse,
    then,
    wait_for,
)
from tests.support.processes import free_addresses, wait_until
from tests.support.ways import UNLIKE

QUICK = 3.0
"""Seconds: ample on a busy machine, and much less than the time-out of ten that a client which is stuck would take."""


def seconds(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


@pytest.mark.parametrize("leader", [1, 2, 3])
@pytest.mark.parametrize("known", [1, 2, 3])
def test_the_address_of_any_one_member_will_do(cluster: FakeCluster, leader: int, known: int) -> None:
    cluster.elect(leader)
    with Client([cluster.addresses[known - 1]]) as client:
        client.set("key", "value")
        assert client.get("key") == b"value"
    assert all(arrived.member == leader for arrived in cluster.arrived)


def test_an_address_may_have_its_id_in_front_as_a_node_takes_it(cluster: FakeCluster) -> None:
    with Client([f"3={cluster.addresses[2]}"]) as client:
        client.set("key", "value")


def test_addresses_where_nobody_listens_do_not_matter(cluster: FakeCluster, way: type[Client]) -> None:
    with way([free_addresses(1)[0], cluster.addresses[1], free_addresses(1)[0]]) as client:
        assert seconds(lambda: client.set("key", "value")) < QUICK


def test_a_member_that_hangs_does_not_hold_up_the_search(cluster: FakeCluster) -> None:
    cluster.members[2].pause()
    with Client(cluster.addresses) as client:
        assert seconds(lambda: client.set("key", "value")) < QUICK


@pytest.mark.parametrize("hint", [True, False])
def test_the_client_follows_a_leader_that_has_stepped_down(cluster: FakeCluster, client: Client, hint: bool) -> None:
    cluster.hint = hint
    client.set("key", "1")
    cluster.elect(2)
    calls = cluster.members[1].calls
    assert seconds(lambda: client.set("key", "2")) < QUICK
    assert client.get("key") == b"2"
    assert cluster.members[1].calls == calls + 1, "what it says once is believed"


def test_a_leader_that_is_overloaded_is_still_the_leader(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "1")
    asked = cluster.members[2].status_calls
    cluster.next_calls(refuse(grpc.StatusCode.RESOURCE_EXHAUSTED), refuse(grpc.StatusCode.RESOURCE_EXHAUSTED))
    client.set("key", "2")
    assert cluster.members[2].status_calls == asked, "to ask around would only add to the load"


def test_the_client_waits_for_an_election(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "1")
    cluster.elect(0)
    asked = cluster.members[3].status_calls
    writer = threading.Thread(target=client.set, args=("key", "2"))
    writer.start()
    wait_until(lambda: cluster.members[3].status_calls > asked + 3, "the client asks again and again")
    cluster.elect(3)
    assert seconds(writer.join) < QUICK
    assert client.get("key") == b"2"


def test_the_client_follows_when_the_leader_is_killed(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "1")
    cluster.members[1].kill()
    cluster.elect(2)
    assert seconds(lambda: client.set("key", "2")) < QUICK
    assert cluster.machine.get(b"key") == b"2"


def test_the_client_comes_back_to_a_cluster_that_was_down(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "1")
    for member in cluster.members.values():
        member.kill()
    assert {row.role for row in client.status()} == {"unreachable"}
    reader = threading.Thread(target=client.get, args=("key",))
    reader.start()
    for member in cluster.members.values():
        member.start()
    assert seconds(reader.join) < QUICK


def test_a_leader_that_hangs_is_left_when_another_is_elected(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "1")
    cluster.members[1].pause()
    arrived = len(cluster.arrived)
    writer = threading.Thread(target=client.set, args=("key", "2"))
    writer.start()
    wait_until(lambda: cluster.members[2].status_calls > 1, "the client asks the others")
    cluster.elect(2)
    assert seconds(writer.join) < QUICK
    assert [a.member for a in cluster.arrived[arrived:]] == [2]


@pytest.mark.parametrize("way", [Client])
@pytest.mark.parametrize("end", [FakeMember.pause, FakeMember.kill, FakeMember.resume])
def test_a_client_that_was_idle_when_its_leader_was_replaced_finds_the_new_one_in_a_moment(
    cluster: FakeCluster, client: Client, end: Callable[[FakeMember], None]
) -> None:
    """Whether the old one hangs, has gone, or says that it does not lead any more. The stream to it is still open, and
    so the first call after the pause is sent to it."""
    client.set("key", "1")
    wait_until(lambda: client._pipeline._is_asleep, "the client has nothing to do")
    cluster.elect(2)
    end(cluster.members[1])
    assert seconds(lambda: client.set("key", "2")) < QUICK
    assert client.get("key") == b"2"


def test_a_call_is_cancelled_when_its_leader_is_left(cluster: FakeCluster, client: Client) -> None:
    """Or the old leader would hold it, and a place among those that wait, until its time is over."""
    client.set("key", "1")
    left: list[FakeStream] = []

    def hang_and_tell(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
        left.append(stream)
        return None

    cluster.next_calls(hang_and_tell)
    writer = threading.Thread(target=client.set, args=("key", "2"))
    writer.start()
    asked = cluster.members[2].status_calls
    wait_until(lambda: cluster.members[2].status_calls > asked, "the client asks the others")
    cluster.elect(2)
    writer.join()
    assert left[0].ended.wait(QUICK)


@pytest.mark.parametrize("way", UNLIKE)
def test_a_leader_that_is_slow_is_not_left(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "1")
    slow = threading.Event()
    cluster.next_calls(wait_for(slow))
    calls = cluster.leader.calls
    writer = threading.Thread(target=client.set, args=("key", "2"))
    writer.start()
    asked = cluster.members[2].status_calls
    wait_until(lambda: cluster.members[2].status_calls >= asked + 2, "the client has asked around twice")
    slow.set()
    writer.join()
    assert cluster.leader.calls == calls + 1


def test_a_leader_of_an_old_term_does_not_win_against_the_present_one(cluster: FakeCluster, client: Client) -> None:
    """A leader that was stopped comes back and still thinks that it leads."""
    cluster.elect(2)
    client.set("key", "1")
    cluster.deluded = 1
    for _ in range(5):
        cluster.next_calls(lose_request)
        client.set("key", "2")
    assert cluster.members[1].calls == 0


@pytest.mark.parametrize("way", UNLIKE)
def test_a_leader_of_an_old_term_is_not_followed_while_the_present_one_is_silent(
    cluster: FakeCluster, client: Client
) -> None:
    cluster.elect(2)
    client.set("key", "1")
    cluster.deluded = 1
    cluster.members[2].pause()
    asked = cluster.members[1].status_calls
    writer = threading.Thread(target=client.set, args=("key", "2"))
    writer.start()
    wait_until(lambda: cluster.members[1].status_calls > asked + 2, "the client has asked around")
    cluster.members[2].resume()
    writer.join()
    assert cluster.members[1].calls == 0


def test_a_stranger_at_one_of_the_addresses_is_not_believed_though_it_answers_first(cluster: FakeCluster) -> None:
    cluster.stranger = 3
    cluster.members[1].pause()  # the leader
    with Client(cluster.addresses, timeout=QUICK) as client:
        writer = threading.Thread(target=client.set, args=("key", "value"))
        writer.start()
        wait_until(lambda: cluster.members[3].status_calls > 1, "the stranger has answered")
        cluster.members[1].resume()
        writer.join()
        assert client.get("key") == b"value"
        rows = {row.id: row for row in client.status()}
    assert rows[3].role == "unreachable"
    assert cluster.members[3].calls == 0


def test_a_leader_of_another_cluster_is_not_followed(cluster: FakeCluster) -> None:
    with Client(cluster.addresses, timeout=1.0) as client:
        client.set("key", "1")
        cluster.stranger = 2
        cluster.elect(2)
        with pytest.raises(NotApplied, match="none leads"):
            client.get("key")
    assert cluster.members[2].calls == 0


def test_the_first_leader_is_not_followed_before_it_says_of_which_cluster(cluster: FakeCluster) -> None:
    """Members that join later and the client have nothing else in common, once those that it knew are gone."""
    cluster.cluster_id, known = b"", cluster.cluster_id
    with Client(cluster.addresses, timeout=QUICK) as client:
        writer = threading.Thread(target=client.set, args=("key", "value"))
        writer.start()
        wait_until(lambda: cluster.members[1].status_calls > 3, "it has been asked again and again")
        assert cluster.members[1].calls == 0
        cluster.cluster_id = known
        writer.join()
    assert cluster.machine.get(b"key") == b"value"


def test_many_threads_look_for_the_leader_as_one(cluster: FakeCluster, way: type[Client]) -> None:
    cluster.elect(0)
    with way(cluster.addresses, timeout=10) as client:
        threads = [threading.Thread(target=client.get, args=("key",)) for _ in range(30)]
        for thread in threads:
            thread.start()
        wait_until(lambda: cluster.members[1].status_calls >= 6, "the client looks for the leader")
        cluster.elect(2)
        for thread in threads:
            thread.join()
    assert cluster.members[1].status_calls < 25


@pytest.mark.parametrize("way", [Client])
def test_a_client_at_work_asks_nobody_who_leads(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "value")
    asked = cluster.members[2].status_calls
    deadline = time.monotonic() + 1.5  # each answer is a sign of life: without them it would ask after a second
    while time.monotonic() < deadline:
        client.get("key")
    assert cluster.members[2].status_calls == asked


# ---- nobody leads ----------------------------------------------------------------------------------------------------


def test_without_a_server_the_failure_is_definite_and_in_time() -> None:
    address = free_addresses(1)[0]
    with Client([address], timeout=0.5) as client:
        start = time.monotonic()
        with pytest.raises(NotApplied, match=f"no member answers at {address}.*the write was not applied") as caught:
            client.set("key", "value")
        with pytest.raises(NotApplied, match="nothing was read"):
            client.get("key")
        assert time.monotonic() - start < 2.5
    assert caught.value.code == "UNAVAILABLE"


def test_a_slip_in_a_hosts_name_does_not_look_like_a_server_that_is_down() -> None:
    with Client(["no-such-host.invalid:50051"], timeout=2.0) as client:
        wait_until(
            lambda: [row.error for row in client.status()] == ["cannot resolve no-such-host.invalid"],
            "the resolver to give up",
            seconds=60,
        )
        with pytest.raises(NotApplied, match=r"no-such-host.invalid:50051 \(cannot resolve no-such-host.invalid\)"):
            client.get("key")


_FAILED: Final = "lookup failed for a:1: ..."
_LAST: Final = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1:"


@pytest.mark.parametrize(
    ("code", "details", "says"),
    [
        ("UNAVAILABLE", f"errors resolving a:1: [field:hostname lookup error:address {_FAILED}", "cannot resolve a"),
        ("UNAVAILABLE", f"errors resolving a:1: [... error:Address {_FAILED}", "cannot resolve a"),
        ("UNAVAILABLE", "DNS resolution failed for a:1: C-ares status is not ARES_SUCCESS ...", "cannot resolve a"),
        ("UNAVAILABLE", f"{_LAST} Failed to connect to remote host: Connection refused", "connection refused"),
        ("UNAVAILABLE", f"{_LAST} Trying to connect an http1.x server", "not a raftkv node"),
        (
            "UNAVAILABLE",
            f"{_LAST} Failed parsing HTTP/2 (Expected SETTINGS frame as ...",
            "not a raftkv node",
        ),
        ("UNIMPLEMENTED", "Method not found!", "not a raftkv node"),
        ("UNAVAILABLE", f"{_LAST} Socket closed", "UNAVAILABLE"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "DEADLINE_EXCEEDED"),
    ],
)
def test_what_versions_of_grpc_say_of_a_member_that_does_not_answer_is_understood(
    code: str, details: str, says: str
) -> None:
    assert _trouble("a:1", grpc.StatusCode[code], details) == says


def test_another_program_at_the_address_does_not_look_like_a_server_that_is_down() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with Client([f"127.0.0.1:{other.server_port}"], timeout=2.0) as client:
            assert [row.error for row in client.status()] == ["not a raftkv node"]
        other.shutdown()


@pytest.mark.parametrize("way", UNLIKE)
def test_without_a_leader_the_failure_is_definite_and_in_time(cluster: FakeCluster, way: type[Client]) -> None:
    cluster.elect(0)
    cluster.members[3].kill()
    with way(cluster.addresses, timeout=0.5) as client:
        start = time.monotonic()
        with pytest.raises(NotApplied, match="2 of 3 members answer, and none leads") as caught:
            client.set("key", "value")
        assert 0.3 < time.monotonic() - start < 1.5
    assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("way", UNLIKE)
def test_when_all_hang_the_failure_is_definite_and_in_time(cluster: FakeCluster, way: type[Client]) -> None:
    for member in cluster.members.values():
        member.pause()
    with way(cluster.addresses, timeout=0.5) as client:
        start = time.monotonic()
        with pytest.raises(NotApplied, match="no member answers"):
            client.set("key", "value")
        assert 0.3 < time.monotonic() - start < 1.5


def test_a_search_does_not_spin(cluster: FakeCluster) -> None:
    cluster.elect(0)
    with Client(cluster.addresses, timeout=1) as client, pytest.raises(NotApplied):
        client.get("key")
    assert cluster.members[1].status_calls < 25


def test_a_leader_that_refuses_is_not_asked_in_a_hot_loop(cluster: FakeCluster) -> None:
    cluster.next_calls(*[refuse(grpc.StatusCode.UNAVAILABLE)] * 1000)
    with Client(cluster.addresses, timeout=1) as client, pytest.raises(NotApplied):
        client.get("key")
    assert cluster.leader.calls < 25


def test_closing_ends_the_calls_of_other_threads(cluster: FakeCluster, way: type[Client]) -> None:
    cluster.elect(0)
    client = way(cluster.addresses)
    failed: list[NotApplied] = []

    def read() -> None:
        with pytest.raises(NotApplied) as caught:
            client.get("key")
        failed.append(caught.value)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    wait_until(lambda: cluster.members[1].status_calls, "the client looks for the leader")
    client.close()
    for reader in readers:
        assert seconds(reader.join) < QUICK
    assert {error.code for error in failed} == {"CANCELLED"}


def test_closing_while_the_leader_hangs_is_quick(cluster: FakeCluster, way: type[Client]) -> None:
    client = way(cluster.addresses)
    client.set("key", "value")
    cluster.leader.pause()
    assert seconds(client.close) < QUICK


def test_closing_does_not_wait_for_a_channel_that_can_not_be_closed(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, way: type[Client]
) -> None:
    """gRPC waits for ever for a call whose start was cut short by KeyboardInterrupt."""
    client = way(cluster.addresses)
    client.get("key")
    stuck = threading.Event()
    channel = client._router._members[1].channel
    monkeypatch.setattr(channel, "close", stuck.wait)
    assert seconds(client.close) < QUICK
    stuck.set()


def test_an_announcement_does_not_wait_for_a_client_that_is_closing(
    cluster: FakeCluster, way: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing a channel waits for gRPC's thread, which may be just about to tell of new members."""
    client = way(cluster.addresses)
    client.get("key")
    router, waited = client._router, []

    def close() -> None:
        announcing = threading.Thread(target=router.announced, args=([Member(id=9, address="10.0.0.9:1")],))
        announcing.start()
        waited.append(seconds(lambda: announcing.join(QUICK)))

    monkeypatch.setattr(router._members[0].channel, "close", close)
    client.close()
    assert waited
    assert waited[0] < QUICK


def test_a_read_that_hangs_moves_to_the_new_leader(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "value")
    cluster.next_calls(then(lambda: cluster.elect(3), hang_undone))
    assert client.get("key") == b"value"


def test_addresses_of_a_proxy_in_the_environment_are_ignored(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://{free_addresses(1)[0]}")
    with Client(cluster.addresses) as client:
        client.set("key", "value")
