"""What a leader knows of one follower's log, and how it talks to it.

    PROBE      the leader does not know where the logs part: one request at a time, until one succeeds
    REPLICATE  it knows: entries go out as they come, several requests in flight, `next_index` ahead of the answers
    SNAPSHOT   what the follower needs next has been compacted: a snapshot is on its way (section 7), and until it has
               arrived, or failed, there are only heartbeats

A rejection, a failed call or an answer overdue leads back to PROBE. What has been compacted leads to SNAPSHOT.
Invariant: match_index < next_index, and match_index never goes back (hazards 25, 29).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Progress:
    next_index: int
    match_index: int = 0
    """The highest index known to be *durable* in the follower's log and equal to the leader's there."""
    state: State = State.PROBE
    probe_sent: bool = False
    """PROBE only: a request is out; the next one goes with its answer, or with the next heartbeat."""
    in_flight: deque[tuple[int, float]] = field(default_factory=deque)
    """REPLICATE only: (last index, time sent) of the requests with entries that are not answered yet."""
    snapshot_index: int = 0
    """SNAPSHOT only: up to where the one reaches that is on its way."""
    first_round: int = 1
    """Answers of earlier rounds tell nothing: they are of an earlier term (0), or come from a member that had the same
    id, was removed, and may have lost its disk."""
    disk: bytes = b""
    """The incarnation of the disk from which all its answers came, on which `match_index` rests."""

    def may_send(self, max_in_flight: int) -> bool:
        if self.state is State.PROBE:
            return not self.probe_sent
        if self.state is State.SNAPSHOT:
            return False
        return len(self.in_flight) < max_in_flight

    def sent(self, last_index: int, now: float) -> None:
        """A request with entries up to last_index has been handed out."""
        if self.state is State.PROBE:
            self.probe_sent = True
        else:
            self.next_index = last_index + 1
            self.in_flight.append((last_index, now))

    def succeeded(self, match_index: int) -> bool:
        """The follower has verified its log up to match_index. Whether that is news."""
        news = match_index > self.match_index
        self.match_index = max(self.match_index, match_index)
        # A heartbeat's answer is no reason to think that a follower has what a snapshot is to bring it.
        if self.state is State.PROBE or (self.state is State.SNAPSHOT and self.match_index >= self.next_index):
            self.state = State.REPLICATE
            self.next_index = self.match_index + 1
        self.next_index = max(self.next_index, self.match_index + 1)
        while self.in_flight and self.in_flight[0][0] <= self.match_index:
            self.in_flight.popleft()
        return news

    def is_stale_rejection(self, rejected_index: int) -> bool:
        """Whether a rejection speaks of a request long overtaken by others (hazard 26)."""
        if self.state is State.PROBE:
            return rejected_index != self.next_index - 1
        if self.state is State.SNAPSHOT:
            return True
        return rejected_index <= self.match_index

    def interrupted(self) -> None:
        """A call has failed: what was in flight may be lost. The next heartbeat asks again, not a loop of failures."""
        if self.state is not State.PROBE:
            self.probe(self.match_index + 1)
        self.probe_sent = True

    def probe(self, next_index: int) -> None:
        """Find out anew where the logs part, from next_index downwards."""
        self.state = State.PROBE
        self.probe_sent = False
        self.next_index = max(next_index, self.match_index + 1)
        self.in_flight.clear()

    @property
    def needs_from(self) -> int:
        """The first entry that the follower is still to be sent."""
        return 1 + (self.snapshot_index if self.state is State.SNAPSHOT else self.match_index)

    def await_snapshot(self, snapshot_index: int) -> None:
        """A snapshot up to there is on its way: nothing else will do."""
        self.state = State.SNAPSHOT
        self.snapshot_index = snapshot_index
        self.in_flight.clear()

    def is_overdue(self, now: float, patience: float) -> bool:
        """Whether an answer is missing for longer than `patience` seconds: the request may be lost (hazard 27)."""
        return bool(self.in_flight) and now - self.in_flight[0][1] > patience
