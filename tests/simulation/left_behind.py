"""Followers that are left behind until the others have compacted what they lack, and what may go wrong then: theory of
operation.

Chance alone seldom leaves anybody behind for so long, and then the transfer of a snapshot is over in a moment. So these
are plays as the coups are. In the first act a follower is cut off, or a leader with writes of its own, until another
leader's log begins later than its own ends. In the second it is back, and is sent a snapshot; in the middle of that
somebody crashes, at each step, stands still, hands over, has no room, or the network breaks, or repeats itself.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.disk import Boundary
from tests.simulation.member import Member, Trap
from tests.simulation.plan import Fault
from tests.simulation.snapshot_streams import ToFollower, ToLeader
from tests.simulation.stage import Stage

_AT_ONCE = 0.005
"""Steps between two looks for what does not last."""

_OF_A_TRANSFER = (
    *[(Boundary.CREATE, "new-snapshot-"), (Boundary.WRITE, "new-snapshot-"), (Boundary.SYNC, "new-snapshot-")],
    *[(Boundary.RENAME, "snapshot-"), (Boundary.SYNC_DIRECTORY, ""), (Boundary.RENAME, "metadata")],
    *[(Boundary.CREATE, "log-"), (Boundary.SYNC, "log-"), (Boundary.RENAME, "log-"), (Boundary.REMOVE, "")],
)
"""Where a follower can crash: boundary, and what the file's name contains."""


def leave_behind(stage: Stage) -> None:
    """Begin one of the plays."""
    leader = stage.leader()
    if leader is None or len(stage.members) < 3:
        return
    stage.quiet_until = stage.world.now + 7 * stage.step
    others = [member for member in stage.members.values() if member is not leader]
    victims = [leader] if stage.rng.random() < 0.2 else stage.rng.sample(others, _how_many(stage, len(others)))
    stage.say(Fault.LEFT_BEHIND, f"leaves {', '.join(victim.name for victim in victims)} behind")
    for victim in victims:
        if stage.rng.random() < 0.2:
            victim.crash(power_lost=stage.rng.random() < 0.5)
        for other in stage.network.members:
            stage.network.cut(victim.name, other)
            stage.network.cut(other, victim.name)
    stage.as_soon_as(lambda: _is_behind(stage, victims[0]), _second_act, stage, victims[0], within=5.0)
    stage.in_steps(5.5, stage.heal)


