"""The real storage, state machine and replica, watched: each tells its member, and the checks, what it is doing.

Nothing is changed in what they do. The order in which things are told is that in which they happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raftkv.kv import FrozenState, StateMachine
from raftkv.log_storage import SnapshotWriter
from raftkv.operations import Result
from raftkv.raft.ready import Ready
from raftkv.raft.types import Entry, HardState, SnapshotMeta
from raftkv.replica import Input, Outcome, Query, Replica
from raftkv.storage import Storage
from tests.simulation.calls import IN_TURN, READ_INDEX, Call
from tests.simulation.checks import incarnation_of
from tests.simulation.disk import Boundary
from tests.simulation.world import Violation
from tests.support.leases import lease_due

if TYPE_CHECKING:
    from tests.simulation.member import Member


_PIECE_BYTES: Final = 1000
"""Of a file that no longer counts: most snapshots are of some thousand bytes."""


class WatchedStorage(Storage):
    def __init__(
        self,
        member: Member,
        founders: Mapping[int, str] | None,
        joined: int,
        segment_bytes: int,
        fill_bytes: int,
        cache_bytes: int,
    ) -> None:
        """Without `founders` the member joins; `joined` has brought it in, if it begins anew."""
        super().__init__(
            member.disk.directory,
            member_id=member.id,
            members=founders,
            disk=member.disk,
            segment_bytes=segment_bytes,
            fill_bytes=fill_bytes,
            cache_bytes=cache_bytes,
            piece_bytes=_PIECE_BYTES,
            incarnation=incarnation_of(member.id, member.disk_number),
            address="" if founders else member.name,
            joined=0 if founders else joined,
        )
        self._member = member

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int) -> None:
        checks = self._member.checks
        checks.persisting(self._member.id, hard_state, entries, commit_index)
        super().persist(hard_state, entries, commit_index)
        checks.persisted(self._member.id)

    def adopt_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter, keep_from: int) -> None:
        member = self._member
        if member.trap_in_adoption is not None:
            member.trap, member.trap_in_adoption = member.trap_in_adoption, None
        member.checks.adopting(member.id, meta, member.disk.content(writer.name))
        super().adopt_snapshot(meta, writer, keep_from)
        member.checks.adopted(member.id, self.first_index())

    def install_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        member = self._member
        if member.trap_in_adoption is not None:
            member.trap, member.trap_in_adoption = member.trap_in_adoption, None
        member.checks.installing(member.id, meta, member.disk.content(writer.name))
        super().install_snapshot(meta, writer)
        member.checks.installed(member.id)


class WatchedMachine(StateMachine):
    def __init__(self, member: Member) -> None:
        super().__init__()
        self._member = member

    def apply(self, entry: Entry) -> list[Result]:
        self._member.cross(Boundary.APPLY)
        revision = self.revision
        results = super().apply(entry)
        self._member.checks.applied(self._member.id, entry, self, revision)
        return results

    def restore(self, state: FrozenState) -> None:
        super().restore(state)
        self._member.checks.compare(self._member.id, self)

    def find(self, key: bytes) -> bytes | None:
        self._member.look()
        record = super().find(key)
        self._member.look()
        return record


class WatchedReplica(Replica):
    had_work = False
    """Whether there was anything to be carried out in the last turn."""

    def turn(self, inputs: Iterable[Input], now: float) -> bool:
        self.had_work = False
        more = super().turn(inputs, now)
        if not more and self.raft.ready() is not None:
            raise Violation("a turn says that nothing is left to be done, and something is")
        if self.raft.lease != lease_due(self.raft):
            raise Violation(f"{self.raft.lease} is held, where {lease_due(self.raft)} follows from the answers")
        return more

    def _carry_out(self, ready: Ready) -> None:
        self.had_work = True
        super()._carry_out(ready)

    def _ask_to_read(self, query: Query, now: float) -> None:
        lease = self.raft.lease
        if isinstance(query.caller, WatchedCaller):
            query.caller.path = IN_TURN if lease is not None and lease.is_valid(now) else READ_INDEX
        super()._ask_to_read(query, now)


@dataclass(eq=False, slots=True)
class WatchedCaller:
    """Who waits for the answer to a client's call."""

    member: Member
    client: str
    call: Call
    path: str = ""
    """Of a read: how it is made sure that it is not stale."""

    def is_wanted(self) -> bool:
        return True

    def answer(self, outcome: Outcome) -> None:
        self.member.answer(self, outcome)
