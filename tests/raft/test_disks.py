"""Members whose disks are others than before (rule 11, hazard 46): one server of the paper is a member *with its disk*.

The configuration names the disk with which a member has been given its vote; its votes and acknowledgements count from
no other. What founding members have, whose disks it does not name, is up to the driver (tests/node/test_wiped.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from raftkv.raft.configuration import Add, Remove, encode_configuration
from raftkv.raft.messages import AppendEntries, InstallSnapshot, RequestVote, RequestVoteReply, TimeoutNow
from raftkv.raft.progress import State
from raftkv.raft.types import Configuration, Entry, EntryKind
from tests.raft.lone import NO_LEASES, Lone, at, only

OLD, NEW = b"o" * 16, b"n" * 16


def named(index: int, term: int, disks: Mapping[int, bytes], *, founders: int = 3) -> Entry:
    """An entry with the founding voters, some of whom have been added again since, with these disks."""
    configuration = Configuration(
        frozenset(range(1, founders + 1)),
        joined=tuple((member, index) for member in sorted(disks)),
        disks=tuple(sorted(disks.items())),
    )
    return Entry(index, term, EntryKind.CONFIGURATION, encode_configuration(configuration))


def told(lone: Lone, disks: Mapping[int, bytes], *, founders: int = 3) -> Lone:
    """It has heard of that from an earlier leader."""
    prev = lone.raft.log.last
    entry = named(prev.index + 1, 1, disks, founders=founders)
    sender = 3 if lone.me != 3 else 1
    lone.step(AppendEntries(sender, lone.me, 1, prev, (entry,), prev.index + 1, 0, 1))
    assert dict(lone.raft.configuration.disks) == disks
    return lone


def with_learner() -> Lone:
    """The leader of 1, 2 and 3, which has just added member 4."""
    lone = Lone([1] * 8)
    lone.serve()
    lone.change(Add(4, "d:1"))
    lone.step(lone.ack(2))
    return lone


# ---- a promotion names the disk --------------------------------------------------------------------------------------


def test_a_vote_is_given_to_the_disk_that_has_caught_up() -> None:
    lone = with_learner()

    lone.step(replace(lone.ack(4), incarnation=NEW))

    assert lone.raft.configuration.voters == {1, 2, 3, 4}
    assert lone.raft.configuration.disk_of(4) == NEW


def test_a_learner_with_another_disk_begins_anew() -> None:
    """What the former one held is no reason to give this one a vote, nor to send it only what comes after."""
    lone = with_learner()
    lone.step(replace(lone.ack(4, match=5), incarnation=OLD))
    assert lone.leader.progress[4].match_index == 5

    lone.step(replace(lone.ack(4, match=0), incarnation=NEW))
    progress = lone.leader.progress[4]
    assert (progress.match_index, progress.state) == (0, State.PROBE)
    lone.step(replace(lone.ack(4), incarnation=NEW))
    assert lone.raft.configuration.learners == {4}, "it answers a request of before"

    lone.wait(0.1)
    lone.step(replace(lone.ack(4, match=3), incarnation=NEW))
    assert lone.leader.progress[4].match_index == 3
    assert lone.raft.configuration.learners == {4}
    lone.step(replace(lone.ack(4), incarnation=NEW))
    assert lone.raft.configuration.disk_of(4) == NEW


def test_the_end_of_a_transfer_to_the_former_disk_of_a_learner_tells_nothing_of_the_present_one() -> None:
    lone = with_learner()
    lone.step(replace(lone.ack(4, match=0), incarnation=NEW))

    lone.step(replace(lone.installed(4, match=8), incarnation=OLD))

    assert lone.leader.progress[4].match_index == 0


def test_a_member_that_is_removed_and_added_again_may_have_another_disk() -> None:
    lone = with_learner()
    lone.step(replace(lone.ack(4), incarnation=OLD), lone.ack(2))
    lone.step(lone.ack(2), replace(lone.ack(4), incarnation=OLD))
    lone.change(Remove(4))
    lone.step(lone.ack(2), lone.ack(3))
    assert not lone.raft.configuration.disks

    lone.change(Add(4, "d:2"))
    lone.step(lone.ack(2), lone.ack(3))
    lone.step(replace(lone.ack(4), incarnation=NEW))

    assert lone.raft.configuration.disk_of(4) == NEW


# ---- what comes from another disk does not count ---------------------------------------------------------------------


@pytest.mark.parametrize("disk", [OLD, b""])
def test_a_vote_from_another_disk_does_not_count(disk: bytes) -> None:
    """The one that was removed has been started in the place of its successor. It knows nothing of what that one has
    acknowledged (and nothing of having been removed)."""
    lone = told(Lone([1]), {2: NEW})
    lone.time_out()

    lone.step(replace(lone.pre_vote(2), incarnation=disk))
    assert lone.role == "pre-candidate"
    lone.step(replace(lone.pre_vote(2), incarnation=NEW))
    assert lone.role == "candidate"
    lone.step(replace(lone.vote(2), incarnation=disk))
    assert lone.role == "candidate"
    lone.step(replace(lone.vote(2), incarnation=NEW))
    assert lone.role == "leader"


def test_a_refusal_from_another_disk_speaks_of_no_term() -> None:
    lone = told(Lone([1]), {2: NEW})
    lone.stand(by=[3])

    lone.step(replace(lone.vote(2, granted=False, term=99), incarnation=OLD))

    assert (lone.role, lone.term) == ("candidate", 2)


def test_an_acknowledgement_from_another_disk_commits_nothing_and_confirms_no_round() -> None:
    lone = told(Lone([1], config=NO_LEASES), {2: NEW})
    lone.lead(by=[3])

    lone.step(replace(lone.ack(2), incarnation=OLD))
    assert lone.raft.committed_index < lone.leader.term_start_index
    lone.step(replace(lone.ack(2), incarnation=NEW))
    assert lone.raft.committed_index == lone.leader.term_start_index
    lone.read(7)
    lone.step(replace(lone.ack(2), incarnation=OLD))
    assert not lone.served
    lone.step(replace(lone.ack(2), incarnation=NEW))
    assert lone.served == [7]


def test_nor_does_the_end_of_a_snapshots_transfer() -> None:
    lone = told(Lone([1]), {2: NEW})
    lone.lead(by=[3])

    lone.step(replace(lone.installed(2, match=lone.raft.log.last_index), incarnation=OLD))

    assert not lone.raft.is_serving


def test_of_a_founding_member_one_disk_counts_in_a_term() -> None:
    """Which one, is the driver's to say."""
    lone = Lone([1], config=NO_LEASES)
    lone.lead(by=[3])
    lone.step(replace(lone.ack(2, match=1), incarnation=OLD))

    lone.step(replace(lone.ack(2), incarnation=NEW))

    assert lone.leader.progress[2].match_index == 1
    assert not lone.raft.is_serving


