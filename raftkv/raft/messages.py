"""The messages between members: one frozen dataclass each, in the paper's words (figure 2).

`sender` and `recipient` are member ids. `call` is the driver's own: it names the call that a request came in with,
and its reply carries it back untouched, so that a reply finds its way. `incarnation` says which disk the sender has,
and `joined` which entry had brought in whoever that was made for (0: a founding member). The driver adds both. It sorts
out which founding members have lost their disks; of all others the algorithm counts only the answers from the disk that
the configuration names (hazard 46).
"""

from __future__ import annotations

from dataclasses import dataclass

from raftkv.raft.types import Entry, Leadership, LogPosition, SnapshotMeta


@dataclass(frozen=True, slots=True)
class AppendEntries:
    """A leader's log replication and heartbeat (5.3). `sender` is the leader."""

    sender: int
    recipient: int
    term: int
    prev: LogPosition
    """The position just before `entries`: what the follower's log must hold for the request to succeed."""
    entries: tuple[Entry, ...]
    leader_commit: int
    lease_duration_ms: int
    """What the leader asks the follower to promise: not to let another leader serve for so long. 0: nothing."""
    round: int
    """Counts the leader's rounds of requests within its term; acknowledged by the reply (lease, ReadIndex)."""
    call: int = 0
    incarnation: bytes = b""
    joined: int = 0

    def accepted(self, term: int, match_index: int) -> AppendEntriesReply:
        """The answer of a follower in `term`, whose durable log is the leader's up to there."""
        return AppendEntriesReply(self.recipient, self.sender, term, True, self.round, match_index, call=self.call)

    def rejected(self, term: int, conflicting_term: int = 0, conflicting_index: int = 0) -> AppendEntriesReply:
        """The answer of a follower in `term`, whose log does not hold `prev`."""
        conflict = self.prev.index, conflicting_term, conflicting_index
        return AppendEntriesReply(self.recipient, self.sender, term, False, self.round, 0, *conflict, self.call)


@dataclass(frozen=True, slots=True)
class AppendEntriesReply:
    sender: int
    recipient: int
    term: int
    success: bool
    round: int
    """The request's round; 0 if the request was of an earlier term than the follower's."""
    match_index: int = 0
    """On success: the last index that this request verified to be in the follower's durable log."""
    rejected_index: int = 0
    """On failure: the request's `prev.index`."""
    conflicting_term: int = 0
    """On failure: the term of the follower's entry at `rejected_index`; 0 if its log is shorter than that."""
    conflicting_index: int = 0
    """On failure: the first index of `conflicting_term` in the follower's log, or the first index it lacks."""
    call: int = 0
    incarnation: bytes = b""
    joined: int = 0


@dataclass(frozen=True, slots=True)
class RequestVote:
    """A candidate's request (5.2), or with `pre_vote` the question that changes nothing (dissertation, 9.6)."""

    sender: int
    recipient: int
    term: int
    """The term to vote in; for a pre-vote the one that the sender would start."""
    last: LogPosition
    pre_vote: bool = False
    call: int = 0
    released: Leadership | None = None
    """A leader that has handed over to the sender, and the term in which it will never hold a lease again (3.10)."""
    incarnation: bytes = b""
    joined: int = 0


@dataclass(frozen=True, slots=True)
class RequestVoteReply:
    sender: int
    recipient: int
    term: int
    """The voter's term; of a granted pre-vote the term that was asked for."""
    granted: bool
    pre_vote: bool = False
    remaining_lease_ms: int = 0
    """What is left of the voter's promises to earlier leaders, milliseconds, rounded up."""
    call: int = 0
    incarnation: bytes = b""
    joined: int = 0


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """A leader's snapshot for a follower that lacks what the leader has compacted (section 7). `sender` is the leader.

    The message is what the algorithm needs to know; the file itself is the drivers' business. The leader's begins to
    send it when it gets the message; the follower's hands the message on once all of the file is there, checked and
    durable. It may be another snapshot by then, of later entries.

    It is no part of a round: whoever has received it has promised nothing, so its reply must not renew a lease.
    """

    sender: int
    recipient: int
    term: int
    snapshot: SnapshotMeta
    call: int = 0
    asked_in: int = 0
    """The leader's latest round when it sent this. Its driver, which has the message at hand, gives it back with the
    reply: so an answer is not taken for one of a member that has been added since under the same id."""

    def accepted(self, term: int, match_index: int) -> InstallSnapshotReply:
        """The answer of a follower in `term`, whose durable log is the leader's up to there."""
        return InstallSnapshotReply(
            self.recipient, self.sender, term, True, match_index, self.call, asked_in=self.asked_in
        )

    def refused(self, term: int) -> InstallSnapshotReply:
        """The answer of a member whose `term` is a later one."""
        return InstallSnapshotReply(self.recipient, self.sender, term, False, call=self.call, asked_in=self.asked_in)


@dataclass(frozen=True, slots=True)
class InstallSnapshotReply:
    sender: int
    recipient: int
    term: int
    success: bool
    """False only if the request was of an earlier term than the follower's."""
    match_index: int = 0
    """On success: up to where the follower's durable log is the leader's, at least up to the snapshot's end."""
    call: int = 0
    incarnation: bytes = b""
    joined: int = 0
    asked_in: int = 0
    """The request's. It acknowledges no round."""


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """A leader hands over: stand for election at once (dissertation, 3.10). `sender` has no lease in `term` any more,
    and never will."""

    sender: int
    recipient: int
    term: int
    call: int = 0


@dataclass(frozen=True, slots=True)
class TimeoutNowReply:
    sender: int
    recipient: int
    term: int
    """The sender's term: the one in which it stands, if it does."""
    accepted: bool
    call: int = 0


Request = AppendEntries | RequestVote | InstallSnapshot | TimeoutNow
Reply = AppendEntriesReply | RequestVoteReply | InstallSnapshotReply | TimeoutNowReply
Message = Request | Reply
SignedReply = AppendEntriesReply | RequestVoteReply | InstallSnapshotReply
"""Says from which disk it comes."""
