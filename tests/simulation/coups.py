"""Coups: how to get a new leader while the old one still believes to be it: theory of operation.

That is what leases, promises and rounds are there for, and what blind chance hardly ever brings about: a leader that loses
its majority steps down, a follower that hears a leader votes for nobody, and one that has missed an entry gets no
votes. So these are plays in several acts, with nothing else going on meanwhile; who does what, and how long it
takes, is still up to chance.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.member import Member
from tests.simulation.plan import Fault
from tests.simulation.stage import Stage


def stage_a_coup(stage: Stage) -> None:
    """Begin one of them."""
    leader = stage.leader()
    if leader is None or len(stage.members) == 1:
        return
    stage.quiet_until = stage.world.now + 7 * stage.step
    stage.rng.choice(_COUPS)(stage, leader)


def _it_stands_still(stage: Stage, leader: Member) -> None:
    """The leader's process is stopped: it can't step down, but its clock goes on. Others may have forgotten by then what
    they have promised it; and the new leader may not last long either."""
    stage.say(Fault.COUP, f"a coup: {leader.name} stands still")
    _stop(stage, leader)
    _restart_others(stage, leader)
    if stage.rng.random() < 0.4:
        stage.in_steps(1.5 + stage.rng.random(), _crash_present_leader, stage, leader)


def _a_rival_is_ready(stage: Stage, leader: Member) -> None:
    """A rival hears nothing of the leader, and nobody writes, so that its log stays as good as any. Then the leader is cut
    off, and those who hear it start anew: they know of no leader, and vote for the rival the next time that it asks."""
    rival = _somebody_else(stage, leader)
    stage.say(Fault.COUP, f"a coup: {rival.name} makes itself ready to take {leader.name}'s place")
    ready_in = 2.5 + 1.5 * stage.rng.random()
    for client in stage.clients:
        client.be_quiet(ready_in * stage.step)
    stage.in_steps(0.7, stage.network.cut, leader.name, rival.name)
    stage.in_steps(ready_in, _the_rival_strikes, stage, leader, rival)


def _the_rival_strikes(stage: Stage, leader: Member, rival: Member) -> None:
    stage.world.tell("storm", f"{leader.name} is cut off, {rival.name} is ready")
    stage.cut_off(leader, 0.9)
    _restart_others(stage, leader, rival)
    stage.in_steps(1 + 3 * stage.rng.random(), stage.heal)


def _one_is_deaf(stage: Stage, leader: Member) -> None:
    """One member has not heard the leader for so long that it has promised nothing to it. Then the leader stands still: of
    those who vote, only the new leader itself may know of the old one's lease."""
    deaf = _somebody_else(stage, leader)
    stage.say(Fault.COUP, f"a coup: {deaf.name} hears nothing of {leader.name}, the others do")
    stage.network.cut(leader.name, deaf.name)
    stage.in_steps(1 + 3 * stage.rng.random(), _stop, stage, leader)
    stage.in_steps(4 + 3 * stage.rng.random(), stage.heal)


_COUPS: list[Callable[[Stage, Member], None]] = [_it_stands_still, _a_rival_is_ready, _one_is_deaf]


def _somebody_else(stage: Stage, leader: Member) -> Member:
    return stage.rng.choice([member for member in stage.members.values() if member is not leader])


def _stop(stage: Stage, leader: Member) -> None:
    leader.pause()
    stage.in_steps(1 + 5 * stage.rng.random(), leader.resume)
    _clients_look_elsewhere(stage, leader)


def _restart_others(stage: Stage, leader: Member, rival: Member | None = None) -> None:
    share = stage.rng.choice([0.0, 0.5, 1.0])
    stage.restart_soon = True
    for member in stage.members.values():
        if member not in (leader, rival) and stage.rng.random() < share:
            member.crash(power_lost=stage.rng.random() < 0.3)
    stage.restart_soon = False
    _clients_look_elsewhere(stage, leader)


def _clients_look_elsewhere(stage: Stage, leader: Member) -> None:
    """Some of the clients try other members from now on; the rest stays with the leader that they know."""
    for client in stage.clients:
        if stage.rng.random() < 0.5:
            client.turn_to(_somebody_else(stage, leader).name)


def _crash_present_leader(stage: Stage, former: Member) -> None:
    leader = stage.leader()
    if leader is not None and leader is not former:
        stage.world.tell("storm", f"kills {leader.name}, which has taken {former.name}'s place")
        leader.crash(power_lost=False)
