"""Changing who belongs to the cluster, one member at a time (Raft dissertation, 4): the leader's part.

A configuration counts from the moment it is in the log (configuration.py), so two changes must never overlap: the next
one is refused until the last is committed, and until the leader has committed an entry of its own term (hazard 45). A
member joins as a learner, and gets its vote when it has caught up (catching_up.py). A leader that is removed leads on
until that is committed, without counting itself.

The steps are functions of a `Raft`, whose state they change; only the algorithm calls them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from raftkv.raft import transfer
from raftkv.raft.configuration import Change, ChangeRefused, Promote, changed, encode_configuration
from raftkv.raft.roles import Leader
from raftkv.raft.types import Entry, EntryKind, LogPosition

if TYPE_CHECKING:
    from raftkv.raft.core import Raft


def change_configuration(raft: Raft, leader: Leader, change: Change) -> LogPosition:
    """See `Raft.change_configuration`."""
    new = changed(raft.configuration, change, raft.log.last_index + 1)
    if leader.transfer is not None:
        raise ChangeRefused("leadership is being handed over", try_again=True)
    if raft.is_changing:
        raise ChangeRefused("another change is not committed yet", try_again=True)
    if not raft.is_serving:
        raise ChangeRefused("this leader has not committed an entry in its term yet", try_again=True)
    heard_at = leader.rounds.majority_answered_at(new.voters, raft._now)
    if new.voters != raft.configuration.voters and raft._now - heard_at >= raft.config.election_timeout:
        raise ChangeRefused("too few of those who would have a vote then can be reached", try_again=True)
    index, payload = raft.log.last_index + 1, encode_configuration(new)
    entry = Entry(index, raft.current_term, EntryKind.CONFIGURATION, payload, leader.log_time(raft._now))
    raft.log.append([entry])
    raft._note(f"changes the configuration with entry {index}: {change}")
    raft._adopt_configuration(leader)
    return entry.position


def promote_if_caught_up(raft: Raft, leader: Leader, learner: int) -> None:
    """Give a learner its vote as soon as it would hold up nothing (4.2.1)."""
    rounds = leader.catching_up.get(learner)
    match = leader.progress[learner].match_index
    if rounds and rounds.is_done(match, raft.log.last_index, raft._now, raft.config.election_timeout):
        with suppress(ChangeRefused):  # not just now; the next answer is not far
            change_configuration(raft, leader, Promote(learner, leader.progress[learner].disk))


def leave_if_removed(raft: Raft, leader: Leader) -> None:
    """Step down once an entry is committed that leaves out this member, and this member's callers know (4.2.2). Those
    who are removed are told for a while, so that they are quiet, but may be gone."""
    removed_at = raft.log.configurations.latest_index
    if raft.handed_out_index < removed_at:
        return
    leader.removal_is_committed(raft._now + 4 * raft.config.election_timeout)
    if raft.me not in raft.configuration.voters:
        raft._begin_round(leader)  # says what is committed
        transfer.name_successor(raft, leader)
        raft._become_follower(raft.current_term, f"removed by entry {removed_at}")
