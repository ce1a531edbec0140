"""The storm: what goes wrong, when, and for how long: theory of operation.

At random moments the storm picks one of the faults that the plan allows and lets it happen; half of those that hit one
member hit the leader. Whatever it breaks it mends after a while: cuts heal, paused processes go on, crashed ones start
again, space is freed, an intact copy replaces damaged data. At its end all is mended at once, and nothing happens any
more.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.checks import Checks
from tests.simulation.coups import stage_a_coup
from tests.simulation.disk import Boundary
from tests.simulation.former_disks import begin_return
from tests.simulation.left_behind import leave_behind
from tests.simulation.lives import begin_lives
from tests.simulation.member import Trap
from tests.simulation.memberships import Operator
from tests.simulation.plan import OF_THE_STORM, Fault
from tests.simulation.stage import Stage
from tests.simulation.transfers import stage_a_transfer

_AT_A_START = (Boundary.CREATE, Boundary.RENAME, Boundary.SYNC_DIRECTORY)
"""Boundaries that are passed at a start rather than later."""

_IN_A_SAVE = (
    *(Boundary.CREATE, Boundary.WRITE, Boundary.SYNC),
    *(Boundary.RENAME, Boundary.SYNC_DIRECTORY, Boundary.REMOVE),
)

_AFTER_A_START = (Boundary.MESSAGE, Boundary.MESSAGE, Boundary.APPLY, Boundary.SYNC, Boundary.WRITE)
"""Boundaries that are passed soon after one."""


_OPERATIONS = ("write", "sync", "sync_directory", "read", "create", "replace", "truncate", "remove")
"""Of a disk, that can fail."""


class Storm:
    def __init__(self, stage: Stage, checks: Checks) -> None:
        self._stage = stage
        self._world = stage.world
        self._network = stage.network
        self._members = stage.members
        self._rng = stage.rng
        self._checks = checks
        self._operator = Operator(stage, checks)
        self._faults = [fault for fault in OF_THE_STORM if stage.plan.has(fault)]
        if stage.plan.has(Fault.NEW_LEADER):
            checks.elected = self._trouble_new_leader

    def begin(self) -> None:
        """From now on things go wrong."""
        if self._faults:
            self._stage.in_steps(2 * self._rng.random(), self._strike)

    def end(self) -> None:
        """Mend everything."""
        self._stage.is_over = True
        self._world.tell("storm", "is over: everything is mended")
        self._network.calm()
        self._operator.end()
        for member in self._members.values():
            member.trap = member.trap_in_adoption = None
            member.stops_readers = False
            member.disk.end_faults()
            member.disk.restore()
            member.resume()
            member.put_in_its_disk()
            member.start()

    def _strike(self) -> None:
        fault = self._rng.choice(self._faults)
        _STRIKES[fault](self)
        delay = self._stage.plan.fault_pace * 2 * self._rng.random()
        self._stage.in_steps(max(delay, self._stage.quiet_until - self._world.now) / self._stage.step, self._strike)

    # ---- processes ---------------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        member = self._stage.victim()
        self._stage.say(Fault.CRASH, f"kills {member.name}")
        member.crash(power_lost=False)

    def _lose_power(self) -> None:
        member = self._stage.victim()
        self._stage.say(Fault.POWER_LOSS, f"takes {member.name}'s power away")
        member.crash(power_lost=True)

    def _crash_all(self) -> None:
        power_lost = self._rng.random() < 0.5
        self._stage.say(Fault.CRASH_ALL, "takes the power away everywhere" if power_lost else "kills all processes")
        for member in self._members.values():
            member.crash(power_lost)

    def _crash_at_boundary(self) -> None:
        member, trap = self._stage.victim(), self._draw_trap()
        if trap.boundary in _AT_A_START or self._rng.random() < 0.2:
            member.crash(power_lost=self._rng.random() < 0.3)
        member.trap = trap
        self._stage.say(
            Fault.CRASH_AT_BOUNDARY, f"will kill {member.name} at: {trap.boundary.value}, {trap.countdown} on"
        )

    def _crash_in_save(self) -> None:
        """While the file is written, while it is adopted, or while what no longer counts is removed."""
        member, rng = self._stage.victim(), self._rng
        power_lost = rng.random() < 0.5
        boundary = rng.choice(_IN_A_SAVE)
        if boundary is Boundary.REMOVE:
            member.trap = Trap(boundary, rng.choice([0, 0, 1]), power_lost, file=rng.choice(["log-", "snapshot-"]))
        elif rng.random() < 0.5:
            member.trap = Trap(boundary, rng.choice([0, 0, 1, 2]), power_lost, rng.random() < 0.5, "new-snapshot-")
        else:
            member.trap_in_adoption = Trap(boundary, rng.choice([0, 0, 1]), power_lost, rng.random() < 0.5)
        self._stage.say(Fault.CRASH_IN_SAVE, f"will kill {member.name} in a save, at: {boundary.value}")

    def _crash_twice(self) -> None:
        """The process dies between a write to the log and its sync; the next one finds the entries in the page cache,
        answers for them, and then the machine goes down."""
        member, rng = self._stage.victim(), self._rng
        end = Trap(rng.choice(_AFTER_A_START), rng.choice([0, 1, 1, 2, 4]), power_lost=True)
        member.trap = Trap(Boundary.SYNC, 0, power_lost=False, file="log-", then=end)
        self._stage.say(
            Fault.CRASH_TWICE, f"will kill {member.name} at the next sync of its log, and then take its power away"
        )

    def _draw_trap(self) -> Trap:
        rng = self._rng
        boundary = rng.choice(list(Boundary))
        trap = Trap(boundary, rng.choice([0, 0, 1, 2, 5]), power_lost=rng.random() < 0.5)
        match boundary:
            case Boundary.WRITE:
                trap.in_the_middle = rng.random() < 0.5
            case Boundary.TRUNCATE:  # a start cuts a torn tail, so there has to be one
                trap.countdown = 0
                return Trap(Boundary.WRITE, 0, power_lost=False, in_the_middle=True, file="log-", then=trap)
            case Boundary.REMOVE:  # a start removes a segment that was never finished
                trap.countdown = 0
                return Trap(Boundary.RENAME, 0, power_lost=False, file="log-", then=trap)
        return trap

    def _trouble_new_leader(self, member_id: int) -> None:
        """Somebody has been elected: let it get some messages out, or some others hear nothing of it."""
        rng, leader = self._rng, self._members[member_id]
        if self._stage.is_over or rng.random() < 0.3:
            return
        if rng.random() < 0.5:
            countdown = rng.randrange(rng.choice([1, 2, 4]) * len(self._members))
            leader.trap = Trap(Boundary.MESSAGE, countdown, power_lost=rng.random() < 0.5)
            self._stage.say(Fault.NEW_LEADER, f"lets {leader.name} send {countdown} messages more")
        else:
            self._stage.cut_off(leader, rng.choice([0.5, 1.0]))
            self._stage.say(Fault.NEW_LEADER, f"cuts {leader.name} off from others")
            self._stage.later(self._stage.heal)

    def _change_membership(self) -> None:
        self._operator.strike()

    def _lose_disks(self) -> None:
        begin_lives(self._stage, self._checks)

    def _return(self) -> None:
        begin_return(self._stage, self._checks)

    def _coup(self) -> None:
        stage_a_coup(self._stage)

    def _transfer(self) -> None:
        stage_a_transfer(self._stage)

    def _leave_behind(self) -> None:
        leave_behind(self._stage)

    def _pause(self) -> None:
        member = self._stage.victim()
        self._stage.say(Fault.PAUSE, f"pauses {member.name}")
        member.pause()
        self._stage.later(member.resume)

    def _clock_jump(self) -> None:
        member, seconds = self._stage.victim(), self._stage.a_while() * self._rng.choice([-1, 1])
        self._stage.say(Fault.CLOCK_JUMP, f"sets {member.name}'s wall clock {seconds:+.3f} s")
        member.clock.jump(seconds)

    # ---- disks -------------------------------------------------------------------------------------------------------

    def _stall(self) -> None:
        member, seconds = self._stage.victim(), self._stage.a_while()
        self._stage.say(Fault.STALL, f"{member.name}'s next sync will take {seconds:.3f} s more")
        member.disk.stall_next_sync(seconds)

    def _io_error(self) -> None:
        member, operation = self._stage.victim(), self._rng.choice(_OPERATIONS)
        self._stage.say(Fault.IO_ERROR, f"{member.name}'s next {operation} will fail")
        member.disk.fail_next(operation)

    def _disk_full(self) -> None:
        member, room = self._stage.victim(), self._rng.randrange(600)
        self._stage.say(Fault.DISK_FULL, f"{member.name}'s disk has room for {room} bytes more")
        member.disk.fill_up(room)
        self._stage.later(member.disk.free_space)

    def _bit_flip(self) -> None:
        member = self._stage.victim()
        if any(other.disk.is_damaged for other in self._members.values()):
            return  # elsewhere there has to be an intact copy
        member.crash(power_lost=True)
        place = member.disk.flip_a_bit()
        if place is not None:
            self._stage.say(Fault.BIT_FLIP, f"flips a bit of {member.name}'s {place}")

    # ---- the network -------------------------------------------------------------------------------------------------

    def _partition(self) -> None:
        groups, name = self._draw_groups()
        self._stage.say(Fault.PARTITION, f"partition, {name}: {' | '.join(','.join(group) for group in groups)}")
        for source, target in self._network.links:
            if not any(source in group and target in group for group in groups):
                self._network.cut(source, target)
        self._stage.later(self._stage.heal)

    def _draw_groups(self) -> tuple[list[list[str]], str]:
        """Sets of endpoints that can talk within; they may overlap."""
        rng, endpoints, members = self._rng, list(self._network.endpoints), list(self._network.members)
        rng.shuffle(endpoints)
        rng.shuffle(members)
        victim = self._stage.victim().name
        shape = rng.choice(["halves", "one alone", "a bridge", "a ring", "a star", "thirds"])
        match shape:
            case "halves":
                half = rng.randrange(1, len(endpoints))
                groups = [endpoints[:half], endpoints[half:]]
            case "one alone":
                with_it = [e for e in endpoints if e not in members and rng.random() < 0.3]
                groups = [[victim, *with_it], [e for e in endpoints if e != victim and e not in with_it]]
            case "a bridge":
                half = rng.randrange(1, len(endpoints))
                groups = [[victim, *endpoints[:half]], [victim, *endpoints[half:]]]
            case "a ring":
                groups = [[a, b] for a, b in zip(endpoints, [*endpoints[1:], endpoints[0]], strict=True)]
            case "a star":
                groups = [[victim, endpoint] for endpoint in endpoints]
            case _:
                groups = [endpoints[third::3] for third in range(3)]
        return groups, shape

    def _one_way(self) -> None:
        victim = self._stage.victim().name
        deaf = self._rng.random() < 0.5
        self._stage.say(Fault.ONE_WAY, f"{victim} {'hears' if deaf else 'reaches'} no other member")
        for other in self._network.members:
            if other != victim:
                self._network.cut(*((other, victim) if deaf else (victim, other)))
        self._stage.later(self._stage.heal)

    def _cut_links(self) -> None:
        share = self._rng.choice([0.1, 0.3, 0.6])
        cut = [pair for pair in self._network.links if self._rng.random() < share]
        self._stage.say(
            Fault.CUT_LINKS, f"cuts {', '.join(f'{source}>{target}' for source, target in cut) or 'nothing'}"
        )
        for source, target in cut:
            self._network.cut(source, target)
        self._stage.later(self._stage.heal)

    def _clog(self) -> None:
        link = self._rng.choice(list(self._network.links.values()))
        self._stage.say(Fault.CLOG, f"clogs {link.source}>{link.target}")
        self._network.clog(link)
        self._stage.later(self._network.unclog, link)

    def _replay(self) -> None:
        self._stage.replay()


_STRIKES: dict[Fault, Callable[[Storm], None]] = {
    Fault.PARTITION: Storm._partition,
    Fault.ONE_WAY: Storm._one_way,
    Fault.CUT_LINKS: Storm._cut_links,
    Fault.CLOG: Storm._clog,
    Fault.REPLAY: Storm._replay,
    Fault.CRASH: Storm._crash,
    Fault.POWER_LOSS: Storm._lose_power,
    Fault.CRASH_AT_BOUNDARY: Storm._crash_at_boundary,
    Fault.CRASH_IN_SAVE: Storm._crash_in_save,
    Fault.LEFT_BEHIND: Storm._leave_behind,
    Fault.CRASH_ALL: Storm._crash_all,
    Fault.CRASH_TWICE: Storm._crash_twice,
    Fault.MEMBERSHIP: Storm._change_membership,
    Fault.LIVES: Storm._lose_disks,
    Fault.FORMER_DISK: Storm._return,
    Fault.COUP: Storm._coup,
    Fault.TRANSFER: Storm._transfer,
    Fault.PAUSE: Storm._pause,
    Fault.CLOCK_JUMP: Storm._clock_jump,
    Fault.STALL: Storm._stall,
    Fault.IO_ERROR: Storm._io_error,
    Fault.DISK_FULL: Storm._disk_full,
    Fault.BIT_FLIP: Storm._bit_flip,
}
assert set(_STRIKES) == set(OF_THE_STORM)
