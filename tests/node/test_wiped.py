"""Members that come back without their disk (rule 11, hazard 46): what they say counts for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raftkv.node import RaftNode
from raftkv.raft.configuration import encode_configuration
from raftkv.raft.messages import AppendEntries, AppendEntriesReply, Reply, RequestVote, RequestVoteReply
from raftkv.raft.types import ORIGIN, Configuration, Entry, EntryKind
from raftkv.storage import read_identity
from raftkv.transport import Membership, Stranger, reply_from_wire, reply_to_wire, request_to_wire
from raftkv.wire import raft_pb2 as wire
from tests.node.members import STEADY, Members

OLD, NEW = b"o" * 16, b"n" * 16
HERE = Membership(1, {1: "h:1", 2: "h:2", 3: "h:3"}, b"c" * 16, peers={2: (0, OLD)})


def request(incarnation: bytes, sender: int = 2, joined: int = 0) -> wire.RequestVoteRequest:
    there = Membership(sender, HERE.addresses, HERE.cluster_id, incarnation, joined)
    message = request_to_wire(RequestVote(sender, 1, 1, ORIGIN), there.identity_for(1))
    assert isinstance(message, wire.RequestVoteRequest)
    return message


def test_a_request_from_another_disk_is_refused_with_the_mend() -> None:
    HERE.admit(request(OLD))
    with pytest.raises(Stranger, match=r"knows node 2 with another disk.*\(REMOVE 2, ADD 2=<address>\)"):
        HERE.admit(request(NEW))


def test_who_has_not_been_met_or_does_not_say_is_admitted() -> None:
    HERE.admit(request(NEW, sender=3))
    HERE.admit(request(b""))


def test_a_member_that_has_been_added_again_may_have_another_disk() -> None:
    """Its requests are judged by the log, as those of anybody of this cluster; so are those of the former one."""
    replace(HERE, joined={2: 57}).admit(request(NEW, joined=57))
    replace(HERE, joined={2: 57}).admit(request(OLD))


def test_also_one_of_which_the_log_here_does_not_tell_yet() -> None:
    """It may be the leader, and the only one from which this member could learn of it."""
    HERE.admit(request(NEW, joined=57))


def test_who_was_added_later_must_not_begin_as_a_founding_member() -> None:
    """With an empty disk, and the command line of the founding member that had its id. Of such a member the front of
    the log tells, and it would take that for itself."""
    leader = Membership(2, HERE.addresses, HERE.cluster_id, OLD, joined={1: 57})
    message = request_to_wire(RequestVote(2, 1, 1, ORIGIN), leader.identity_for(1))
    assert isinstance(message, wire.RequestVoteRequest)

    with pytest.raises(Stranger, match=r"node 1 .*was started as a founding member.*start it with --join"):
        replace(HERE, cluster_id=b"").admit(message)
    HERE.admit(message)
    replace(HERE, cluster_id=b"", founders={}).admit(message)


@pytest.mark.parametrize(
    "reply", [AppendEntriesReply(2, 1, 3, True, 4, 5), RequestVoteReply(2, 1, 3, granted=True, remaining_lease_ms=7)]
)
def test_a_reply_says_from_which_disk_it_comes(reply: AppendEntriesReply | RequestVoteReply) -> None:
    said = reply_from_wire(reply_to_wire(reply, NEW, 57), sender=2, me=1)
    assert said == replace(reply, incarnation=NEW, joined=57)


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path, 3, STEADY)
    yield members
    members.close()


def test_an_answer_from_another_disk_does_not_count_and_the_first_one_is_remembered_for_good(
    members: Members, tmp_path: Path
) -> None:
    node = members.open(1)
    answer = RequestVoteReply(2, 1, 1, granted=True, incarnation=OLD)

    assert node._peers.has_kept_disk(answer)
    assert node._storage.identity.peers == {2: (0, OLD)}
    assert not node._peers.has_kept_disk(replace(answer, incarnation=NEW))
    assert not node._peers.has_kept_disk(AppendEntriesReply(2, 1, 1, True, 1, incarnation=NEW))
    assert node.membership.wiped == {2}
    assert node._peers.has_kept_disk(answer)

    node._storage.close()
    assert (again := read_identity(tmp_path / "1"))
    assert again.peers == {2: (0, OLD)}


def test_who_is_judged_is_judged_by_all_that_came_before(members: Members) -> None:
    """The leader's request, which says that member 2 has been added again, and that one's first request are in the same
    turn."""
    node = members.open(1)
    assert node._peers.has_kept_disk(RequestVoteReply(2, 1, 1, granted=True, incarnation=OLD))
    configuration = Configuration(frozenset({1, 2, 3}), addresses=tuple(members.addresses.items()), joined=((2, 1),))
    added_again = Entry(1, 1, EntryKind.CONFIGURATION, encode_configuration(configuration))

    node._turn._inbox.append(AppendEntries(3, 1, 1, ORIGIN, (added_again,), 0, 0, 1))
    replies: list[Reply] = []
    node._service._peer_calls[7] = replies.append
    node.bring(RequestVote(2, 1, 1, ORIGIN, call=7, incarnation=NEW))

    assert len(replies) == 1
    assert not node.membership.wiped
    assert node._storage.identity.peers == {2: (0, OLD)}


def test_who_does_not_say_it_or_is_no_member_is_not_remembered(members: Members) -> None:
    node = members.open(1)
    assert node._peers.has_kept_disk(RequestVoteReply(2, 1, 1, granted=True))
    assert node._peers.has_kept_disk(RequestVoteReply(9, 1, 1, granted=True, incarnation=OLD))
    assert not node._storage.identity.peers


# ---- members that were added later -----------------------------------------------------------------------------------


def tell(node: RaftNode, members: Members, joined: int, disk: bytes = b"") -> None:
    """A leader's request says that member 2 has been added again, and with which disk it has its vote."""
    prev = node._replica.raft.log.last
    addresses, disks = tuple(members.addresses.items()), ((2, disk),) if disk else ()
    configuration = Configuration(frozenset({1, 2, 3}), addresses=addresses, joined=((2, joined),), disks=disks)
    entry = Entry(prev.index + 1, 1, EntryKind.CONFIGURATION, encode_configuration(configuration))
    node.bring(AppendEntries(3, 1, 1, prev, (entry,), 0, 0, 1))