# ---- requests are judged as those of anybody -------------------------------------------------------------------------


def test_a_later_disk_gets_a_vote_of_a_member_whose_log_does_not_tell_of_it_yet() -> None:
    """Or the only ones that could elect it would not: what the log here says of disks may be what is out of date."""
    lone = told(Lone([1], me=3), {2: OLD})
    lone.wait(0.5)

    sent = lone.step(RequestVote(2, 3, 2, at(9, 1), incarnation=NEW))

    assert [reply.granted for reply in only(RequestVoteReply, sent)] == [True]


def test_and_is_followed_as_a_leader() -> None:
    lone = told(Lone([1], me=3), {2: OLD})

    lone.step(AppendEntries(2, 3, 2, lone.raft.log.last, (named(3, 2, {2: NEW}),), 3, 0, 1, incarnation=NEW))

    assert lone.raft.configuration.disk_of(2) == NEW


# ---- one's own disk --------------------------------------------------------------------------------------------------


def with_own_disk(own: bytes) -> Lone:
    """Member 3, whose log says that it has its vote with the disk NEW."""
    lone = Lone([1], me=3)
    lone.storage.identity = replace(lone.storage.identity, incarnation=own)
    lone.restart()
    return told(lone, {3: NEW})


def test_who_has_another_disk_than_its_vote_belongs_to_does_not_stand_for_election() -> None:
    assert not only(RequestVote, with_own_disk(OLD).wait(3.0))
    assert only(RequestVote, with_own_disk(NEW).wait(3.0))


def test_nor_votes_nor_takes_over() -> None:
    for own, can in ((OLD, False), (NEW, True)):
        lone = with_own_disk(own)
        lone.step(TimeoutNow(1, 3, 1))
        assert (lone.role == "candidate") is can
        lone = with_own_disk(own)
        lone.wait(0.5)
        sent = only(RequestVoteReply, lone.step(RequestVote(2, 3, 2, at(9, 1))))
        assert [reply.granted for reply in sent] == [can]


def test_a_snapshot_tells_of_the_disks() -> None:
    lone = Lone([1] * 3, me=3)
    configuration = Configuration(frozenset({1, 2, 3}), joined=((2, 5),), disks=((2, NEW),))
    snapshot = replace(lone.snapshot(9, 1), configuration=encode_configuration(configuration))

    lone.step(InstallSnapshot(1, 3, 1, snapshot))

    assert lone.raft.configuration.disk_of(2) == NEW
