"""What passes between clients and members, and how a person reads it in the trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raftkv.kv import StateMachine
from raftkv.operations import Malformed, decode_batch, format_text
from raftkv.raft.configuration import decode_configuration, describe_configuration
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
    TimeoutNowReply,
)
from raftkv.raft.types import Entry, EntryKind, Proposal
from raftkv.replica import Applied, NotLeader, Outcome, Refused, Served, Unknown
from tests.simulation.snapshot_streams import ToFollower, ToLeader

WITHOUT_TURN = "under the lease, without the turn"
IN_TURN = "under the lease, in the turn"
READ_INDEX = "ReadIndex"


@dataclass(frozen=True, slots=True)
class Get:
    key: bytes


@dataclass(frozen=True, slots=True)
class GetAll:
    """Several keys at one moment, which always takes the turn."""

    keys: tuple[bytes, ...]

    def __call__(self, machine: StateMachine) -> dict[bytes, bytes | None]:
        return {key: machine.get(key) for key in self.keys}


@dataclass(frozen=True, slots=True)
class Call:
    number: int
    request: Proposal | Get | GetAll


@dataclass(frozen=True, slots=True)
class Answer:
    number: int
    outcome: Outcome
    path: str = ""
    """Of a read: how it was made sure that it is not stale."""


def describe(packet: Any) -> str:
    """A packet in a few words."""
    match packet:
        case AppendEntries():
            entries = f", entries to {packet.entries[-1].index}" if packet.entries else ""
            return (
                f"append after {packet.prev.index} of term {packet.prev.term}{entries}, commit {packet.leader_commit}, "
                f"term {packet.term} round {packet.round}"
            )
        case AppendEntriesReply(success=True):
            return f"appended to {packet.match_index}, term {packet.term} round {packet.round}"
        case AppendEntriesReply():
            return (
                f"lacks {packet.rejected_index}, has term {packet.conflicting_term} from {packet.conflicting_index}, "
                f"term {packet.term} round {packet.round}"
            )
        case RequestVote():
            last = f"last is {packet.last.index} of term {packet.last.term}"
            released = (
                f", n{packet.released.leader} has let go of term {packet.released.term}" if packet.released else ""
            )
            return f"{'pre-vote' if packet.pre_vote else 'vote'} for me in term {packet.term}? {last}{released}"
        case RequestVoteReply():
            lease = f", promised another {packet.remaining_lease_ms} ms" if packet.remaining_lease_ms else ""
            kind = "pre-vote" if packet.pre_vote else "vote"
            return f"{kind} {'granted' if packet.granted else 'refused'}, term {packet.term}{lease}"
        case TimeoutNow():
            return f"take over from term {packet.term}"
        case TimeoutNowReply():
            return f"{'takes' if packet.accepted else 'does not take'} over, term {packet.term}"
        case Call():
            return f"#{packet.number} {_describe_request(packet.request)}"
        case Answer():
            return f"#{packet.number} {_describe_outcome(packet.outcome)}" + (packet.path and f" ({packet.path})")
        case ToFollower() | ToLeader():
            return str(packet)
        case InstallSnapshot():
            return f"snapshot up to {packet.snapshot.last.index}, term {packet.term}"
        case InstallSnapshotReply():
            return f"snapshot {f'taken, has {packet.match_index}' if packet.success else 'refused'}, term {packet.term}"
    return repr(packet)


def describe_entry(entry: Entry) -> str:
    """An entry in a few words."""
    return f"{entry.index} of term {entry.term}: {describe_payload(entry.kind, entry.payload)}"


def describe_payload(kind: EntryKind, payload: bytes) -> str:
    """What an entry holds, in a few words."""
    if kind is EntryKind.NO_OP:
        return "NO-OP"
    if kind is EntryKind.CONFIGURATION:
        return f"members {describe_configuration(decode_configuration(payload))}"
    if kind is EntryKind.TEXT:
        return payload.decode()
    try:
        batch = decode_batch(payload)
    except Malformed as error:
        return f"undecodable ({error})"
    session = f" [session {batch.session >> 16} from {batch.lowest_unanswered}]" if batch.session else ""
    numbered = [f"{op.sequence}: {format_text(op)}" if op.sequence else format_text(op) for op in batch.operations]
    return ", ".join(numbered) + session


def _describe_request(request: Proposal | Get | GetAll) -> str:
    match request:
        case Proposal():
            return describe_payload(request.kind, request.payload)
        case Get():
            return f"GET {request.key.decode()}"
        case GetAll():
            return "GET ALL"


def _describe_outcome(outcome: Outcome) -> str:
    match outcome:
        case Applied():
            return ", ".join(f"{r.status.name}{f' {r.value >> 16}' if r.value else ''}" for r in outcome.results)
        case Served():
            return repr(outcome.value)
        case Refused():
            return f"refused: {outcome.reason}"
        case NotLeader():
            return f"not the leader, try {outcome.leader_id or 'another'}"
        case Unknown():
            return f"unknown: {outcome.reason}"
