"""Whole runs: that they are well, that they are repeatable, and that they find bugs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.broken import BUGS, Bug
from tests.simulation.plan import Fault, draw
from tests.simulation.simulation import simulate
from tests.simulation.summary import replay_command

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", range(1, 41))
def test_nothing_is_violated(seed: int) -> None:
    report = simulate(seed)
    assert not report.violation, f"{report.violation}\nreplay with: {replay_command(seed)}"


@pytest.mark.parametrize("seed", [3, 11])
def test_a_seed_is_one_run_byte_for_byte_whatever_python_hashes(seed: int) -> None:
    def trace(hash_seed: str) -> bytes:
        command = [sys.executable, str(ROOT / "scripts/simulate.py"), "--seed", str(seed)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=environment, capture_output=True, check=True).stdout

    first = trace("1")
    assert first.count(b"\n") > 100
    assert first == trace("2")


def test_writing_the_trace_changes_nothing() -> None:
    lines: list[str] = []
    told, untold = simulate(5, lines.append), simulate(5)
    assert lines
    assert (told.events, told.seconds, told.counts) == (untold.events, untold.seconds, untold.counts)


def test_seeds_differ_in_everything_they_may_differ_in() -> None:
    plans = [draw(seed) for seed in range(200)]
    assert {len(plan.members) for plan in plans} == {1, 2, 3, 5, 7}
    assert {plan.drift_violated for plan in plans} == {True, False}
    assert any(config.lease_duration == 0 for plan in plans for config in plan.configs.values())
    assert any(len({config.lease_duration for config in plan.configs.values()}) > 1 for plan in plans)
    assert any(config.lease_duration > config.election_timeout for plan in plans for config in plan.configs.values())
    for fault in Fault:
        assert {plan.has(fault) for plan in plans} == {True, False}


FOUND_SOON = {
    "the vote is not written",
    "a batch is not synced",
    "a new name is not synced",
    "replies leave before their entries are durable",
    "damage in the middle is taken for a torn tail",
    "votes are counted, not collected",
    "the vote is cleared on the return to follower",
    "anybody gets a vote, whatever its log",
    "an answer of an earlier term counts",
    "a follower truncates without a conflict",
    "a follower commits up to its own last index",
    "the lease outlives the leadership",
}
"""Within a few seeds, so that each run of the tests can look for them. The others take up to some hundred."""


@pytest.mark.parametrize("name", sorted(FOUND_SOON))
def test_a_bug_is_found(name: str) -> None:
    (bug,) = (bug for bug in BUGS if bug.name == name)
    with bug.in_force():
        assert any(simulate(seed).violation for seed in range(1, 41)), "40 seeds have not found it"


def test_a_bug_that_has_lost_its_place_in_the_code_is_noticed() -> None:
    bug = BUGS[0]
    gone = Bug(bug.name, bug.owner, bug.function, "a text that is not there", "")
    with pytest.raises(LookupError, match="not there"), gone.in_force():
        pass


def test_a_bug_is_gone_afterwards() -> None:
    bug = BUGS[0]
    before = getattr(bug.owner, bug.function)
    with bug.in_force():
        assert getattr(bug.owner, bug.function) is not before
    assert getattr(bug.owner, bug.function) is before
