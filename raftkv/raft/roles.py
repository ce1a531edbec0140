"""The four roles, each with the state that exists only in that role.

A change of role makes a new object and drops the old one: votes, progress, rounds and waiting reads of an earlier term
can't leak into a later one (hazards 4, 25).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from raftkv.raft.catching_up import CatchingUp
from raftkv.raft.lease import Rounds
from raftkv.raft.progress import Progress
from raftkv.raft.types import Configuration, Leadership


@dataclass(slots=True)
class Follower:
    election_deadline: float
    leader_id: int = 0
    """0: none known in this term."""
    leader_heard_at: float = -math.inf
    """When the leader of this term last sent something."""


@dataclass(slots=True)
class PreCandidate:
    """Asks whether it would be elected, before it disturbs anybody with a new term (dissertation, 9.6)."""

    election_deadline: float
    granted_by: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Candidate:
    election_deadline: float
    granted_by: set[int] = field(default_factory=set)
    """Voters, not a number of votes: a reply that is delivered twice elects nobody. Holds the candidate itself only
    once its own vote is durable."""
    promised_until: dict[int, float] = field(default_factory=dict)
    """Voter -> when the longest lease that it has promised to an earlier leader will have run out."""
    released: Leadership | None = None
    """Who has handed over to it, if that is why it stands."""


@dataclass(frozen=True, slots=True)
class WaitingRead:
    token: int
    index: int
    """What had been committed when the read arrived."""
    round: int
    """The round that has to be acknowledged by a majority; 0: none, the lease was valid when the read arrived."""


@dataclass(slots=True)
class Transfer:
    """A transfer that is under way."""

    target: int
    give_up_at: float
    is_told: bool = False
    """TimeoutNow has been sent; with each heartbeat it is sent again."""


@dataclass(slots=True)
class Leader:
    progress: dict[int, Progress]
    """Of every other member, and of those `leaving`."""
    rounds: Rounds
    heartbeat_due: float
    term_start_index: int
    """The index of its NO-OP: committed, everything before it is (5.4.2, section 8)."""
    serve_from: float
    """Before this moment it neither commits, acknowledges nor serves: an earlier leader may still hold a lease."""
    promised_until: dict[int, float]
    """As a candidate's. A vote that comes late may shorten the wait: any majority of the voters will do."""
    elected_at: float
    log_time_ms: int
    """Log time when it was elected."""
    reads: deque[WaitingRead] = field(default_factory=deque)
    """In order of arrival."""
    wanted_round: int = 0
    """The highest round that any read has ever needed."""
    transfer: Transfer | None = None
    has_let_go: bool = False
    """It has told somebody to take over, and holds no lease in this term any more: for good (hazard 40)."""
    catching_up: dict[int, CatchingUp] = field(default_factory=dict)
    """Of each learner."""
    leaving: dict[int, float] = field(default_factory=dict)
    """Members that are removed -> until when they are still told of it; inf while that is not committed."""

    def log_time(self, now: float) -> int:
        """Log time of what is appended now, milliseconds."""
        return self.log_time_ms + int((now - self.elected_at) * 1000)

    def adopt(self, configuration: Configuration, me: int, last_index: int, now: float) -> None:
        """Keep track of those who are members now, and of who is to be told that it no longer is. Requests that leave
        before the next round are not for newcomers."""
        for peer in configuration.members - {me}:
            if self.leaving.pop(peer, None) is not None or peer not in self.progress:
                # Whoever comes back is another: nothing that was known of its log is true any more.
                self.progress[peer] = Progress(next_index=last_index + 1, first_round=self.rounds.current + 1)
        for peer in self.progress.keys() - configuration.members:
            self.leaving.setdefault(peer, math.inf)
        known = self.catching_up
        self.catching_up = {peer: known.get(peer) or CatchingUp(last_index, now) for peer in configuration.learners}

    def begin_anew(self, learner: int, disk: bytes, last_index: int, now: float) -> None:
        """It has another disk, on which there may be nothing of what the one before held."""
        self.progress[learner] = Progress(next_index=last_index + 1, first_round=self.rounds.current + 1, disk=disk)
        self.catching_up[learner] = CatchingUp(last_index, now)

    def removal_is_committed(self, until: float) -> None:
        """Tell those who are leaving of it until then, and no longer: they may be gone."""
        self.leaving = {peer: min(known, until) for peer, known in self.leaving.items()}

    def forget_who_left(self, now: float) -> None:
        for peer in [peer for peer, until in self.leaving.items() if until <= now]:
            del self.leaving[peer], self.progress[peer]


Role = Follower | PreCandidate | Candidate | Leader

NAMES: dict[type[Role], str] = {
    Follower: "follower",
    PreCandidate: "pre-candidate",
    Candidate: "candidate",
    Leader: "leader",
}
