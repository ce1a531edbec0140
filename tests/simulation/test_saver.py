"""Snapshots in the simulator: saved step by step, with all that can come between."""

from __future__ import annotations

import pytest

from tests.simulation.plan import draw
from tests.simulation.simulation import Simulation


def with_snapshots(seeds: range) -> list[int]:
    return [seed for seed in seeds if draw(seed).snapshots is not None]


@pytest.mark.parametrize("seed", with_snapshots(range(1, 9)))
def test_nothing_is_left_of_a_save_once_all_is_at_rest(seed: int) -> None:
    """One snapshot that counts at most, and no other file."""
    simulation = Simulation(draw(seed))
    simulation.run()
    plan = simulation.plan
    simulation.world.run(simulation.world.now + 5 * plan.step + 100 * plan.save_pace)
    for member in simulation.members.values():
        if not member.has_data:
            continue
        names = member.disk.names(member.disk.directory)
        assert sum(name.startswith("snapshot-") for name in names) <= 1
        assert sum(name.startswith("new-snapshot-") for name in names) <= 1, "one may be under way"


def test_most_seeds_save_snapshots_and_some_do_not() -> None:
    assert 40 < len(with_snapshots(range(100))) < 80