def _how_many(stage: Stage, others: int) -> int:
    """So many that the rest is still a majority."""
    return stage.rng.choice([1, others // 2])


def _is_behind(stage: Stage, victim: Member) -> bool:
    """The leader has forgotten what the victim needs next."""
    leader = stage.leader()
    if leader is None or leader is victim or leader.replica is None or victim.replica is None:
        return False
    return leader.replica.status().first_log_index > victim.replica.status().commit_index + 1


def _second_act(stage: Stage, victim: Member) -> None:
    leader = stage.leader()
    if leader is not None:
        stage.restart_soon = stage.rng.random() < 0.7
        stage.in_steps(2, _restart_as_usual, stage)
        stage.rng.choice(_PLAYS)(stage, leader, victim)
        stage.heal()


def _restart_as_usual(stage: Stage) -> None:
    stage.restart_soon = False


def _in_the_middle(stage: Stage, victim: Member, action: Callable[[], None]) -> None:
    """Do something when some of the snapshot has come in; at once, or after a chunk or two more."""
    delay = stage.rng.choice([0.0, 0.02, 0.1]) * stage.rng.random()
    stage.as_soon_as(lambda: victim.is_receiving, stage.in_steps, delay, action, within=2.0, every=_AT_ONCE)


# ---- the plays -------------------------------------------------------------------------------------------------------


def _all_goes_well(stage: Stage, leader: Member, victim: Member) -> None:
    """It is back, and nothing else happens."""


def _it_crashes(stage: Stage, leader: Member, victim: Member) -> None:
    """The follower, at any step of taking in and of installing."""
    boundary, file = stage.rng.choice(_OF_A_TRANSFER)
    in_the_middle = boundary is Boundary.WRITE and stage.rng.random() < 0.5
    trap = Trap(boundary, stage.rng.choice([0, 0, 1, 3]), stage.rng.random() < 0.5, in_the_middle, file)
    if file == "new-snapshot-":
        victim.trap = trap
    else:
        victim.trap_in_adoption = trap


def _the_leader_crashes(stage: Stage, leader: Member, victim: Member) -> None:
    """With half a snapshot sent; somebody else leads then, and may have another."""
    _in_the_middle(stage, victim, lambda: leader.crash(power_lost=stage.rng.random() < 0.5))


def _the_leader_changes(stage: Stage, leader: Member, victim: Member) -> None:
    """It hands over, or stands still for so long that another is elected: two leaders send their snapshots."""

    def change() -> None:
        if stage.rng.random() < 0.5:
            leader.hand_over(0)
        else:
            leader.pause()
            stage.in_steps(1 + 2 * stage.rng.random(), leader.resume)

    _in_the_middle(stage, victim, change)


def _it_stands_still(stage: Stage, leader: Member, victim: Member) -> None:
    """The follower, while chunks pile up."""

    def stop() -> None:
        victim.pause()
        stage.in_steps(3 * stage.rng.random(), victim.resume)

    _in_the_middle(stage, victim, stop)


def _it_has_no_room(stage: Stage, leader: Member, victim: Member) -> None:
    """The follower's disk fills up, or fails once: that costs the transfer, and nothing else."""

    def fail() -> None:
        if stage.rng.random() < 0.5:
            victim.disk.fill_up(stage.rng.randrange(100))
            stage.in_steps(2 * stage.rng.random(), victim.disk.free_space)
        else:
            victim.disk.fail_next(stage.rng.choice(["write", "sync", "create"]))

    _in_the_middle(stage, victim, fail)


def _it_breaks_off(stage: Stage, leader: Member, victim: Member) -> None:
    """The network, again and again: each time the transfer goes on where it stopped."""
    link = (leader.name, victim.name) if stage.rng.random() < 0.5 else (victim.name, leader.name)

    def cut() -> None:
        if victim.is_receiving:
            stage.network.cut(*link)
            stage.in_steps(0.05 + 0.3 * stage.rng.random(), stage.network.mend, *link)

    for number in range(stage.rng.choice([1, 2, 4])):
        stage.in_steps(0.7 * number, _in_the_middle, stage, victim, cut)


def _it_piles_up(stage: Stage, leader: Member, victim: Member) -> None:
    """Chunks, or answers, are long under way, and arrive when both ends have given up."""
    link = stage.network.links[(leader.name, victim.name) if stage.rng.random() < 0.5 else (victim.name, leader.name)]

    def clog() -> None:
        stage.network.clog(link)
        stage.in_steps(stage.rng.choice([0.5, 4.0]) * stage.rng.random(), stage.network.unclog, link)

    _in_the_middle(stage, victim, clog)


def _it_comes_again(stage: Stage, leader: Member, victim: Member) -> None:
    """All that belongs to snapshots and was ever sent between the two arrives once more: of this transfer and of
    earlier ones, in the middle or when all is done."""

    def repeat() -> None:
        for ends in ((leader.name, victim.name), (victim.name, leader.name)):
            link = stage.network.links[ends]
            stage.network.replay_all(link, [p for p in link.past if isinstance(p, ToFollower | ToLeader)][-40:])

    _in_the_middle(stage, victim, repeat)
    stage.in_steps(1 + 2 * stage.rng.random(), repeat)


_PLAYS = [
    _all_goes_well,
    _it_crashes,
    _it_crashes,
    _the_leader_crashes,
    _the_leader_changes,
    _it_stands_still,
    _it_has_no_room,
    _it_breaks_off,
    _it_piles_up,
    _it_comes_again,
]
