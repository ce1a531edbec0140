"""What the algorithm asks of its surroundings: theory of operation.

The core never does anything; it says what is to be done. A driver repeats, until `ready()` returns None:

1. send `ready.urgent`: a leader's AppendEntries, which may overtake its own disk (dissertation, 10.2.1), and snapshots;
2. persist, durably, `ready.hard_state`; then `ready.snapshot`, with the state machine that it stands for in place of
   the one there was; then `ready.entries`;
3. `advance(ready)`: from here on the core counts them as durable;
4. send `ready.messages`: everything that had to wait for step 2;
5. apply `ready.committed`, in order;
6. answer the callers of what was applied, and serve `ready.reads`.

The order is the safety argument: nothing that a message or an answer depends on can be lost by a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raftkv.raft.messages import AppendEntries, InstallSnapshot, Message
from raftkv.raft.types import Entry, HardState, SnapshotMeta


@dataclass(frozen=True, slots=True)
class ReadyRead:
    """A read that may be served once everything up to `index` has been applied, which steps 5 and 6 see to."""

    token: int
    index: int


Urgent = AppendEntries | InstallSnapshot
"""The only messages that do not wait for the disk."""


@dataclass(slots=True)
class Ready:
    urgent: list[Urgent] = field(default_factory=list)
    hard_state: HardState | None = None
    """The record to make durable; None if it has not changed."""
    snapshot: SnapshotMeta | None = None
    """To install, one whose message came in: it takes the place of the whole log and of all that has been applied."""
    entries: list[Entry] = field(default_factory=list)
    """To append. The first one's index may be below the end of the durable log: it replaces everything from there."""
    commit_index: int = 0
    """At most the last index that is durable after step 2; worth remembering with `entries`, but not alone."""
    messages: list[Message] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)
    reads: list[ReadyRead] = field(default_factory=list)
    lost_reads: list[int] = field(default_factory=list)
    """Tokens of reads that this member can no longer serve, since it does not lead any more."""
    notes: list[str] = field(default_factory=list)
    """What a person should read in the log: elections, waits, stepping down."""

    def applied_index(self, before: int) -> int:
        """Up to where everything will have been applied after step 5, if it was up to `before`."""
        return self.committed[-1].index if self.committed else before
