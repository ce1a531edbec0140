"""Finds out who notices a mutant: theory of operation.

`judge` runs the tests that the mutant names in a sandbox, up to the first that fails, and the simulator's seeds if it
names some, up to the first that finds a violation; either is enough. A test that *fails* kills a mutant; a run that
could not begin (an error in collecting the tests, no test found) or did not end in time proves nothing and is reported
as such; a single test that does not end within `_TEST_LIMIT` has failed.

A kill means something only if it is the bug's doing: the same test must fail once more with it, and pass without it. A
test that fails by chance does neither for certain, so both are asked for. `judge` runs a killer a second time, and goes
on looking behind one that does not kill again; `confirm` runs all tests that have killed once more, on a copy that
nobody has patched.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutants.mutant import Mutant, sandbox

_TIME_LIMIT: Final = 300.0
"""Seconds for one mutant's run of pytest, or of the seeds."""
_TEST_LIMIT: Final = 60
"""Seconds for one test."""
_TIME_TO_END: Final = 3.0
"""Seconds for a process to end once it has said how it went."""
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (.+?::.+?)(?: - .*)?$", re.MULTILINE)
"""pytest's line for a test that has failed; for a file that can't be collected it names no test."""
_VIOLATION: Final = re.compile(r"^(seed [0-9]+): ", re.MULTILINE)
_MORE_SEEDS: Final = "1-100"
_NO_TESTS: Final = 5
"""pytest's exit status when it has found none."""

_LAYERS: Final = (
    ("tests/raft/test_paper", "paper"),
    ("tests/raft/test_dissertation", "paper"),
    ("tests/storage/", "storage"),
    ("tests/node/", "node"),
    ("tests/client/", "client"),
    ("tests/processes/", "processes"),
    ("tests/simulation/", "simulation"),
)
"""What a test belongs to, by the beginning of its path; all others are unit tests."""


@dataclass(frozen=True, slots=True)
class Killer:
    """The test that has noticed a mutant."""

    layer: str
    test: str
    """pytest's name for it, or `seed 17`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    mutant: Mutant
    killers: tuple[Killer, ...]
    """Empty: it has survived, or `trouble` says why nothing is known."""
    trouble: str
    seconds: float

    @property
    def outcome(self) -> str:
        """For people."""
        killed_by = "; ".join(f"{killer.layer}: {killer.test}" for killer in self.killers)
        return f"{killed_by or self.trouble or 'SURVIVED'}  ({self.seconds:.1f} s)"


def judge(mutant: Mutant) -> Verdict:
    """Run the mutant's tests until one fails, and its seeds until one finds a violation."""
    started = time.monotonic()
    killers: list[Killer] = []
    trouble = ""
    try:
        with sandbox(mutant) as directory:
            found, trouble = _find_test(directory, mutant.tests) if mutant.tests else (None, "")
            killers += [found] if found else []
            if mutant.seeds and not trouble:
                found, trouble = _find_seed(directory, mutant.seeds)
                killers += [found] if found else []
    except LookupError as lost:
        trouble = f"the patch has lost its place: {lost}"
    return Verdict(mutant, tuple(killers), trouble, time.monotonic() - started)


def confirm(killers: Sequence[Killer]) -> str:
    """Run those tests without any bug. What is wrong; empty if all of them pass."""
    tests = sorted({killer.test for killer in killers if killer.layer != "simulation"})
    seeds = sorted({killer.test.removeprefix("seed ") for killer in killers if killer.layer == "simulation"})
    with sandbox() as directory:
        found, trouble = _run_tests(directory, tests, _TIME_LIMIT + 10.0 * len(tests)) if tests else (None, "")
        if seeds and not found and not trouble:
            found, trouble = _run_seeds(directory, seeds)
    return trouble or (f"{found.test} fails without any mutant" if found else "")


def _find_test(directory: Path, tests: Sequence[str]) -> tuple[Killer | None, str]:
    """The first test that fails, and fails again."""
    by_chance: list[str] = []
    while True:
        found, trouble = _run_tests(directory, tests, but=by_chance)
        if not found:
            return None, trouble
        again, _ = _run_tests(directory, [found.test])
        if again:
            return found, ""
        by_chance.append(found.test)


def _find_seed(directory: Path, seeds: Sequence[int]) -> tuple[Killer | None, str]:
    """The first seed that finds a violation, and finds it again: it would be a bug of the simulator if it did not."""
    found, trouble = _run_seeds(directory, [*map(str, seeds), _MORE_SEEDS])
    if found and not _run_seeds(directory, [found.test.removeprefix("seed ")])[0]:
        return None, f"{found.test} has found a violation once, and not again"
    return found, trouble


def layer_of(test: str) -> str:
    return next((layer for path, layer in _LAYERS if test.startswith(path)), "unit")


def _run_tests(
    directory: Path, tests: Sequence[str], time_limit: float = _TIME_LIMIT, but: Sequence[str] = ()
) -> tuple[Killer | None, str]:
    command = ["-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", f"--timeout={_TEST_LIMIT}"]
    left_out = [f"--deselect={test}" for test in but]
    status, output = _run(directory, [*command, *left_out, *tests], _FAILED, time_limit)
    failed = _FAILED.search(output)
    if failed and status in (1, None):
        return Killer(layer_of(failed[1]), failed[1]), ""
    return None, "" if status == 0 or (but and status == _NO_TESTS) else f"pytest {_shown(status, output)}"


def _run_seeds(directory: Path, words: Sequence[str]) -> tuple[Killer | None, str]:
    status, output = _run(directory, ["-m", "tests.mutants.seeds", *words], _VIOLATION)
    found = _VIOLATION.search(output)
    if found and status in (1, None):
        return Killer("simulation", found[1]), ""
    return None, "" if status == 0 else f"the simulator {_shown(status, output)}"


def _run(
    directory: Path, words: Sequence[str], decided: re.Pattern[str], time_limit: float = _TIME_LIMIT
) -> tuple[int | None, str]:
    """Run Python in the sandbox until it ends, or soon after its output shows the outcome: threads that a bug has left
    waiting may keep it from ending. Exit status and output; the status is None if it had to be stopped."""
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTHONUNBUFFERED": "1"}
    log = directory / "output"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    give_up_at = time.monotonic() + time_limit
    try:
        while process.poll() is None and time.monotonic() < give_up_at:
            if decided.search(log.read_text(errors="replace")):
                give_up_at = min(give_up_at, time.monotonic() + _TIME_TO_END)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        status = process.poll()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return status, log.read_text(errors="replace")


def _shown(status: int | None, output: str) -> str:
    if status is None:
        return "did not end in time"
    return f"ended with status {status}: {(output.strip().splitlines() or ['(nothing)'])[-1]}"
