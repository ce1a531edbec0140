"""Somebody who makes backups: theory of operation.

Now and then a member is asked for a snapshot that is no older than what it has applied, as a backup does it
(raftkv/backup.py), whatever else it is doing, and mostly at no good moment. What it gives has to be the state that all
members have been in, after an entry that is late enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from raftkv.kv import StateMachine
from raftkv.kv_snapshot import decode
from raftkv.log_storage import SnapshotReader, StorageError
from raftkv.snapshots import SnapshotWanted
from tests.simulation.checks import Checks
from tests.simulation.member import Member
from tests.simulation.plan import Plan
from tests.simulation.world import Violation, World


class Backups:
    def __init__(self, world: World, members: Mapping[int, Member], checks: Checks, plan: Plan) -> None:
        self._world = world
        self._members = members
        self._checks = checks
        self._rng = world.random("backups")
        self._pace = plan.step * self._rng.choice([1.0, 3.0, 10.0])
        self._is_over = plan.snapshots is None or self._rng.random() < 0.5

    def begin(self) -> None:
        """From now on."""
        self._world.after(2 * self._pace * self._rng.random(), self._ask)

    def end(self) -> None:
        """No more."""
        self._is_over = True

    def _ask(self) -> None:
        if self._is_over:
            return
        member = self._rng.choice(list(self._members.values()))
        if member.is_up and member.replica is not None and member.replica.machine.applied_index:
            wanted = member.replica.machine.applied_index
            member.bring(SnapshotWanted(wanted, partial(self._take, member, wanted)))
        self.begin()

    def _take(self, member: Member, wanted: int, answer: SnapshotReader | str) -> None:
        if isinstance(answer, str):
            self._world.count("storage", "backups that failed")
            return
        excuse = member.disk.has_failed  # what is read here is no reason for the member to give up
        machine = StateMachine()
        try:
            meta, state = decode(answer)
        except StorageError as error:
            if not (member.disk.has_failed or member.disk.is_damaged):
                raise Violation(f"{member.name} gives a backup that can't be read: {error}") from None
            member.disk.has_failed = excuse
            self._world.count("storage", "backups that failed")
            return
        finally:
            answer.close()
        if meta.last.index < wanted:
            raise Violation(f"{member.name} gives a backup up to entry {meta.last.index}, wanted were {wanted}")
        machine.restore(state)
        self._checks.compare(member.id, machine)
        self._world.count("storage", "backups")
