"""Raft paper, section 5.3: log replication. Each test quotes its rule, and has three parts: init, test, check."""

from __future__ import annotations

import pytest

from raftkv.raft.core import Config, NotLeader
from raftkv.raft.messages import AppendEntries, AppendEntriesReply
from raftkv.raft.progress import State
from raftkv.raft.types import ORIGIN, LogPosition
from tests.raft.figures import figure_7
from tests.raft.lone import DEFAULTS, Lone, Persisted, at, entries, only, text
from tests.support.raft_cluster import Cluster

ONE_AT_A_TIME = Config(max_append_bytes=1)


def test_a_leader_appends_a_request_and_sends_it_to_everybody_in_parallel() -> None:
    """'The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in parallel to each of
    the other servers to replicate the entry.'"""
    lone = Lone()
    lone.serve(by=[2, 3])

    sent = lone.propose("SET k v")

    assert lone.log_terms == [1, 1]
    assert [message.recipient for message in sent] == [2, 3]
    for message in only(AppendEntries, sent):
        assert message.prev == at(1, 1)
        assert [entry.payload for entry in message.entries] == [b"SET k v"]


def test_only_a_leader_takes_requests_and_the_others_name_it() -> None:
    """5.1: 'If a client contacts a follower, the follower redirects it to the leader.'"""
    lone = Lone(term=1)
    lone.step(lone.append(3))

    with pytest.raises(NotLeader, match="the leader is 3") as refused:
        lone.raft.propose(text("SET k v"), lone.now)

    assert refused.value.leader_id == 3
    assert lone.log_terms == []


@pytest.mark.parametrize(
    ("size", "acknowledged_by", "committed"),
    [
        (1, [], True),
        (2, [], False),
        (2, [2], True),
        (3, [], False),
        (3, [3], True),
        (4, [3], False),
        (4, [2, 3], True),
        (5, [2], False),
        (5, [2, 5], True),
        (7, [2, 3], False),
        (7, [2, 3, 4], True),
    ],
)
def test_an_entry_is_committed_once_a_majority_has_it(size: int, acknowledged_by: list[int], committed: bool) -> None:
    """'A log entry is committed once the leader that created the entry has replicated it on a majority of the
    servers.'"""
    lone = Lone(size=size)
    lone.serve(by=range(2, size + 1))

    lone.propose("SET k v")
    lone.step(*(lone.ack(peer) for peer in acknowledged_by))

    assert (lone.raft.committed_index == 2) is committed
    assert ([entry.index for entry in lone.applied] == [1, 2]) is committed


def test_one_server_that_acknowledges_twice_is_still_one() -> None:
    """'[...] on a majority of the servers.'"""
    lone = Lone(size=5)
    lone.serve(by=[2, 3])

    lone.propose("SET k v")
    lone.step(lone.ack(2), lone.ack(2), lone.ack(2))

    assert lone.raft.committed_index == 1


def test_the_leaders_own_copy_counts_once_it_is_durable() -> None:
    """'When the entry has been safely replicated [...]': its own disk is one of the majority (dissertation, 10.2.1)."""
    lone = Lone(size=1)
    lone.serve(by=[])

    lone.raft.propose(text("SET k v"), lone.now)
    ready = lone.raft.ready()
    assert ready is not None
    before = (lone.raft.committed_index, ready.committed)
    lone.storage.persist(ready.hard_state, ready.entries, ready.commit_index)
    lone.raft.advance(ready)

    assert before == (1, [])
    assert lone.raft.committed_index == 2


def test_a_majority_of_followers_commits_before_the_leaders_own_disk() -> None:
    """Dissertation, 10.2.1: 'The leader may even commit an entry before it has been written to its own disk, if a
    majority of followers have written it to their disks; this is still safe.'"""
    lone = Lone()
    lone.serve(by=[2, 3])

    lone.raft.propose(text("SET k v"), lone.now)
    for peer in (2, 3):
        lone.raft.step(lone.ack(peer, match=2), lone.now)

    assert lone.raft.log.durable_index == 1
    assert lone.raft.committed_index == 2


