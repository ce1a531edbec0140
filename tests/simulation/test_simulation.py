"""Whole runs: that they are well and that they are repeatable. That they find bugs: tests/mutants."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import pytest

from raftkv.kv import StateMachine
from raftkv.replica import Replica
from tests.linearizability.checker import check
from tests.simulation.clients import Client
from tests.simulation.plan import EXTRA_TURNS_BELOW, Fault, draw
from tests.simulation.simulation import Simulation, simulate
from tests.simulation.summary import EXPECTED, replay_command, summarize
from tests.support.memory_disk import SECTOR_BYTES

ROOT = Path(__file__).resolve().parents[2]


simulated = cache(simulate)
"""A seed is the same run each time."""


@pytest.mark.parametrize("seed", [*range(1, 41), *range(EXTRA_TURNS_BELOW, EXTRA_TURNS_BELOW + 12)])
def test_nothing_is_violated(seed: int) -> None:
    report = simulated(seed)
    assert not report.violation, f"{report.violation}\nreplay with: {replay_command(seed)}"


FOUND = {
    502351: "a new directory whose sync has failed was taken for durable by the next start",
    503159: "a late answer of a removed member counted for the one that was added again under its id",
    503938: "(simulator) who has lost everything and gets an entry a message had too little time to catch up",
    502195: "(simulator) who has been removed was to say who leads",
    505281: "(simulator) a snapshot of which everything had arrived already was never installed",
    507281: "(simulator) a snapshot that can't be read while it is sent",
    507992: "(simulator) who was added when the storm was over was not started",
    701620: "(simulator) readers went on to stop their leader when the storm was over",
    803363: "(simulator) chunks of snapshots were reordered when the storm was over, and eight members have many",
    1101058: "(simulator) a member that was to have another life was not started when the storm was over",
    1602214: "a segment whose making had failed was counted by the next start before it was made anew",
    901838: "(simulator) who hears late of a leader without an entry drops it, though a later one has committed it",
}
"""Seeds that have found something, and what."""


@pytest.mark.parametrize("seed", FOUND)
def test_what_a_seed_has_found_does_not_come_back(seed: int) -> None:
    test_nothing_is_violated(seed)


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


def test_whatever_fails_the_seed_is_told_with_the_story_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not fit its request, say: the client that looks on breaks, and not the member."""

    def break_down(client: Client, source: str, packet: object) -> bool:
        raise ValueError("not what was asked for")

    monkeypatch.setattr(Client, "_receive", break_down)
    lines: list[str] = []
    report = simulate(5, lines.append)
    assert "ValueError in test_simulation.py" in report.violation
    assert report.violation.endswith("break_down: not what was asked for")
    assert lines[-1].endswith(report.violation)
    assert replay_command(5) in "\n".join(summarize([report]).lines())


def test_a_member_that_goes_round_in_circles_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def go_round(replica: Replica, inputs: object, now: float) -> bool:
        while True:
            pass

    monkeypatch.setattr("tests.simulation.simulation._CPU_SECONDS", 0.2)
    monkeypatch.setattr(Replica, "turn", go_round)
    assert simulate(5).violation.startswith("no end within 0.2 s of computing")


def test_a_history_that_is_not_linearizable_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of reads only clients see what is wrong, and so only the end of the run."""
    monkeypatch.setattr(StateMachine, "get", lambda machine, key: b"of nobody")
    lines: list[str] = []
    violation = simulate(5, lines.append).violation
    assert "is not linearizable" in violation
    assert "of nobody" in violation
    assert any(line.endswith("<-- impossible") for line in lines), "the story ends with the operations in question"


@pytest.mark.parametrize("power_lost", [False, True])
def test_what_was_not_synced_is_lost_with_the_power_and_not_with_the_process(power_lost: bool) -> None:
    member = Simulation(draw(5)).members[1]
    member.start()
    path = f"{member.disk.directory}/new"
    member.disk.create(path).write(0, bytes(100 * SECTOR_BYTES))
    member.crash(power_lost)
    assert bool(member.disk.unsynced()) is not power_lost
    if not power_lost:
        assert member.disk.content(path) == bytes(100 * SECTOR_BYTES)


def test_a_client_that_is_never_answered_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "is_done", False)
    violation = simulate(5).violation
    assert violation.startswith("no rest within")
    assert "clients that wait: c1" in violation


def test_in_a_few_seeds_already_storms_do_what_they_are_there_for() -> None:
    """That each kind has happened only a thousand seeds can tell; this one notices if there are none at all."""
    counts = summarize(simulated(seed) for seed in range(1, 13)).counts
    for table, least in (("faults", 12), ("crashes at", 4), ("crashes", 3), ("storage", 2), ("reads", 3)):
        kinds = {row for name, row in counts if name == table}
        assert len(kinds & set(EXPECTED[table])) >= least, table


def test_a_history_that_can_not_be_decided_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.simulation.check", partial(check, max_configurations=1))
    assert simulate(5).violation.startswith("UNDECIDED: ")


def test_seeds_differ_in_everything_they_may_differ_in() -> None:
    plans = [draw(seed) for seed in range(200)]
    assert {plan.founders for plan in plans} == {1, 2, 3, 5, 7}
    assert {len(plan.members) - plan.founders for plan in plans} == {0, 1, 2, 3}
    assert {plan.drift_violated for plan in plans} == {True, False}
    assert any(config.lease_duration == 0 for plan in plans for config in plan.configs.values())
    assert any(len({config.lease_duration for config in plan.configs.values()}) > 1 for plan in plans)
    assert any(config.lease_duration > config.election_timeout for plan in plans for config in plan.configs.values())
    for fault in Fault:
        assert {plan.has(fault) for plan in plans} == {True, False}
