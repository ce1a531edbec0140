"""One run: theory of operation.

A seed makes a plan; the plan makes a world with members, clients, a network and disks. For a while the storm rages and
clients work; everything is checked at every step. Then all is mended, and within a bounded time the cluster has to
come to rest: a leader that serves, every client's last operations answered, all members equal. At the end the clients'
history has to be linearizable.
"""

from __future__ import annotations

import math
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from raftkv.raft.types import Configuration
from tests.linearizability.checker import check
from tests.linearizability.history import Recorder
from tests.simulation.backups import Backups
from tests.simulation.checks import Checks
from tests.simulation.clients import Client, all_done
from tests.simulation.member import Member
from tests.simulation.network import Network
from tests.simulation.plan import Plan, draw
from tests.simulation.stage import Stage
from tests.simulation.storm import Storm
from tests.simulation.world import Violation, World

_REST = 60
"""Steps within which the cluster has to come to rest after the storm. Ten or so are usual: election timeouts and leases
are up to five, and a lease has to run out before a new leader serves."""

_EVENTS_OF_A_STORM = 20_000
"""A storm of more events ends before its time: several short runs find more than a long one."""

_CPU_SECONDS = 120.0
"""What a run may take to compute. A second or two are usual."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run."""

    seed: int
    violation: str
    """Empty: there is none."""
    events: int
    seconds: float
    """Of virtual time."""
    counts: Counter[tuple[str, str]]
    cpu_seconds: float
    """What it took to compute."""


class Simulation:
    def __init__(self, plan: Plan, write: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.world = world = World(plan.seed, write)
        self.recorder = Recorder(clock=lambda: world.now)
        names = [f"n{member}" for member in plan.members]
        self.network = Network(world, plan, names, [client.name for client in plan.clients])
        self.checks = Checks(world, trusts_clocks=not plan.drift_violated)
        self.checks.configuration = Configuration(frozenset(plan.founding_members))
        self.members = {id: Member(world, self.network, self.checks, plan, id) for id in plan.members}
        self.clients = [Client(world, self.network, plan, own, self.recorder) for own in plan.clients]
        self.backups = Backups(world, self.members, self.checks, plan)
        self.storm = Storm(Stage(world, self.network, self.members, self.clients, plan), self.checks)

    def run(self) -> None:
        """Run it to its end. Raises Violation."""
        for founder in self.plan.founding_members:
            self.members[founder].start()
        self.storm.begin()
        self.backups.begin()
        while self.world.now < self.plan.storm and self.world.events < _EVENTS_OF_A_STORM:
            self.world.run(self.world.now + self.plan.step)
        self.storm.end()
        self.backups.end()
        for client in self.clients:
            client.finish()
        self._come_to_rest()
        for member in self._belonging():
            assert member.replica is not None
            self.checks.compare(member.id, member.replica.machine)
        self._check_history()

    def _come_to_rest(self) -> None:
        step = self.plan.step
        lacking, deadline = math.inf, 0.0
        while not self._is_at_rest():
            if self._lacking() < lacking:  # it takes its time, an entry a message and an operation a call at worst
                lacking, deadline = self._lacking(), self.world.now + _REST * step
            if self.world.now >= deadline:
                raise Violation(f"no rest within {_REST * step:g} s after the storm: {self._describe()}")
            self.world.run(self.world.now + step / 10)

    def _lacking(self) -> int:
        """How many entries the members still have to apply, and how many operations the clients have left."""
        applied = [member.replica.machine.applied_index if member.replica else 0 for member in self._belonging()]
        entries = len(self.checks.committed) * len(applied) - sum(applied)
        return entries + sum(client.left for client in self.clients)

    def _is_at_rest(self) -> bool:
        belonging = self._belonging()
        statuses = [member.replica.status() for member in belonging if member.replica is not None]
        return (
            all_done(self.clients)
            and not self.checks.configuration.learners
            and self.checks.perhaps_members() == self.checks.configuration.members
            and len(statuses) == len(belonging)
            and len({status.applied_index for status in statuses}) == 1
            and all(status.last_log_index == status.applied_index for status in statuses)
            and any(status.serving for status in statuses)
            and not any(member.has_callers for member in belonging)  # others may never hear who leads
        )

    def _belonging(self) -> list[Member]:
        """The members by the last configuration that has been committed. Others may be off, or know nothing of it."""
        return [self.members[member] for member in sorted(self.checks.configuration.members)]

    def _describe(self) -> str:
        members = [f"{m.name} {m.replica.status() if m.replica else m.state.value}" for m in self.members.values()]
        waiting = [client.plan.name for client in self.clients if not client.is_done]
        return "; ".join(members) + f"; clients that wait: {', '.join(waiting) or 'none'}"

    def _check_history(self) -> None:
        history = self.recorder.history()
        self.world.count("client outcomes", "operations in all", len(history))
        verdict = check(history)
        if not verdict.linearizable:
            for violation in verdict.violations:
                for line in str(violation).splitlines():
                    self.world.tell("history", line)
            found = verdict.violations[0] if verdict.violations else verdict  # which says what was not decided
            raise Violation(str(found).splitlines()[0])


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise Violation in the middle of what takes far too long to compute: a member that goes round in circles within
    one event makes no further events that could be counted. Only what this process computes counts, so that a busy
    machine makes no difference."""

    def give_up(*_: object) -> None:
        raise Violation(f"no end within {_CPU_SECONDS:g} s of computing: something goes round in circles")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def simulate(seed: int, write: Callable[[str], None] | None = None) -> Report:
    """Run a seed; `write` takes the lines of its trace."""
    started = time.process_time()
    plan = draw(seed)
    simulation = Simulation(plan, write)
    world, violation = simulation.world, ""
    world.tell("plan", plan.describe())
    try:
        with _bounded():
            simulation.run()
    except Violation as found:
        violation = str(found)
    except Exception as error:  # a bug may also break what looks on; whoever runs many seeds has to learn which it was
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rsplit('/', 1)[-1]}, line {where.lineno}, {where.name}"
        violation = f"the simulator itself fails: {type(error).__name__} in {place}: {error}"
    if violation:
        world.tell("VIOLATION", violation)
    return Report(seed, violation, world.events, world.now, world.counts, time.process_time() - started)
