"""The checks of what members do, on real replicas that have been tampered with: each of them can fail."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from raftkv.kv import StateMachine
from raftkv.memory_storage import MemoryStorage
from raftkv.raft import core
from raftkv.raft.configuration import encode_configuration
from raftkv.raft.lease import Grant
from raftkv.raft.messages import RequestVoteReply
from raftkv.raft.roles import Leader
from raftkv.raft.types import Configuration, Entry, EntryKind, HardState
from raftkv.replica import Replica
from tests.simulation.checks import Checks
from tests.simulation.world import Clock, Violation, World


def entry(index: int, term: int) -> Entry:
    return Entry(index, term, EntryKind.TEXT, b"SET k %d" % index)


class Cluster:
    """Three members as the checks see them; each begins with the term and the log that a test says."""

    def __init__(self, trusts_clocks: bool = True) -> None:
        world = World(seed=1)
        self.checks = Checks(world, trusts_clocks)
        for member in (1, 2, 3):
            self.checks.watch(member, Clock(world, rate=1.0, start=0.0))

    def start(self, member: int, term: int, entries: Sequence[Entry] = (), voters: int = 3) -> Replica:
        storage = MemoryStorage()
        hard_state = HardState(term=term)
        storage.persist(hard_state, entries, 0)
        self.durable(member, hard_state, *entries)
        replica = Replica(
            Configuration(frozenset(range(1, voters + 1))),
            member,
            core.Config(),
            storage,
            StateMachine(),
            random.Random(1),
            0.0,
            lambda message: None,
            lambda note: None,
        )
        self.checks.started(member, replica)
        return replica

    def durable(self, member: int, hard_state: HardState | None, *entries: Entry) -> None:
        self.checks.persisting(member, hard_state, entries, 0)
        self.checks.persisted(member)

    def elect(self, member: int, replica: Replica, other: int = 0) -> Leader:
        """Let the member win an election with another's vote, as if both had made everything durable in time."""
        term, other = replica.raft.current_term + 1, other or member % 3 + 1
        pre_vote = RequestVoteReply(other, member, term, granted=True, pre_vote=True)
        vote = RequestVoteReply(other, member, term, granted=True)
        for inputs in ([], [pre_vote], [], [vote]):
            while replica.turn(inputs, 10.0):
                inputs = []
        self.durable(member, HardState(term, voted_for=member))
        self.checks._votes[other, 0, term] = member
        role = replica.raft.role
        assert isinstance(role, Leader)
        return role


def test_a_term_that_goes_back_is_noticed() -> None:
    cluster = Cluster()
    replica = cluster.start(1, term=5)
    cluster.checks.after_turn(1)
    replica.raft._hard_state = HardState(term=4)
    with pytest.raises(Violation, match="goes back from term 5 to 4"):
        cluster.checks.after_turn(1)


def test_a_commit_index_that_goes_back_is_noticed() -> None:
    cluster = Cluster()
    for member in (1, 2):
        replica = cluster.start(member, 1, [entry(1, 1), entry(2, 1)])
    replica.raft.log.committed_index = 2
    cluster.checks.after_turn(2)
    replica.raft.log.committed_index = 1
    with pytest.raises(Violation, match="commit index goes back from 2 to 1"):
        cluster.checks.after_turn(2)


def test_an_entry_that_is_committed_but_not_durable_on_a_majority_is_noticed() -> None:
    cluster = Cluster()
    replica = cluster.start(1, 1, [entry(1, 1)])
    replica.raft.log.committed_index = 1
    with pytest.raises(Violation, match=r"commits entry 1, which is durable only on \[1\]"):
        cluster.checks.after_turn(1)


def test_a_half_is_no_majority() -> None:
    cluster = Cluster()
    cluster.checks.watch(4, Clock(World(seed=1), rate=1.0, start=0.0))
    for member in (1, 2):
        replica = cluster.start(member, 1, [entry(1, 1)], voters=4)
    replica.raft.log.committed_index = 1
    with pytest.raises(Violation, match=r"commits entry 1, which is durable only on \[1, 2\]"):
        cluster.checks.after_turn(2)


def test_two_members_that_commit_different_entries_are_noticed() -> None:
    cluster = Cluster()
    replicas = [
        cluster.start(1, 1, [entry(1, 1)]),
        cluster.start(2, 1, [entry(1, 1)]),
        cluster.start(3, 2, [entry(1, 2)]),
    ]
    replicas[0].raft.log.committed_index = replicas[2].raft.log.committed_index = 1
    cluster.checks.after_turn(1)
    with pytest.raises(Violation, match="n3 commits 1 of term 2"):
        cluster.checks.after_turn(3)


def test_entries_applied_out_of_order_are_noticed() -> None:
    cluster = Cluster()
    replica = cluster.start(1, 1, [entry(1, 1), entry(2, 1)])
    with pytest.raises(Violation, match="applies entry 2 after entry 0"):
        cluster.checks.applied(1, entry(2, 1), replica.machine, 0)


def test_a_leader_without_a_committed_entry_is_noticed() -> None:
    cluster = Cluster()
    replica = cluster.start(1, term=1)
    cluster.checks.committed.append(entry(1, 1))
    cluster.elect(1, replica)
    with pytest.raises(Violation, match="Leader Completeness"):
        cluster.checks.after_turn(1)