def test_committing_an_entry_commits_all_before_it() -> None:
    """'This also commits all preceding entries in the leader's log, including entries created by previous leaders.'"""
    lone = Lone([1, 1, 2], committed=1)
    lone.lead()
    assert lone.raft.committed_index == 1

    lone.step(lone.ack(2, match=4))

    assert lone.raft.committed_index == 4
    assert [(entry.index, entry.term) for entry in lone.applied] == [(2, 1), (3, 2), (4, 3)]


def test_the_leader_tells_the_others_what_is_committed() -> None:
    """'The leader keeps track of the highest index it knows to be committed, and it includes that index in future
    AppendEntries RPCs (including heartbeats) so that the other servers eventually find out.'"""
    lone = Lone()
    lone.serve(by=[2])
    lone.propose("SET k v")
    lone.step(lone.ack(2))

    with_entries = only(AppendEntries, lone.propose("SET k w"))
    heartbeats = only(AppendEntries, lone.wait(DEFAULTS.heartbeat_interval))

    assert {message.leader_commit for message in with_entries + heartbeats} == {2}


def test_a_follower_applies_what_is_committed_in_log_order() -> None:
    """'Once a follower learns that a log entry is committed, it applies the entry to its local state machine (in log
    order).'"""
    lone = Lone(term=2)

    lone.step(lone.append(2, ORIGIN, [1, 1, 2], commit=2))
    first = list(lone.applied)
    lone.step(lone.append(2, at(3, 2), commit=3))

    assert first == entries([1, 1])
    assert lone.applied == entries([1, 1, 2])


@pytest.mark.parametrize(("leader_commit", "committed"), [(0, 0), (2, 2), (3, 3), (9, 3)])
def test_a_follower_commits_no_more_than_it_has_been_sent(leader_commit: int, committed: int) -> None:
    """Figure 2, AppendEntries, 5: 'If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new
    entry).'"""
    lone = Lone([1], term=2)

    lone.step(lone.append(2, at(1, 1), [1, 2], commit=leader_commit))

    assert lone.raft.committed_index == committed


@pytest.mark.parametrize(
    ("terms", "prev", "success"),
    [
        ([], ORIGIN, True),
        ([1, 2], ORIGIN, True),
        ([1, 2], at(1, 1), True),
        ([1, 2], at(2, 2), True),
        ([1, 2], at(1, 2), False),
        ([1, 2], at(2, 1), False),
        ([1, 2], at(3, 2), False),
        ([], at(1, 1), False),
    ],
)
def test_entries_are_refused_whose_predecessor_is_not_there(terms: list[int], prev: LogPosition, success: bool) -> None:
    """'If the follower does not find an entry in its log with the same index and term, then it refuses the new
    entries.'"""
    lone = Lone(terms, term=2)

    [reply] = lone.step(lone.append(2, prev, [2]))

    assert isinstance(reply, AppendEntriesReply)
    assert reply.success is success
    assert lone.log_terms == ([*terms[: prev.index], 2] if success else terms)


@pytest.mark.parametrize(
    ("terms", "prev", "new", "outcome"),
    [
        ([1, 1, 1], at(1, 1), [2], [1, 2]),
        ([1, 1, 1], at(3, 1), [2, 2], [1, 1, 1, 2, 2]),
        ([1, 2, 2, 2], at(1, 1), [3, 3], [1, 3, 3]),
        ([1, 2, 2, 2], at(1, 1), [2, 3], [1, 2, 3]),
        ([1, 2, 2, 2], ORIGIN, [3], [3]),
        ([1, 2, 2, 2], at(1, 1), [2, 2], [1, 2, 2, 2]),
        ([1, 2, 2, 2], at(2, 2), [], [1, 2, 2, 2]),
    ],
)
def test_a_follower_takes_over_the_leaders_log(
    terms: list[int], prev: LogPosition, new: list[int], outcome: list[int]
) -> None:
    """'The leader handles inconsistencies by forcing the followers' logs to duplicate its own. This means that
    conflicting entries in follower logs will be overwritten with entries from the leader's log.' Figure 2,
    AppendEntries, 3: 'If an existing entry conflicts with a new one (same index but different terms), delete the
    existing entry and all that follow it' - and only then."""
    lone = Lone(terms, term=3)

    [reply] = lone.step(lone.append(2, prev, new))

    assert isinstance(reply, AppendEntriesReply)
    assert (reply.success, reply.match_index) == (True, prev.index + len(new))
    assert lone.log_terms == outcome
    assert [lone.storage.term(i) for i in range(1, lone.storage.last_index() + 1)] == outcome


