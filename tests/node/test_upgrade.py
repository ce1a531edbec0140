"""Members of different versions in one cluster: the earlier one leads, until a majority is of the later one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raftkv.node import RaftNode
from raftkv.raft.messages import AppendEntries, RequestVote
from raftkv.raft.types import ORIGIN
from raftkv.transport import PROTOCOL, Membership, Stranger, request_to_wire
from raftkv.wire import raft_pb2 as wire
from tests.node.members import QUICK, Members
from tests.support.processes import wait_until

ADDRESSES = {1: "one:1", 2: "two:2", 3: "three:3"}


def request_from(protocol: int, kind: type[AppendEntries | RequestVote] = AppendEntries) -> wire.AppendEntriesRequest:
    """As member 1 sends it to member 2."""
    sender = Membership(1, ADDRESSES, b"c" * 16, protocol=protocol)
    message = AppendEntries(1, 2, 1, ORIGIN, (), 0, 0, 1) if kind is AppendEntries else RequestVote(1, 2, 1, ORIGIN)
    request = request_to_wire(message, sender.identity_for(2))
    assert isinstance(request, wire.AppendEntriesRequest | wire.RequestVoteRequest)
    return request  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [AppendEntries, RequestVote])
def test_requests_of_a_later_version_are_refused_and_the_text_says_who_is_to_be_upgraded(
    kind: type[AppendEntries | RequestVote],
) -> None:
    receiver = Membership(2, ADDRESSES, b"c" * 16)
    says = (
        rf"node 2 at two:2 is of an earlier version \(protocol {PROTOCOL}\) than node 1 \({PROTOCOL + 1}\): upgrade it"
    )
    with pytest.raises(Stranger, match=says):
        receiver.admit(request_from(PROTOCOL + 1, kind))


@pytest.mark.parametrize("protocol", range(PROTOCOL + 1))
def test_requests_of_earlier_versions_are_taken_also_of_those_that_did_not_tell(protocol: int) -> None:
    Membership(2, ADDRESSES, b"c" * 16).admit(request_from(protocol))


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path, 3, QUICK)
    yield members
    members.close()
    assert not any(members.failures.values())


def upgrade(members: Members, id: int) -> None:
    """Restart a node as one of the next version."""
    members.stop(id)
    node = members.open(id)
    node._peers.membership = replace(node.membership, protocol=PROTOCOL + 1)
    for sender in node._peers.senders.values():
        sender.introduce(node.membership)
    node.start()


def trouble(leader: RaftNode, peer: int) -> str:
    """What the leader says of a peer; empty if all is well."""
    sender = leader._peers.senders.get(peer)
    return next((way.trouble for way in sender._ways.values() if way.trouble), "") if sender else ""


def test_members_are_upgraded_one_after_the_other(members: Members) -> None:
    members.start()
    assert members.ask_leader("SET k 1").success
    # The first new member follows the old version, counts for its majority, and can't lead it.
    first = members.followers()[0].membership.me
    upgrade(members, first)
    stopped = next(node.membership.me for node in members.followers() if node.membership.me != first)
    members.stop(stopped)
    assert members.ask_leader("SET k 2").success
    assert members.leader().membership.me != first
    members.start(stopped)
    assert members.ask_leader("SET k 3").success
    members.wait_until_equal()
    # With a majority the new version can lead; the old member takes nothing from it, and disturbs nobody.
    second = next(node.membership.me for node in members.followers() if node.membership.me != first)
    upgrade(members, second)
    members.wait_until_equal()
    (old,) = {1, 2, 3} - {first, second}
    members.stop(old)
    assert members.ask_leader("SET k 4").success
    members.start(old)
    last = members.nodes[old].status().last_log_index
    wait_until(lambda: "is of an earlier version" in trouble(members.leader(), old), "the old member refuses")
    assert members.ask_leader("SET k 5").success
    assert members.nodes[old].status().last_log_index == last
    # Once it is new, too, it catches up.
    upgrade(members, old)
    members.wait_until_equal()
    assert members.ask_leader("GET k").data == "5"
