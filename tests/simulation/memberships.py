"""Changes of the membership while everything else goes wrong: theory of operation.

Besides its founding members a run may have *spares*: machines that are off until somebody adds them. An operator adds
spares, removes members (the leader too), replaces one by another, moves one to another address, and adds again who was
removed, mostly with an empty disk. He asks the leader that he finds, and believes nothing but what has been committed;
what came of a request that was not answered he learns from there, as `MEMBERS` would tell him.

Disks are wiped only where that is safe: of a machine that is off, once its removal has been committed. It comes back
as another member under the same id, whatever anybody still believes of the former one.

He leaves two members at least, so that there is something left to come to rest.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.raft.configuration import Add, Change, Remove
from raftkv.raft.types import Configuration
from raftkv.replica import Applied, Outcome
from tests.simulation.checks import Checks
from tests.simulation.member import Member
from tests.simulation.plan import Fault
from tests.simulation.replacing import may_have_been_added
from tests.simulation.stage import Stage

_MEMBERS_MAX = 7


class Operator:
    """Changes who the members are."""

    def __init__(self, stage: Stage, checks: Checks) -> None:
        self._stage = stage
        self._checks = checks
        self._rng = stage.world.random("operator")
        self._moves = 0
        self._asked = False
        """A request of his is out."""

    @property
    def _committed(self) -> Configuration:
        return self._checks.configuration

    def strike(self) -> None:
        """Begin a change, if there is somebody to ask."""
        self._switch_off()
        leader = self._stage.leader()
        if leader is None or self._asked:
            return
        self._rng.choice(self._deeds())(leader)

    def _deeds(self) -> list[Callable[[Member], None]]:
        few = len(self._committed.members) <= 2
        many = len(self._committed.members) >= _MEMBERS_MAX or not self._spares()
        deeds: list[Callable[[Member], None]] = [self._move]
        if not few:
            deeds += [self._remove, self._remove, self._remove_leader]
        if not many:
            deeds += [self._add, self._add, self._replace]
        return deeds

    def _spares(self) -> list[Member]:
        """Who is no member, by what has been committed and by what anybody's log says."""
        known = self._checks.perhaps_members()
        return [member for member in self._stage.members.values() if member.id not in known]

    # ---- deeds -------------------------------------------------------------------------------------------------------

    def _add(self, leader: Member) -> None:
        spares = self._spares()
        if spares:
            self._add_one(leader, self._rng.choice(spares))

    def _add_one(self, leader: Member, spare: Member) -> None:
        # It may have belonged before. Then it may forget what it has promised, since its removal has been committed.
        if not spare.is_up and spare.has_data and self._rng.random() < 0.7:
            self._wipe(spare)

        def added(outcome: Outcome) -> None:
            if may_have_been_added(outcome):
                self._bring_up(spare)

        self._ask(leader, Add(spare.id, f"address of {spare.name}"), f"adds {spare.name}", added)

    def _wipe(self, member: Member) -> None:
        self._stage.world.tell("operator", f"gives {member.name} an empty disk")
        member.wipe()

    def _bring_up(self, spare: Member) -> None:
        spare.is_wanted = True
        if self._stage.is_over:  # what is to happen later does not happen any more
            spare.start()
        self._stage.in_steps(0.5 * self._rng.random(), spare.start)
        if self._rng.random() < 0.3:  # a newcomer that dies on its way
            self._stage.in_steps(0.5 + 2 * self._rng.random(), spare.crash, self._rng.random() < 0.5)

    def _remove(self, leader: Member) -> None:
        others = sorted(self._committed.members - {leader.id})
        if others:
            self._remove_one(leader, self._stage.members[self._rng.choice(others)])

    def _remove_leader(self, leader: Member) -> None:
        self._stage.world.count("membership", "removals of the leader asked for")
        self._remove_one(leader, leader)

    def _remove_one(self, leader: Member, member: Member) -> None:
        self._ask(leader, Remove(member.id), f"removes {member.name}", lambda _: None)

    def _replace(self, leader: Member) -> None:
        """Add one, and then remove another."""
        self._add(leader)
        self._stage.in_steps(3 + 5 * self._rng.random(), self._remove_later)

    def _remove_later(self) -> None:
        leader = self._stage.leader()
        if leader is not None and len(self._committed.members) > 2 and not self._asked:
            self._remove(leader)

    def _move(self, leader: Member) -> None:
        self._moves += 1
        member = self._stage.members[self._rng.choice(sorted(self._committed.members))]
        change = Add(member.id, f"address {self._moves} of {member.name}")
        self._ask(leader, change, f"moves {member.name}", lambda _: None)

    def _ask(self, leader: Member, change: Change, what: str, answered: Callable[[Outcome], None]) -> None:
        self._stage.say(Fault.MEMBERSHIP, f"the operator {what}, at {leader.name}")
        self._asked = True

        def take(outcome: Outcome) -> None:
            self._asked = False
            kind = what.split()[0]
            done = "done" if isinstance(outcome, Applied) else type(outcome).__name__.lower()
            self._stage.world.count("membership", f"{kind}: {done}")
            self._stage.world.tell("operator", f"{what}: {done}")
            answered(outcome)

        leader.change_configuration(change, take)

    # ---- who has been removed ----------------------------------------------------------------------------------------

    def _switch_off(self) -> None:
        """Switch off some of those that have been removed, and know it or not."""
        for member in self._spares():
            if member.is_up and member.is_wanted and self._rng.random() < 0.3:
                self._stage.world.tell("operator", f"switches {member.name} off, which has been removed")
                member.switch_off(power_lost=False)

    def end(self) -> None:
        """Whoever belongs to the cluster, by what anybody knows, has to come up."""
        for member in self._checks.perhaps_members():
            self._stage.members[member].is_wanted = True