def test_entries_are_durable_before_they_are_acknowledged() -> None:
    """'When the entry has been safely replicated [...]': in stable storage, or a crash could take it back."""
    lone = Lone(term=2)

    lone.step(lone.append(2, ORIGIN, [1, 2]))

    persisted, reply = lone.events
    assert persisted == Persisted(None, tuple(entries([1, 2])))
    assert isinstance(reply, AppendEntriesReply)


def test_a_new_leader_assumes_that_all_logs_are_like_its_own() -> None:
    """'When a leader first comes to power, it initializes all nextIndex values to the index just after the last one in
    its log.'"""
    lone = Lone([1, 1, 2])

    sent = lone.lead()

    assert [message.prev for message in only(AppendEntries, sent)] == [at(3, 2), at(3, 2)]
    assert {p.next_index for p in lone.leader.progress.values()} == {4}


@pytest.mark.parametrize(
    ("conflicting_term", "conflicting_index", "prev"),
    [
        (0, 8, at(7, 5)),  # the follower's log ends at 7
        (0, 1, ORIGIN),  # it is empty
        (5, 6, at(7, 5)),  # we have that term too: behind our last entry of it
        (4, 4, at(5, 4)),
        (3, 7, at(6, 5)),  # we don't have that term: before all of theirs
        (2, 4, at(3, 1)),
        (7, 1, ORIGIN),
    ],
)
def test_a_rejection_lets_the_leader_skip_a_whole_term(
    conflicting_term: int, conflicting_index: int, prev: LogPosition
) -> None:
    """'When rejecting an AppendEntries request, the follower can include the term of the conflicting entry and the
    first index it stores for that term. With this information, the leader can decrement nextIndex to bypass all of the
    conflicting entries in that term; one AppendEntries RPC will be required for each term with conflicting entries,
    rather than one RPC per entry.'"""
    lone = Lone([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], term=7)
    lone.lead()

    [again] = lone.step(lone.rejection(3, 10, conflicting_term, conflicting_index))

    assert isinstance(again, AppendEntries)
    assert (again.recipient, again.prev) == (3, prev)
    assert again.entries[-1].index == 11


def test_the_rejection_names_the_term_and_its_first_index() -> None:
    """'The follower can include the term of the conflicting entry and the first index it stores for that term.'"""
    lone = Lone([1, 1, 1, 2, 2, 2], term=5)

    replies = only(
        AppendEntriesReply,
        [
            *lone.step(lone.append(2, at(6, 5))),
            *lone.step(lone.append(2, at(4, 4))),
            *lone.step(lone.append(2, at(9, 5))),
        ],
    )

    assert [(r.rejected_index, r.conflicting_term, r.conflicting_index) for r in replies] == [
        (6, 2, 4),
        (4, 2, 4),
        (9, 0, 7),
    ]


def test_figure_7_every_follower_is_brought_in_line_in_few_round_trips() -> None:
    """Figure 7: 'When the leader at the top comes to power, it is possible that any of scenarios (a-f) could occur in
    follower logs.' And section 5.3: one AppendEntries RPC for each term with conflicting entries."""
    cluster, names = figure_7()
    leader = cluster.members[1]

    cluster.run_until(lambda: all(m.log_terms == leader.log_terms for m in cluster.members.values()))

    assert leader.raft.current_term == 8
    assert leader.log_terms == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]
    for member in cluster.members.values():
        assert member.log_terms == leader.log_terms
    assert {name: len(requests_to(cluster, id)) for id, name in names.items()} == {
        "a": 2,  # one entry is missing
        "b": 2,  # many are missing: it names the first one
        "c": 1,  # an entry too many is simply replaced
        "d": 1,
        "e": 3,  # too short, then a conflict in term 4
        "f": 3,  # conflicts in term 3 and in term 2
    }
    cluster.run(1.0)
    assert {member.machine.digest() for member in cluster.members.values()} == {leader.machine.digest()}


def requests_to(cluster: Cluster, id: int) -> list[str]:
    return [line for line in cluster.story if f"S1 -> S{id}  append " in line]