def test_an_entry_that_is_committed_though_a_later_leader_lacks_it_is_noticed() -> None:
    """As by a leader that counts an acknowledgement from before the follower voted for somebody else."""
    cluster = Cluster()
    cluster.elect(1, cluster.start(1, term=1))
    cluster.checks.after_turn(1)
    former = cluster.start(2, 1, [entry(1, 1)])
    cluster.start(3, 1, [entry(1, 1)])
    former.raft.log.committed_index = 1
    with pytest.raises(Violation, match=r"n2 commits entry 1 of term 1, which n1, .* term 2, does not have"):
        cluster.checks.after_turn(2)


def test_a_second_leader_of_a_term_is_noticed_as_soon_as_it_leads() -> None:
    cluster = Cluster()
    cluster.elect(1, cluster.start(1, term=1), other=3)
    cluster.checks.after_turn(1)
    cluster.elect(2, cluster.start(2, term=1))
    with pytest.raises(Violation, match="n1 and n2 both lead term 2"):
        cluster.checks.after_turn(2)


def test_a_leader_that_counts_on_what_a_follower_has_not_made_durable_is_noticed() -> None:
    cluster = Cluster()
    cluster.durable(2, HardState(term=2))
    leader = cluster.elect(1, cluster.start(1, term=1))
    leader.progress[2].match_index = 1
    with pytest.raises(Violation, match="n1 counts on n2 for entry 1"):
        cluster.checks.after_turn(1)


def test_what_a_follower_acknowledged_may_be_gone_once_a_later_term_has_begun_there() -> None:
    cluster = Cluster()
    cluster.durable(2, HardState(term=3))
    leader = cluster.elect(1, cluster.start(1, term=1))
    leader.progress[2].match_index = 1
    cluster.checks.after_turn(1)


def test_two_valid_leases_are_noticed() -> None:
    cluster = Cluster()
    for member in (1, 2):
        cluster.start(member, term=member).raft.lease = Grant(member, until=10.0)
    with pytest.raises(Violation, match="n2 holds a valid lease of term 2, and n1 one of term 1"):
        cluster.checks.after_turn(2)


def test_a_lease_may_begin_where_another_has_ended() -> None:
    cluster = Cluster()
    for member, until in ((1, -1.0), (2, 10.0)):
        cluster.start(member, term=member).raft.lease = Grant(member, until)
        cluster.checks.after_turn(member)


def test_a_commit_inside_an_older_lease_is_noticed() -> None:
    with pytest.raises(Violation, match="n1 commits in term 2 inside the lease of n3, term 1"):
        commit_inside_a_lease(Cluster())


def test_where_clocks_break_the_assumption_nothing_is_said_of_leases() -> None:
    commit_inside_a_lease(Cluster(trusts_clocks=False))


def commit_inside_a_lease(cluster: Cluster) -> None:
    replica = cluster.start(1, term=1)
    cluster.elect(1, replica)
    (no_op,) = replica.raft.log.entries(1, 1, 0)
    cluster.durable(1, None, no_op)
    cluster.durable(2, HardState(term=2), no_op)
    cluster.start(3, term=1).raft.lease = Grant(1, 10.0)
    replica.raft.log.committed_index = 1
    cluster.checks.after_turn(1)


# ---- the membership --------------------------------------------------------------------------------------------------


def configuration(index: int, *voters: int) -> Entry:
    return Entry(index, 1, EntryKind.CONFIGURATION, encode_configuration(Configuration(frozenset(voters))))


def test_an_election_without_a_majority_of_the_configuration_of_now_is_noticed() -> None:
    cluster = Cluster()
    replica = cluster.start(1, 1)
    cluster.elect(1, replica)
    replica.raft.log.configurations.take_in([configuration(1, 1, 3, 4)])
    with pytest.raises(Violation, match=r"n1 leads term 2 by the votes of {1, 2} among {1, 3, 4}"):
        cluster.checks.after_turn(1)


def test_a_commit_counts_in_the_configuration_of_now() -> None:
    cluster = Cluster()
    entries = [configuration(1, 1, 2, 3, 4)]
    for member in (1, 2):
        replica = cluster.start(member, 1, entries)
    cluster.checks.watch(4, Clock(World(seed=1), rate=1.0, start=0.0))
    cluster.start(4, 1, entries)
    replica.raft.log.committed_index = 1
    cluster.checks.configuration = Configuration(frozenset({1, 2, 3}))
    cluster.checks.after_turn(2)
    assert cluster.checks.configuration.voters == {1, 2, 3, 4}


def test_two_votes_that_change_at_once_are_noticed() -> None:
    cluster = Cluster()
    cluster.checks.configuration = Configuration(frozenset({1, 2, 3}))
    for member in (1, 2):
        replica = cluster.start(member, 1, [configuration(1, 1, 2, 3, 4, 5)])
    replica.raft.log.committed_index = 1
    with pytest.raises(Violation, match=r"the votes of {4, 5} change at once"):
        cluster.checks.after_turn(2)


def test_who_may_yet_be_a_member_is_known_from_every_log() -> None:
    cluster = Cluster()
    cluster.checks.configuration = Configuration(frozenset({1, 2, 3}))
    cluster.start(2, 1, [configuration(1, 1, 2, 3, 7)])
    assert cluster.checks.perhaps_members() == {1, 2, 3, 7}


def test_a_voter_with_an_empty_disk_is_another_voter() -> None:
    cluster = Cluster()
    cluster.durable(2, HardState(5, voted_for=1))
    cluster.checks.wiped(2)
    cluster.durable(2, HardState(5, voted_for=3))
    with pytest.raises(Violation, match="n2 votes for n3 and for n1"):
        cluster.durable(2, HardState(5, voted_for=1))
