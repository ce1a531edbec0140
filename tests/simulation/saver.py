"""The thread that saves snapshots, in small steps: theory of operation.

What `raftkv.snapshot_thread` does in a thread, a `SimulatedSaver` does in events of the world: each writes one piece,
and passes the same boundaries of the disk as a turn does. So turns come between any two of them, the process can crash
at each, and the disk may be full or failing. A save that fails is no reason for a member to give up: what the disk does
here does not count as its excuse.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from raftkv.snapshots import Save, SnapshotFailed, SnapshotSaved, write_snapshot
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from raftkv.storage import Storage
    from tests.simulation.member import Member

_Job = Generator[None, None, SnapshotSaved | SnapshotFailed | None]


class SimulatedSaver:
    """See `raftkv.snapshots.Saver`. Of one life of a member."""

    def __init__(self, member: Member, storage: Storage, pace: float) -> None:
        """A step is taken every `pace` seconds, on average."""
        self._member = member
        self._storage = storage
        self._pace = pace
        self._jobs: list[_Job] = []
        self._latest: Save | None = None
        """The save that was handed in last, until it has ended."""

    def save(self, save: Save) -> None:
        if self._latest is not None and self._latest.is_wanted:
            raise Violation(f"{self._member.name} saves two snapshots at once")
        self._latest = save
        self._begin(write_snapshot(save, self._storage))

    def clean(self) -> None:
        self._begin(self._clean())

    def _clean(self) -> _Job:
        yield
        yield from self._storage.remove_leftovers()
        return None

    def _begin(self, job: _Job) -> None:
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._member.later(self._pace, self._step)

    def _step(self) -> None:
        result: SnapshotSaved | SnapshotFailed | None = None
        job = self._jobs[0]
        with self._member.aside():
            try:
                next(job)
                self._member.later(self._pace, self._step)
                return
            except StopIteration as end:
                result = end.value
        if self._jobs[0] is not job or not self._member.is_up:
            return  # the process has ended in it
        self._jobs.pop(0)
        if self._jobs:
            self._member.later(self._pace, self._step)
        if isinstance(result, SnapshotFailed):
            self._member.count("storage", "saves that failed")
        if result is not None:
            if self._latest is result.save:
                self._latest = None
            self._member.bring(result)