def test_a_leader_never_overwrites_its_own_log() -> None:
    """'A leader never overwrites or deletes entries in its own log (the Leader Append-Only Property in Figure 3).'"""
    lone = Lone([1, 1, 2], size=5)
    lone.lead(by=[2, 3])

    lone.propose("SET k v")
    lone.step(lone.rejection(4, 3, 0, 1), lone.rejection(5, 3, 1, 1), lone.ack(2, match=4))
    lone.propose("SET k w")

    assert lone.log_terms == [1, 1, 2, 3, 3, 3]


def test_a_leader_retries_until_every_follower_has_everything() -> None:
    """'If followers crash or run slowly, or if network packets are lost, the leader retries AppendEntries RPCs
    indefinitely (even after it has responded to the client) until all followers eventually store all log entries.'"""
    lone = Lone()
    lone.serve(by=[2, 3])
    lone.propose("SET k v")
    lone.step(lone.ack(2))
    assert lone.raft.committed_index == 2

    retries = []
    for _ in range(30):  # 3 seconds in which 3 does not answer
        sent = lone.wait(DEFAULTS.heartbeat_interval)
        retries += [m for m in only(AppendEntries, sent) if m.recipient == 3]
        lone.step(lone.ack(2))

    assert len(retries) >= 30
    assert any(m.entries for m in retries)
    sent = lone.step(lone.ack(3, match=1))
    assert [e.index for m in only(AppendEntries, sent) for e in m.entries] == [2]
    assert lone.step(lone.ack(3)) == []
    assert lone.leader.progress[3].match_index == 2


def test_a_failed_call_is_made_up_for_at_the_next_heartbeat() -> None:
    """'[...] if network packets are lost, the leader retries AppendEntries RPCs indefinitely.'"""
    lone = Lone()
    lone.serve(by=[2, 3])
    lone.propose("SET k v")

    lone.raft.unreachable(3, lone.now)
    at_once = lone.settle()
    heartbeat = [m for m in only(AppendEntries, lone.wait(DEFAULTS.heartbeat_interval)) if m.recipient == 3]
    answered = lone.step(lone.ack(3, match=1))

    assert at_once == [], "no loop of failures"
    assert [(m.prev, m.entries) for m in heartbeat] == [(at(1, 1), ())]
    assert [e.index for m in only(AppendEntries, answered) for e in m.entries] == [2]


def test_requests_are_cut_by_their_size() -> None:
    """5.3: 'AppendEntries RPC [...] may send more than one for efficiency' (figure 2), but a message has its limits."""
    lone = Lone([1, 1, 1, 1], config=ONE_AT_A_TIME)
    lone.lead(by=[2])

    sent = lone.step(lone.rejection(3, 4, 0, 1))

    assert [[e.index for e in m.entries] for m in only(AppendEntries, sent)] == [[1]]
    sent = lone.step(lone.ack(3, match=1))
    assert [[e.index for e in m.entries] for m in only(AppendEntries, sent)] == [[2], [3]], "two may be in flight"
    sent = lone.step(lone.ack(3, match=2))
    assert [[e.index for e in m.entries] for m in only(AppendEntries, sent)] == [[4]]


def test_a_lost_request_in_the_middle_is_noticed_by_the_next_and_sent_again() -> None:
    """'If the follower does not find an entry in its log with the same index and term, then it refuses the new
    entries.'"""
    lone = Lone()
    lone.serve(by=[2, 3])
    lone.propose("SET a 1")  # lost on its way to 3
    lone.propose("SET b 2")

    sent = lone.step(lone.rejection(3, rejected=2, conflicting_index=2))

    assert lone.leader.progress[3].state is State.PROBE
    assert [(m.prev, [e.index for e in m.entries]) for m in only(AppendEntries, sent)] == [(at(1, 1), [2, 3])]


@pytest.mark.parametrize("sender", [2, 3])
def test_the_leader_of_a_term_is_remembered_for_clients(sender: int) -> None:
    """5.1: 'If a client contacts a follower, the follower redirects it to the leader.'"""
    lone = Lone(term=1)
    before = lone.raft.leader_id

    lone.step(lone.append(sender))

    assert (before, lone.raft.leader_id) == (0, sender)
