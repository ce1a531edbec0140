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

This module has the state of a transfer and the choice of its target; the steps are in core.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from raftkv.raft.lease import Rounds
from raftkv.raft.progress import Progress


class TransferRefused(Exception):
    """Leadership can't be handed over, or not to this member. Nothing has been done."""


@dataclass(slots=True)
class Transfer:
    """A transfer that is under way."""

    target: int
    give_up_at: float
    is_told: bool = False
    """TimeoutNow has been sent; with each heartbeat it is sent again."""


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
