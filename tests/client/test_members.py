"""A client's calls about the membership, against members that the test plays."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Iterable
from typing import Any

import grpc
import pytest

from raftkv import AsyncClient, NotApplied, OutcomeUnknown, routing
from raftkv.client import Client, ClusterMember
from raftkv.wire.raft_pb2 import ClientReply
from tests.client.fake_cluster import FakeCluster
from tests.client.test_program import run
from tests.support.ways import UNLIKE

BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, "another change is not committed yet")


def test_the_members_are_those_that_the_leader_names(cluster: FakeCluster, client: Client) -> None:
    cluster.learners.add(3)
    addresses = cluster.addresses
    assert client.members() == [
        ClusterMember(1, addresses[0], is_learner=False, is_leader=True),
        ClusterMember(2, addresses[1], is_learner=False, is_leader=False),
        ClusterMember(3, addresses[2], is_learner=True, is_leader=False),
    ]


def test_a_change_goes_to_the_leader(cluster: FakeCluster, client: Client) -> None:
    client.add_member(4, "10.0.0.4:50051")
    client.remove_member(2)

    added, removed = cluster.changes
    assert (added.add.id, added.add.address) == (4, "10.0.0.4:50051")
    assert removed.remove == 2


def test_it_finds_the_new_leader_if_the_old_one_says_no(cluster: FakeCluster, client: Client) -> None:
    cluster.before_change = lambda: cluster.elect(2)

    client.remove_member(3)

    assert len(cluster.changes) == 2


def test_it_sends_no_change_to_a_leader_that_has_gone_a_moment_ago(cluster: FakeCluster, client: Client) -> None:
    """For nobody could say whether it has arrived."""
    client.members()
    cluster.members[1].kill()
    cluster.elect(2)

    client.remove_member(1)

    assert len(cluster.changes) == 1


def test_a_client_that_is_told_of_other_members_finds_them_when_those_it_knew_are_gone(
    cluster: FakeCluster, client: Client
) -> None:
    one, two, three = cluster.members.values()
    client.set("k", "v")
    two.move()
    assert one.last_stream is not None
    one.last_stream.answer(ClientReply(members=cluster.named_members()))
    client.set("k", "w")  # the answer comes after the message that was sent before
    one.kill()
    three.kill()
    cluster.elect(2)

    assert client.get("k") == b"w"


def test_what_is_not_possible_just_now_is_tried_again(cluster: FakeCluster, client: Client) -> None:
    cluster.change_refusals.extend([BUSY, BUSY])
    client.remove_member(3)
    assert len(cluster.changes) == 3


def test_what_is_not_possible_in_time_has_not_been_done(cluster: FakeCluster) -> None:
    cluster.change_refusals.extend([BUSY] * 1000)
    with (
        Client(cluster.addresses, timeout=0.5) as client,
        pytest.raises(NotApplied, match="another change is not committed yet; nothing has been done"),
    ):
        client.remove_member(3)


def test_what_is_refused_has_not_been_done_and_is_not_tried_again(cluster: FakeCluster, client: Client) -> None:
    cluster.change_refusals.append((grpc.StatusCode.FAILED_PRECONDITION, "there is no member 9"))
    with pytest.raises(NotApplied, match="there is no member 9; nothing has been done") as refused:
        client.remove_member(9)
    assert refused.value.code == "FAILED_PRECONDITION"
    assert len(cluster.changes) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_what_may_have_been_proposed_is_unknown_and_never_sent_twice(
    cluster: FakeCluster, client: Client, code: grpc.StatusCode
) -> None:
    details = "no answer from a quorum in time; the change may have been made: MEMBERS tells"
    cluster.change_refusals.append((code, details))
    with pytest.raises(OutcomeUnknown, match="in time; the change may have been made: MEMBERS") as unknown:
        client.add_member(4, "10.0.0.4:50051")
    assert unknown.value.code == code.name
    assert len(cluster.changes) == 1


@pytest.mark.parametrize(
    ("member", "address", "kind"),
    [
        (0, "h:1", ValueError),
        (-1, "h:1", ValueError),
        (4, "h", ValueError),
        (4, "h:99999", ValueError),
        (4, b"h:1", TypeError),
        ("4", "h:1", TypeError),
    ],
)
def test_an_argument_that_can_not_be_used_is_not_sent(
    cluster: FakeCluster, client: Client, member: int, address: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as refused:
        client.add_member(member, address)
    assert isinstance(refused.value, NotApplied)
    assert not cluster.changes


def test_a_closed_client_changes_nothing(cluster: FakeCluster, way: type[Client]) -> None:
    client = way(cluster.addresses)
    client.close()
    for call in (client.members, lambda: client.remove_member(3), lambda: client.add_member(4, "h:1")):
        with pytest.raises(NotApplied, match="the client is closed"):
            call()


@pytest.mark.parametrize("way", UNLIKE)
def test_without_a_leader_it_is_said_that_nothing_was_done(cluster: FakeCluster, way: type[Client]) -> None:
    cluster.elect(0)
    with way(cluster.addresses, timeout=0.3) as client:
        start = time.monotonic()
        with pytest.raises(NotApplied, match=r"none leads \(gave up after 0.3 s\); nothing has been done"):
            client.add_member(4, "h:1")
        with pytest.raises(NotApplied, match=r"none leads \(gave up after 0.3 s\); nothing has been done"):
            client.remove_member(3)
        with pytest.raises(NotApplied, match=r"none leads \(gave up after 0.3 s\); nothing was read"):
            client.members()
        assert time.monotonic() - start < 3
    assert not cluster.changes


def test_asyncio_has_the_same_calls(cluster: FakeCluster) -> None:
    async def run() -> list[ClusterMember]:
        async with AsyncClient(cluster.addresses) as client:
            await client.add_member(4, "h:1")
            await client.remove_member(4)
            return await client.members()

    assert [member.id for member in asyncio.run(run())] == [1, 2, 3]
    assert len(cluster.changes) == 2


def test_whatever_a_client_can_do_an_asyncio_client_can_do_too() -> None:
    def parameters(method: Any) -> list[tuple[str, Any]]:
        return [(p.name, p.default if p.default is p.empty else type(p.default)) for p in signature(method)]

    def signature(method: Any) -> Iterable[inspect.Parameter]:
        return inspect.signature(method).parameters.values()

    names = [name for name in dir(Client) if not name.startswith("_") and not name.endswith("_async")]
    assert {"set", "backup", "transfer_leadership", "close"} <= set(names)
    for name in names:
        assert parameters(getattr(AsyncClient, name)) == parameters(getattr(Client, name)), name
        assert inspect.iscoroutinefunction(getattr(AsyncClient, name))


def test_a_member_that_has_moved_is_found(cluster: FakeCluster) -> None:
    """A leader names an address that no one has named before, of a member that is known."""
    with Client([cluster.members[1].address]) as client:
        client.members()
        cluster.members[2].move()
        client.members()
        cluster.elect(2)
        cluster.members[1].kill()

        assert client.members()[1].is_leader


def test_a_client_that_is_always_busy_gets_to_know_new_members(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that it knew may all have gone when its leader leaves."""
    monkeypatch.setattr(routing, "_LOOK_AROUND_S", 0.05)
    with Client([cluster.addresses[0]]) as client:
        client.set("key", "0")
        asked = cluster.members[1].status_calls
        count = 0
        while cluster.members[1].status_calls < asked + 2:
            count += 1
            client.set("key", str(count))
            assert count < 100_000
        cluster.elect(2)
        cluster.members[1].kill()
        client.set("key", "the end")


