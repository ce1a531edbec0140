"""Virtual time, and the clocks of the machines."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from raftkv import clock as node_clock
from tests.simulation.plan import Fault, draw
from tests.simulation.simulation import Simulation
from tests.simulation.world import Clock, Violation, World


def test_events_happen_in_the_order_of_their_time_and_of_their_making() -> None:
    world, seen = World(seed=1), list[str]()
    world.at(2.0, seen.append, "later")
    world.at(1.0, seen.append, "first")
    world.at(1.0, seen.append, "second")
    world.run(until=1.5)
    assert (seen, world.now) == (["first", "second"], 1.5)
    world.run(until=3.0)
    assert (seen, world.now) == (["first", "second", "later"], 3.0)


def test_a_run_that_goes_round_in_circles_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.world._EVENTS_MAX", 100)
    world = World(seed=1)

    def again() -> None:
        world.after(0.0, again)

    again()
    with pytest.raises(Violation, match="no end"):
        world.run(until=1.0)


def test_a_clock_runs_at_its_own_rate_and_from_its_own_start() -> None:
    world = World(seed=1)
    clock = Clock(world, rate=1.1, start=1000.0)
    world.run(until=10.0)
    assert clock.read() == pytest.approx(1011.0)
    assert clock.true_time(1022.0) == pytest.approx(20.0, abs=1e-5)
    clock.reboot()
    assert clock.read() == 0.0


def test_a_member_does_not_notice_that_the_wall_clock_jumps() -> None:
    clock = Clock(World(seed=1), rate=1.0, start=1000.0)
    clock.jump(-600.0)
    assert clock.read() == 1000.0
    assert clock.clock_gettime(time.CLOCK_REALTIME) == 400.0


def test_a_member_that_went_by_the_wall_clock_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_clock, "_CLOCK", time.CLOCK_REALTIME)
    plans = [plan for plan in map(draw, range(1, 200)) if plan.has(Fault.COUP) and not plan.drift_violated]
    only = frozenset({Fault.COUP, Fault.CLOCK_JUMP})

    def run_them() -> None:
        for plan in plans[:30]:
            Simulation(replace(plan, faults=only)).run()

    with pytest.raises(Violation, match="lease"):
        run_them()


def test_nothing_is_left_of_a_simulated_clock() -> None:
    Clock(World(seed=1), rate=1.0, start=1e9).read()
    assert abs(node_clock.now() - time.clock_gettime(node_clock._CLOCK)) < 10.0
