"""Handing leadership over to another voter (Raft dissertation, 3.10): theory of operation.

The leader takes no more proposals, waits until the target's log is equal to its own and all of it is committed, and
tells the target to stand for election at once (TimeoutNow). The target needs no pre-vote, and the voters do not hold on
to their leader against it, since that has let go itself. If the target has not taken over within an election timeout
the leader gives up, and takes proposals again.

The lease (rule 7 of the design). Before TimeoutNow leaves, the leader revokes its lease *for good in this term*. From
then on no promise to this leader in this term protects anything, now or at any later time: that is why TimeoutNow, and
the requests for votes that follow from it, may name the two, and why it does no harm if these arrive late, twice or
never. A voter leaves out of its answer the promise to exactly this leader in this term. What it has promised to
anybody else still holds, and so does what a restart has to assume. A leader that still waits for an earlier one's
lease serves nobody, and does not transfer.

The steps are functions of a `Raft`, whose state they change; only the algorithm calls them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from raftkv.raft import elections
from raftkv.raft.lease import Rounds
from raftkv.raft.messages import TimeoutNow, TimeoutNowReply
from raftkv.raft.progress import Progress
from raftkv.raft.roles import Follower, Leader, Transfer
from raftkv.raft.types import Leadership

if TYPE_CHECKING:
    from raftkv.raft.core import Raft


class TransferRefused(Exception):
    """Leadership can't be handed over, or not to this member. Nothing has been done."""


# ---- the leader ------------------------------------------------------------------------------------------------------


def begin_transfer(raft: Raft, leader: Leader, target: int) -> int:
    """See `Raft.transfer`."""
    if leader.transfer is not None:
        raise TransferRefused(f"leadership is being handed over to node {leader.transfer.target} already")
    if not raft.is_serving:
        waits = raft._now < leader.serve_from
        raise TransferRefused(
            "it still waits for an earlier leader's lease to run out" if waits else "it has only just been elected"
        )
    patience = raft.config.election_timeout
    since, voters = raft._now - patience, raft.configuration.voters
    target = choose_target(target, raft.me, voters, leader.progress, leader.rounds, since)
    leader.transfer = Transfer(target, give_up_at=raft._now + patience)
    raft._note(f"hands leadership of term {raft.current_term} over to node {target}")
    return target


def choose_target(
    target: int, me: int, voters: Collection[int], progress: Mapping[int, Progress], rounds: Rounds, since: float
) -> int:
    """Whom to hand over to: `target`, or the most up-to-date voter if that is 0. Only somebody who has answered since
    `since`, seconds: proposals are refused while one waits for it. Raises TransferRefused."""
    if target == me:
        raise TransferRefused(f"node {me} leads already")
    others = sorted(set(voters) & set(progress))
    if target and target not in others:
        raise TransferRefused(f"node {target} is not a voting member")
    answering = [voter for voter in others if rounds.has_answered_since(voter, since)]
    if target and target not in answering:
        raise TransferRefused(f"node {target} does not answer")
    if not answering:
        raise TransferRefused("no other voter answers" if others else "there is no other voter")
    return target or max(answering, key=lambda voter: progress[voter].match_index)


def go_on_with_transfer(raft: Raft, leader: Leader) -> None:
    """Tell the target as soon as its log is equal to the leader's. Also, so that no client is left in doubt, not
    before everything is committed."""
    transfer = leader.transfer
    if transfer is None or transfer.is_told or transfer.target not in leader.progress:
        return
    if leader.progress[transfer.target].match_index == raft.log.last_index == raft.committed_index:
        # First of all the lease, as in _leave_leadership; and for good, for the message may arrive at any time.
        raft.lease = None
        leader.has_let_go = transfer.is_told = True
        raft._send(TimeoutNow(raft.me, transfer.target, raft.current_term))


def name_successor(raft: Raft, leader: Leader) -> None:
    """Who is about to step down for good need not leave others to time out, if one of them has everything."""
    with suppress(TransferRefused):
        since, voters = raft._now - raft.config.election_timeout, raft.configuration.voters
        target = choose_target(0, raft.me, voters, leader.progress, leader.rounds, since)
        if leader.progress[target].match_index == raft.log.last_index:
            raft.lease = None
            raft._send(TimeoutNow(raft.me, target, raft.current_term))


def make_room(raft: Raft, leader: Leader) -> None:
    """Nobody has heard anything of this leader for an election timeout, since it was kept from its turn for so
    long, most likely by its disk (hazard 17). If it leads all the same, somebody else had better."""
    if leader.transfer is None:
        raft._note(f"could not send a heartbeat for {raft.config.election_timeout} s: is the disk too slow?")
        with suppress(TransferRefused):
            begin_transfer(raft, leader, 0)


# ---- the target ------------------------------------------------------------------------------------------------------


def handle_timeout_now(raft: Raft, request: TimeoutNow) -> None:
    follows = isinstance(raft.role, Follower) and raft.role.leader_id == request.sender
    accepted = follows and raft.me in raft.configuration.voters and elections.is_meant_by(raft, raft.configuration)
    if accepted:
        raft._note(f"is to take over from node {request.sender}, the leader of term {request.term}")
        elections.start_election(raft, released=Leadership(request.sender, request.term))
    answer_timeout_now(raft, request, accepted)


def answer_timeout_now(raft: Raft, request: TimeoutNow, accepted: bool) -> None:
    raft._send(TimeoutNowReply(raft.me, request.sender, raft.current_term, accepted, request.call))


def handle_timeout_now_reply(raft: Raft, reply: TimeoutNowReply) -> None:
    """Nothing to do: if the target stands, its term has ended ours; if not, it is asked again."""
