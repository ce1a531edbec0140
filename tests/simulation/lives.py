"""Members that lose their disks and are added again under their old ids, several at once and again and again: theory of
operation.

The log tells of all who had these ids. Whoever begins anew gets its front first, and must not take what that says of an
earlier one for itself: several of them could else elect one another, who know nothing of what has been committed since.
So this is a play as the coups are. In its first acts a leader's followers are removed, lose their disks and are added
again, once or twice, and get all of the log. In its last act they do so once more, but as soon as the log of each names
it as a voter, in its earlier life, it is cut off from the leader; and then the leader is gone for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.simulation.checks import Checks
from tests.simulation.member import Member
from tests.simulation.plan import Fault
from tests.simulation.replacing import add, give_empty_disk, leader_to_ask, remove
from tests.simulation.stage import Stage

_AT_ONCE = 0.005
"""Steps between two looks for what does not last."""


def begin_lives(stage: Stage, checks: Checks) -> None:
    """Begin the play, if there is a leader and somebody to follow it."""
    leader, rng = leader_to_ask(stage, checks), stage.rng
    if leader is None:
        return
    others = [member for member in stage.members.values() if member is not leader]
    # The rest is no majority of all.
    victims = rng.sample(others, rng.randrange(len(stage.members) // 2 + 1, len(others) + 1))
    stage.say(Fault.LIVES, f"{', '.join(m.name for m in victims)} lose their disks, and come back to {leader.name}")
    _Play(stage, checks, leader, victims, rng.choice([1, 1, 2])).begin()


class _Play:
    """It ends as soon as anything goes wrong with it: other faults, and another leader, may get in its way."""

    def __init__(self, stage: Stage, checks: Checks, leader: Member, victims: Sequence[Member], lives: int) -> None:
        self._stage = stage
        self._checks = checks
        self._leader = leader
        self._victims = victims
        self._lives_left = lives
        """Before the last one: in these they get all of the log."""
        self._cut_off: set[int] = set()

    def begin(self) -> None:
        """They lose what they have."""
        self._stage.keep_quiet(4)
        self._remove(list(self._victims))

    def _remove(self, left: list[Member]) -> None:
        if not left:
            self._add(list(self._victims))
            return
        victim, *rest = left
        if victim.id in self._checks.configuration.members:
            remove(self._stage, self._leader, victim, self._wipe_and_go_on, victim, rest)
        else:
            self._wipe_and_go_on(victim, rest)

    def _wipe_and_go_on(self, victim: Member, rest: list[Member]) -> None:
        give_empty_disk(victim)
        self._remove(rest)

    def _add(self, left: list[Member]) -> None:
        if left:
            victim, *rest = left
            add(self._stage, self._leader, victim, self._bring_up_and_go_on, victim, rest)
        elif self._lives_left:
            self._lives_left -= 1
            ids = {victim.id for victim in self._victims}
            self._stage.keep_quiet(10)
            # A while later, so that clients have written something.
            until_then = 0.5 + self._stage.rng.random()
            again = partial(self._stage.in_steps, until_then, self.begin)
            self._stage.as_soon_as(lambda: ids <= self._checks.configuration.voters, again, within=8.0)
        else:
            self._end_of_the_last_life()

    def _bring_up_and_go_on(self, victim: Member, rest: list[Member]) -> None:
        if not self._lives_left:
            self._separate(victim)
        victim.switch_on()
        self._add(rest)

    def _end_of_the_last_life(self) -> None:
        """Each gets the log until that names it; when all have got so far, the leader goes."""
        self._stage.world.tell("storm", f"{self._leader.name} will be gone when the others know of their earlier lives")
        self._stage.keep_quiet(10)
        for victim in self._victims:
            self._let_in(victim)
            self._stage.as_soon_as(partial(self._is_named, victim), self._enough_of, victim, within=3.0, every=_AT_ONCE)
        self._stage.in_steps(9, self._stage.heal)

    def _is_named(self, victim: Member) -> bool:
        """As a voter, by what its log says."""
        return victim.replica is not None and victim.id in victim.replica.raft.configuration.voters

    def _enough_of(self, victim: Member) -> None:
        self._separate(victim)
        self._cut_off.add(victim.id)
        if len(self._cut_off) == len(self._victims):
            self._stage.world.count("membership", "all know of their earlier lives")
            self._leader.switch_off(power_lost=self._stage.rng.random() < 0.3)
            self._stage.in_steps(3 + 3 * self._stage.rng.random(), self._back)

    def _back(self) -> None:
        self._leader.switch_on()
        self._stage.heal()

    # ---- small things ------------------------------------------------------------------------------------------------

    def _separate(self, victim: Member) -> None:
        self._stage.network.cut(self._leader.name, victim.name)
        self._stage.network.cut(victim.name, self._leader.name)

    def _let_in(self, victim: Member) -> None:
        self._stage.network.mend(self._leader.name, victim.name)
        self._stage.network.mend(victim.name, self._leader.name)
