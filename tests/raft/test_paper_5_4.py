"""Raft paper, section 5.4: safety. Each test quotes its rule, and has three parts: init, test, check."""

from __future__ import annotations

from itertools import product

import pytest

from raftkv.raft.messages import RequestVoteReply
from raftkv.raft.types import EntryKind, LogPosition
from tests.raft.figures import figure_8, figure_8_d, figure_8_e
from tests.raft.lone import Lone, at

LAST_ENTRIES = [at(0, 0), at(1, 1), at(2, 1), at(5, 1), at(1, 2), at(2, 2), at(3, 3)]


@pytest.mark.parametrize(("ours", "theirs"), list(product(LAST_ENTRIES, repeat=2)))
@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_vote_is_denied_to_a_log_that_is_less_up_to_date(
    ours: LogPosition, theirs: LogPosition, pre_vote: bool
) -> None:
    """5.4.1: 'The voter denies its vote if its own log is more up-to-date than that of the candidate. [...] If the logs
    have last entries with different terms, then the log with the later term is more up-to-date. If the logs end with
    the same term, then whichever log is longer is more up-to-date.'"""
    lone = Lone([ours.term] * ours.index, term=5)

    [reply] = lone.step(lone.vote_request(2, term=6, last=theirs, pre_vote=pre_vote))

    ours_is_more_up_to_date = ours.term > theirs.term or (ours.term == theirs.term and ours.index > theirs.index)
    assert isinstance(reply, RequestVoteReply)
    assert reply.granted is not ours_is_more_up_to_date


def test_an_entry_that_is_not_durable_yet_counts_for_the_comparison() -> None:
    """5.4.1: 'The voter denies its vote if its own log is more up-to-date': the log that it is about to acknowledge."""
    lone = Lone(term=1)

    sent = lone.step(
        lone.append(3, terms=[1]), lone.vote_request(2, term=1), lone.vote_request(2, term=1, last=at(1, 1))
    )

    assert [reply.granted for reply in sent if isinstance(reply, RequestVoteReply)] == [False, True]


def test_a_denied_vote_is_still_free_for_another_candidate() -> None:
    """5.4.1: only a candidate whose 'log contains all committed entries' is to be elected; the term may yet bring
    one."""
    lone = Lone([1, 1], term=1)

    sent = lone.step(lone.vote_request(2, term=2), lone.vote_request(3, term=2, last=at(2, 1)))

    assert [reply.granted for reply in sent if isinstance(reply, RequestVoteReply)] == [False, True]


@pytest.mark.parametrize(("acknowledged", "committed"), [(1, 0), (2, 0), (3, 0), (4, 4)])
def test_only_entries_of_the_leaders_own_term_are_committed_by_counting(acknowledged: int, committed: int) -> None:
    """5.4.2: 'Raft never commits log entries from previous terms by counting replicas. Only log entries from the
    leader's current term are committed by counting replicas; once an entry from the current term has been committed in
    this way, then all prior entries are committed indirectly.'"""
    lone = Lone([1, 2, 2])
    lone.lead()

    lone.step(lone.ack(2, match=acknowledged), lone.ack(3, match=acknowledged))

    assert lone.raft.committed_index == committed


def test_a_leader_begins_its_term_with_a_no_op() -> None:
    """Section 8: 'Raft handles this by having each leader commit a blank no-op entry into the log at the start of its
    term.'"""
    lone = Lone([1, 2])

    lone.lead()

    assert lone.log_terms == [1, 2, 3]
    assert lone.raft.log.entries(3, 3, 0)[0].kind is EntryKind.NO_OP
    assert lone.leader.term_start_index == 3
    assert not lone.raft.is_serving


def test_figure_8_an_earlier_terms_entry_is_not_committed_by_being_on_a_majority() -> None:
    """Figure 8, (c): 'At this point, the log entry from term 2 has been replicated on a majority of the servers, but it
    is not committed.'"""
    cluster = figure_8()
    s1 = cluster.members[1]

    holders = [m.id for m in cluster.members.values() if m.storage.last_index() >= 2 and m.storage.term(2) == 2]

    assert (s1.leads, s1.raft.current_term) == (True, 4)
    assert holders == [1, 2, 3]
    assert s1.leader.progress[2].match_index == s1.leader.progress[3].match_index == 2
    assert s1.raft.committed_index == 0
    assert cluster.committed == []


def test_figure_8_such_an_entry_can_still_be_overwritten() -> None:
    """Figure 8, (d): 'If S1 crashes as in (d), S5 could be elected leader (with votes from S2, S3, and S4) and
    overwrite the entry with its own entry from term 3.'"""
    cluster = figure_8()

    figure_8_d(cluster)

    assert cluster.leaders == {2: 1, 3: 5, 4: 1, 5: 5}
    assert {tuple(m.log_terms) for m in cluster.members.values()} == {(1, 3, 5)}
    assert [entry.term for entry in cluster.committed] == [1, 3, 5]


def test_figure_8_an_entry_of_the_current_term_on_a_majority_commits_it() -> None:
    """Figure 8, (e): 'However, if S1 replicates an entry from its current term on a majority of the servers before
    crashing, as in (e), then this entry is committed (S5 cannot win an election). At this point all preceding entries
    in the log are committed as well.'"""
    cluster = figure_8()

    figure_8_e(cluster)

    assert [entry.term for entry in cluster.committed][:3] == [1, 2, 4]
    assert 5 not in [leader for term, leader in cluster.leaders.items() if term > 3]
    cluster.start(1)
    cluster.run(3.0)
    assert {tuple(m.log_terms[:3]) for m in cluster.members.values()} == {(1, 2, 4)}