# ---- the program -----------------------------------------------------------------------------------------------------


def test_the_program_lists_the_members(cluster: FakeCluster) -> None:
    cluster.learners.add(3)
    done = run(*cluster.addresses, "-c", "MEMBERS")
    assert [line.split() for line in done.out.decode().splitlines()] == [
        ["id", "address", "role"],
        ["1", cluster.addresses[0], "leader"],
        ["2", cluster.addresses[1], "voter"],
        ["3", cluster.addresses[2], "learner"],
    ]
    done = run(*cluster.addresses, "--json", "-c", "MEMBERS")
    rows = json.loads(done.out)["value"]
    assert rows[2] == {
        "id": 3,
        "address": cluster.addresses[2],
        "is_learner": True,
        "is_leader": False,
        "is_wiped": False,
    }


def test_the_program_changes_the_members(cluster: FakeCluster) -> None:
    done = run(*cluster.addresses, "-c", "ADD 4=[::1]:50051", "-c", "remove 2")
    assert done.out.decode() == "OK\nOK\n"
    added, removed = cluster.changes
    assert (added.add.id, added.add.address, removed.remove) == (4, "[::1]:50051", 2)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("ADD 4", "expected ADD id=address; nothing was done"),
        ("ADD four=h:1", "'four' is no member's id, a number from 1 on; nothing was done"),
        ("ADD 4=h:0", "'h:0': a port lies between 1 and 65535; nothing has been done"),
        ("ADD", "expected ADD id=address; nothing was done"),
        ("REMOVE x", "'x' is no member's id, a number from 1 on; nothing was done"),
    ],
)
def test_a_mistake_gets_one_clear_line(cluster: FakeCluster, command: str, error: str) -> None:
    done = run(*cluster.addresses, "-c", command)
    assert done.out.decode() == f"ERROR INVALID_ARGUMENT: {error}\n"
    assert done.status == 1
    assert not cluster.changes