def test_whichever_disk_a_member_that_was_added_again_is_first_heard_with_is_not_taken_for_its_own(
    members: Members,
) -> None:
    """A machine that was cut off, comes back after its removal, and asks for a vote; or a late answer of it."""
    node = members.open(1)
    tell(node, members, joined=1)

    node.bring(RequestVote(2, 1, 1, ORIGIN, pre_vote=True, incarnation=OLD))
    node.bring(AppendEntriesReply(2, 1, 1, True, 1, 1, incarnation=OLD))
    tell(node, members, joined=1, disk=NEW)
    node.bring(AppendEntriesReply(2, 1, 1, True, 1, 1, incarnation=NEW, joined=1))

    assert not node._storage.identity.peers
    assert not node.membership.wiped


def test_who_answers_from_another_disk_than_it_has_its_vote_with_is_named_until_it_is_added_again(
    members: Members,
) -> None:
    node = members.open(1)
    tell(node, members, joined=1, disk=NEW)

    node.bring(RequestVoteReply(2, 1, 1, granted=True, incarnation=OLD))
    assert node.membership.wiped == {2}
    tell(node, members, joined=2)
    assert not node.membership.wiped


@pytest.mark.parametrize("joined", [0, 1])
def test_or_until_it_answers_from_its_own_again(members: Members, joined: int) -> None:
    node = members.open(1)
    if joined:
        tell(node, members, joined, disk=NEW)
    own = RequestVoteReply(2, 1, 1, granted=True, incarnation=NEW, joined=joined)
    for answer, wiped in ((own, set[int]()), (replace(own, incarnation=OLD), {2}), (own, set[int]())):
        node.bring(answer)
        assert node.membership.wiped == wiped
    assert node.membership.peers == ({} if joined else {2: (0, NEW)})


def test_who_answers_as_one_that_was_added_later_than_the_log_here_tells_has_lost_nothing(members: Members) -> None:
    node = members.open(1)
    assert node._peers.has_kept_disk(RequestVoteReply(2, 1, 1, granted=True, incarnation=OLD))

    assert node._peers.has_kept_disk(RequestVoteReply(2, 1, 1, granted=False, incarnation=NEW, joined=57))

    assert not node.membership.wiped
    assert node._storage.identity.peers == {2: (0, OLD)}


def test_a_node_says_that_its_vote_belongs_to_another_directory(
    members: Members, caplog: pytest.LogCaptureFixture
) -> None:
    node = members.open(1)
    configuration = Configuration(
        frozenset({1, 2, 3}), addresses=tuple(members.addresses.items()), joined=((1, 1),), disks=((1, NEW),)
    )
    entry = Entry(1, 1, EntryKind.CONFIGURATION, encode_configuration(configuration))

    with caplog.at_level("WARNING"):
        node.bring(AppendEntries(3, 1, 1, ORIGIN, (entry,), 0, 0, 1))

    assert "node 1 has its vote with another data directory than this one" in caplog.text
