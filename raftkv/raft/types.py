"""The values that the algorithm talks about.

Everything here is immutable and knows nothing of its surroundings. Indexes and terms are counted from 1;
0 means "before the first" or "none".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class EntryKind(IntEnum):
    """What an entry's payload is. The algorithm itself looks only into a CONFIGURATION."""

    NO_OP = 0
    """The first entry of a leader's term (section 8). Payload: the settings of the term, for the state machine."""
    TEXT = 1
    """One operation in the text form of the wire, UTF-8: `SET key value`."""
    BATCH = 2
    """A client's batch of operations, its bytes as they came (`raftkv.operations`)."""
    CONFIGURATION = 3
    """Who belongs to the cluster from here on (dissertation, 4.1). Payload: `raftkv.raft.configuration`."""


@dataclass(frozen=True, slots=True, order=True)
class LogPosition:
    """A place in a log. The order is the paper's "more up-to-date" (5.4.1): the term first, then the index."""

    term: int
    index: int


ORIGIN = LogPosition(term=0, index=0)
"""The position before the first entry of every log."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log. Two entries with equal index and term are equal (Log Matching, 5.3)."""

    index: int
    term: int
    kind: EntryKind
    payload: bytes = b""
    time_ms: int = 0
    """Log time in milliseconds, given by the leader: never goes back along the log, stands still while there is no
    leader. The only clock that the state machine knows."""

    @property
    def position(self) -> LogPosition:
        return LogPosition(self.term, self.index)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a client wants appended: an entry that has no place in the log yet."""

    kind: EntryKind
    payload: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before any message that depends on it leaves (figure 2, "persistent state").

    One record, so that a crash can't separate a term from its vote.
    """

    term: int = 0
    voted_for: int = 0
    """The member voted for in `term`; 0: none."""
    longest_promise_ms: int = 0
    """The longest lease this member has ever promised to a leader, milliseconds. A restart assumes that it had
    promised this much the moment before it stopped."""


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot stands for: the state as the log up to `last` has made it (section 7)."""

    last: LogPosition
    """Of the last entry that it includes."""
    time_ms: int = 0
    """The log time of that entry, from which a leader without any later entry goes on."""
    configuration: bytes = b""
    """Who belonged to the cluster as of that entry (`raftkv.raft.configuration`)."""


@dataclass(frozen=True, slots=True)
class Leadership:
    """A leader in one of its terms: whom a promise is given to, and what a transfer lets go of."""

    leader: int
    term: int


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who belongs to the cluster. Learners receive the log and count for nothing."""

    voters: frozenset[int]
    learners: frozenset[int] = field(default_factory=frozenset)
    addresses: tuple[tuple[int, str], ...] = ()
    """(member, address), by member. Text that the algorithm never looks at; it may leave out members."""
    joined: tuple[tuple[int, int], ...] = ()
    """(member, index of the entry that brought it in), by member; founding members are left out. A member that is
    removed and added again is another one, whatever its disk holds."""
    disks: tuple[tuple[int, bytes], ...] = ()
    """(voter, incarnation of its disk), by member, of those that have been given their vote: they got it for what is on
    that disk, and have it with no other. Founding members are left out."""

    def disk_of(self, member: int) -> bytes:
        """With which disk alone it has its vote; empty: not named, or no voter."""
        return dict(self.disks).get(member, b"")

    def counts_with(self, member: int, disk: bytes) -> bool:
        """Whether a member's vote may be this disk's: it belongs to no other one."""
        return self.disk_of(member) in (b"", disk)

    @property
    def members(self) -> frozenset[int]:
        return self.voters | self.learners


NOBODY = Configuration(frozenset())
"""What a member goes by that has just joined and has no log yet: it never stands for election."""
