"""A machine that was given up comes back, in the place of the one that has come after it: theory of operation.

A member is removed, gets an empty disk and is added again; so far an operator may do that any day. Then the others are
off for a while, so that no majority has what is acknowledged without that disk. And then those who have it go, and
the member is started with the disk that it had *before*: whoever takes that for its successor can win an election
with its vote, and lacks what has been acknowledged; or commit with what it acknowledges, which the successor lacks.

At the end each machine has the disk with which it belongs to the cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.checks import Checks
from tests.simulation.member import Member
from tests.simulation.plan import Fault
from tests.simulation.replacing import add, give_empty_disk, leader_to_ask, remove
from tests.simulation.stage import Stage


def begin_return(stage: Stage, checks: Checks) -> None:
    """Begin the play, if there is a leader and enough others that vote."""
    leader, voters = leader_to_ask(stage, checks), checks.configuration.voters
    if leader is None or leader.id not in voters or len(voters) < 3:
        return
    victim = stage.members[stage.rng.choice(sorted(voters - {leader.id}))]
    stage.say(Fault.FORMER_DISK, f"{victim.name}'s machine is given up, and will come back")
    _Play(stage, checks, leader, victim).begin()


class _Play:
    """It ends as soon as anything goes wrong with it: other faults, and another leader, may get in its way."""

    def __init__(self, stage: Stage, checks: Checks, leader: Member, victim: Member) -> None:
        self._stage = stage
        self._checks = checks
        self._leader = leader
        self._victim = victim
        self._with: list[Member] = []
        """Who has what was written while the others were off."""
        self._without: list[Member] = []

    def begin(self) -> None:
        self._stage.keep_quiet(8)
        remove(self._stage, self._leader, self._victim, self._replace)

    def _replace(self) -> None:
        give_empty_disk(self._victim)
        add(self._stage, self._leader, self._victim, self._bring_up)

    def _bring_up(self) -> None:
        self._victim.switch_on()
        self._stage.as_soon_as(self._all_know, self._others_go, within=8.0)

    def _all_know(self) -> bool:
        """That the new one has its vote."""
        disk = self._checks.configuration.disk_of(self._victim.id)
        members = [self._stage.members[id] for id in self._checks.configuration.members]
        return disk != b"" and all(
            m.replica is not None and m.replica.raft.configuration.disk_of(self._victim.id) == disk for m in members
        )

    def _others_go(self) -> None:
        """As many as are not needed for a majority, neither the leader nor the new one."""
        self._stage.keep_quiet(14)
        voters = self._checks.configuration.voters
        others = [self._stage.members[id] for id in sorted(voters - {self._leader.id, self._victim.id})]
        few = (len(voters) - 1) // 2
        self._without, self._with = others[:few], [self._leader, *others[few:]]
        self._switch_off(self._without)
        before = len(self._checks.committed)
        self._stage.as_soon_as(lambda: len(self._checks.committed) > before + 2, self._exchange, within=4.0)
        self._stage.in_steps(13, self._end)  # also if nothing is written meanwhile

    def _exchange(self) -> None:
        """Those who have what was written go, and the former one comes back with those who have not."""
        self._stage.world.count("membership", "former disks come back")
        self._switch_off([*self._with, self._victim])
        self._victim.put_in_disk(self._checks.former_disk(self._victim.id))
        self._switch_on([*self._without, self._victim])
        self._stage.in_steps(3 + 3 * self._stage.rng.random(), self._others_return)

    def _others_return(self) -> None:
        """Also in the place of those who were here: one of them may lead by what the former one acknowledges."""
        if self._stage.rng.random() < 0.5:
            self._switch_off(self._without)
        self._switch_on(self._with)
        self._stage.in_steps(1 + 2 * self._stage.rng.random(), self._end)

    def _end(self) -> None:
        self._victim.put_in_its_disk()
        self._switch_on([*self._with, *self._without, self._victim])

    # ---- small things ------------------------------------------------------------------------------------------------

    def _switch_on(self, members: Sequence[Member]) -> None:
        for member in members:
            member.switch_on()

    def _switch_off(self, members: Sequence[Member]) -> None:
        for member in members:
            member.switch_off(power_lost=self._stage.rng.random() < 0.2)
