"""What a number of runs say about themselves, and when that is not enough."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.simulation import cli
from tests.simulation.disk import Boundary
from tests.simulation.plan import Fault
from tests.simulation.simulation import Report
from tests.simulation.summary import ENOUGH_SEEDS, EXPECTED, Summary, summarize

EVERYTHING = Counter({(table, row): 1 for table, rows in EXPECTED.items() for row in rows})
WELL = Report(seed=1, violation="", events=10, seconds=1.0, counts=EVERYTHING, cpu_seconds=0.1)


def summary_without(table: str, row: str, runs: int) -> Summary:
    """Of so many runs in which this has never happened, and everything else has."""
    counts = Counter({what: times for what, times in EVERYTHING.items() if what != (table, row)})
    return summarize(replace(WELL, seed=seed, counts=counts) for seed in range(1, runs + 1))


def test_a_thousand_runs_in_which_everything_has_happened_are_well() -> None:
    assert summarize(replace(WELL, seed=seed) for seed in range(ENOUGH_SEEDS)).is_well


@pytest.mark.parametrize("boundary", Boundary)
def test_a_thousand_runs_without_a_crash_at_some_boundary_fail(boundary: Boundary) -> None:
    summary = summary_without("crashes at", boundary.value, runs=ENOUGH_SEEDS)
    assert not summary.is_well
    assert f"NEVER HAPPENED: crashes at: {boundary.value}" in summary.lines()


@pytest.mark.parametrize("fault", Fault)
def test_a_thousand_runs_without_some_fault_fail(fault: Fault) -> None:
    assert not summary_without("faults", fault.value, runs=ENOUGH_SEEDS).is_well


def test_fewer_runs_need_not_have_seen_everything() -> None:
    assert summary_without("crashes at", "fsync", runs=ENOUGH_SEEDS - 1).is_well


def test_what_never_happened_is_shown_all_the_same() -> None:
    assert f"    {0:>13,}  fsync" in summary_without("crashes at", "fsync", runs=1).lines()


def test_a_violation_is_named_with_the_command_that_replays_it() -> None:
    summary = summarize([WELL, replace(WELL, seed=17, violation="two leaders")])
    assert not summary.is_well
    assert "VIOLATION in seed 17: two leaders" in summary.lines()
    assert "    replay with: scripts/simulate.py --seed 17" in summary.lines()


def test_the_exit_status_says_whether_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def simulate(seed: int, write: object = None) -> Report:
        return replace(WELL, seed=seed, violation="two leaders" if seed == 17 else "")

    monkeypatch.setattr(cli, "simulate", simulate)
    assert cli.main(["--seed", "16"]) == 0
    assert cli.main(["--seed", "17"]) == 1
    assert "VIOLATION in seed 17" in capsys.readouterr().out


def test_wrong_usage_is_told_apart_from_a_violation() -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["--seeds", "0"])
