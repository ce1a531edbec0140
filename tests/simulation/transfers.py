"""Transfers of leadership, and what may go wrong with them: theory of operation.

Asking is easy; the rest is up to the real code. So these are plays as the coups are: the target is in trouble, somebody
crashes in the middle, TimeoutNow comes late, the old leader stands still just when it has let go, transfers follow one
upon another, a leader is asked that still waits for an earlier one's lease. Leases are often longer than all of it.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.raft.messages import RequestVote, TimeoutNow
from raftkv.raft.roles import Leader
from tests.simulation.disk import Boundary
from tests.simulation.member import Member, Trap
from tests.simulation.plan import Fault
from tests.simulation.stage import Stage

_AT_ONCE = 0.005
"""Steps between two looks for what does not last."""
_STRANGER = 99
"""No member has this id."""


def stage_a_transfer(stage: Stage) -> None:
    """Begin one of them."""
    leader = stage.leader()
    if leader is None or len(stage.members) == 1:
        _just_so(stage, stage.rng.choice(list(stage.members.values())))
        return
    stage.quiet_until = stage.world.now + 3 * stage.step
    stage.rng.choice(_PLAYS)(stage, leader)


def _just_so(stage: Stage, leader: Member) -> None:
    """Somebody, mostly the leader, is to hand over to somebody, whoever that is."""
    member = leader if stage.rng.random() < 0.8 else stage.victim()
    target = stage.rng.choice([0, 0, _STRANGER, *stage.members])
    stage.say(Fault.TRANSFER, f"asks {member.name} to hand over to {_called(target)}")
    member.hand_over(target)


def _the_target_is_in_trouble(stage: Stage, leader: Member) -> None:
    """It has been there until just now."""
    target = _somebody_else(stage, leader)
    trouble = stage.rng.choice([_crash, _pause, _cut, _cut_one_way, _slow_disk, _clog])
    stage.say(Fault.TRANSFER, f"asks {leader.name} to hand over to {target.name}, which is in trouble")
    if stage.rng.random() < 0.5:
        trouble(stage, leader, target)
        leader.hand_over(target.id)
    else:
        leader.hand_over(target.id)
        stage.in_steps(0.1 * stage.rng.random(), trouble, stage, leader, target)


def _somebody_crashes(stage: Stage, leader: Member) -> None:
    """At each step of it."""
    target = _somebody_else(stage, leader)
    victim = stage.rng.choice([leader, target])
    boundary = stage.rng.choice([Boundary.MESSAGE, Boundary.MESSAGE, Boundary.SYNC, Boundary.RENAME, Boundary.WRITE])
    victim.trap = Trap(boundary, stage.rng.randrange(4), power_lost=stage.rng.random() < 0.5)
    stage.say(
        Fault.TRANSFER,
        f"asks {leader.name} to hand over to {target.name}, and {victim.name} crashes at {boundary.value}",
    )
    stage.restart_soon = stage.rng.random() < 0.5
    leader.hand_over(target.id)
    stage.in_steps(1, _restart_as_usual, stage)


def _restart_as_usual(stage: Stage) -> None:
    stage.restart_soon = False


def _it_stands_still(stage: Stage, leader: Member) -> None:
    """The leader has just let go, and does not get to know what comes of it; clients go on asking it."""
    target = _somebody_else(stage, leader)
    stage.say(Fault.TRANSFER, f"{leader.name} is to hand over to {target.name}, and to hear nothing after that")
    leader.hand_over(target.id)
    stage.as_soon_as(lambda: _has_let_go(leader), _deafen, stage, leader, within=1.0, every=_AT_ONCE)


def _deafen(stage: Stage, leader: Member) -> None:
    for client in stage.clients:
        if stage.rng.random() < 0.7:
            client.turn_to(leader.name)
    if stage.rng.random() < 0.3:
        leader.pause()
        stage.in_steps(0.5 + 2 * stage.rng.random(), leader.resume)
    for other in stage.network.members:
        stage.network.cut(other, leader.name)
    stage.in_steps(0.5 + 2 * stage.rng.random(), stage.heal)


def _timeout_now_comes_late(stage: Stage, leader: Member) -> None:
    """The leader has given up by then, and leads on without a lease."""
    target = _somebody_else(stage, leader)
    stage.say(Fault.TRANSFER, f"{leader.name} is to hand over to {target.name}, which hears of it late")
    link = stage.network.links[leader.name, target.name]
    leader.hand_over(target.id)
    stage.as_soon_as(lambda: _is_handing_over(leader), stage.network.clog, link, within=0.5, every=_AT_ONCE)
    late = stage.rng.choice([0.5, 1.5, 4.0]) * (0.5 + stage.rng.random())
    stage.in_steps(late, stage.network.unclog, link)
    stage.quiet_until = stage.world.now + (late + 1) * stage.step


def _one_after_another(stage: Stage, leader: Member) -> None:
    """A chain of them, each as soon as the one before is done; voters remember all these leaders."""
    stage.say(Fault.TRANSFER, f"a chain of transfers, from {leader.name} on")
    _next_in_chain(stage, leader, stage.rng.choice([2, 3, 4]))


def _next_in_chain(stage: Stage, leader: Member, left: int) -> None:
    leader.hand_over(stage.rng.choice([0, _somebody_else(stage, leader).id]))
    if left > 1:
        stage.as_soon_as(
            lambda: stage.leader() not in (None, leader), _continue_chain, stage, left - 1, within=3.0, every=_AT_ONCE
        )


def _continue_chain(stage: Stage, left: int) -> None:
    leader = stage.leader()
    if leader is not None:
        _next_in_chain(stage, leader, left)


def _during_a_wait(stage: Stage, leader: Member) -> None:
    """The leader stands still with its lease; its successor is asked while it may still wait for that to end, again and
    again."""
    stage.say(Fault.TRANSFER, f"{leader.name} stands still, and its successor is asked to hand over at once")
    asleep = 2 + 4 * stage.rng.random()
    leader.pause()
    if stage.rng.random() < 0.5:  # when it goes on, nobody has answered it for long
        stage.in_steps(asleep / 2, leader.hand_over, 0)
    stage.in_steps(asleep, leader.resume)
    stage.as_soon_as(
        lambda: stage.leader() not in (None, leader), _ask_successor, stage, leader, 4, within=4.0, every=_AT_ONCE
    )
    stage.quiet_until = stage.world.now + (asleep + 1) * stage.step


def _ask_successor(stage: Stage, former: Member, times: int) -> None:
    successor = stage.leader()
    if successor is None or successor is former or not times:
        return
    others = [m for m in stage.members.values() if m not in (former, successor)]
    successor.hand_over(stage.rng.choice(others).id if others else 0)
    stage.in_steps(0.3 * stage.rng.random(), _ask_successor, stage, former, times - 1)


def _during_an_election(stage: Stage, leader: Member) -> None:
    """Two are asked at once: the leader, and whoever stands for election, since others hear nothing of it."""
    stage.say(Fault.TRANSFER, f"{leader.name} is to hand over while others stand for election")
    for other in stage.network.members:
        if stage.rng.random() < 0.6:
            stage.network.cut(leader.name, other)
    stage.in_steps(1 + stage.rng.random(), leader.hand_over, 0)
    for member in stage.members.values():
        stage.in_steps(1 + stage.rng.random(), member.hand_over, 0)
    stage.in_steps(1.5 + stage.rng.random(), stage.heal)


def _it_comes_again(stage: Stage, leader: Member) -> None:
    """TimeoutNow of long ago arrives once more, and so do the requests for votes that followed from it."""
    stage.say(Fault.TRANSFER, "transfers of long ago come back")
    for link in stage.network.links.values():
        again = [
            packet
            for packet in link.past
            if isinstance(packet, TimeoutNow) or (isinstance(packet, RequestVote) and packet.released is not None)
        ]
        if again:
            stage.network.replay_all(link, again[-8:])
    leader.hand_over(0)
    stage.in_steps(0.2 * stage.rng.random(), leader.hand_over, 0)


_PLAYS: list[Callable[[Stage, Member], None]] = [
    _just_so,
    _just_so,
    _the_target_is_in_trouble,
    _the_target_is_in_trouble,
    _somebody_crashes,
    _it_stands_still,
    _timeout_now_comes_late,
    _one_after_another,
    _during_a_wait,
    _during_an_election,
    _it_comes_again,
]


# ---- trouble ---------------------------------------------------------------------------------------------------------


def _crash(stage: Stage, leader: Member, target: Member) -> None:
    target.crash(power_lost=stage.rng.random() < 0.3)


def _pause(stage: Stage, leader: Member, target: Member) -> None:
    target.pause()
    stage.later(target.resume)


def _cut(stage: Stage, leader: Member, target: Member) -> None:
    for other in stage.network.members:
        stage.network.cut(target.name, other)
        stage.network.cut(other, target.name)
    stage.later(stage.heal)


def _cut_one_way(stage: Stage, leader: Member, target: Member) -> None:
    """The target hears the leader but is not heard, or the other way round."""
    pair = (leader.name, target.name)
    stage.network.cut(*(pair if stage.rng.random() < 0.5 else reversed(pair)))
    stage.later(stage.heal)


def _slow_disk(stage: Stage, leader: Member, target: Member) -> None:
    target.disk.stall_next_sync(stage.a_while())


def _clog(stage: Stage, leader: Member, target: Member) -> None:
    link = stage.network.links[target.name, leader.name]
    stage.network.clog(link)
    stage.later(stage.network.unclog, link)


# ---- who is who ------------------------------------------------------------------------------------------------------


def _called(target: int) -> str:
    return f"n{target}" if target else "anybody"


def _somebody_else(stage: Stage, leader: Member) -> Member:
    return stage.rng.choice([member for member in stage.members.values() if member is not leader])


def _role(member: Member) -> Leader | None:
    role = member.replica.raft.role if member.replica is not None else None
    return role if isinstance(role, Leader) else None


def _is_handing_over(member: Member) -> bool:
    role = _role(member)
    return role is not None and role.transfer is not None


def _has_let_go(member: Member) -> bool:
    role = _role(member)
    return role is not None and role.has_let_go
