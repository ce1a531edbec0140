"""The command `scripts/mutants.py`: puts known bugs into the code, one at a time, and shows which test notices each.

    scripts/mutants.py                         all of them: a row a mutant, as soon as it is decided
    scripts/mutants.py "the vote" "*promise*"  those whose names begin so, or look so
    scripts/mutants.py --since main            those whose code or whose tests have changed since a commit
    scripts/mutants.py --list                  their names, and the hazards that they stand for

Exit status 0: all are killed. 1: one has survived, or could not be tried. 2: wrong usage.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final

from tests.mutants.catalogue import MUTANTS, find
from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.runner import Verdict, confirm, judge

_NAME_WIDTH: Final = max(len(mutant.name) for mutant in MUTANTS)
_HAZARDS_WIDTH: Final = max(len("hazard"), *(len(mutant.shown_hazards) for mutant in MUTANTS))


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Gives back the exit status."""
    parser = argparse.ArgumentParser(
        prog="mutants.py", description="Do the tests notice known bugs? docs/testing.md says more."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a mutant's name, its beginning, or a pattern with *")
    parser.add_argument(
        "--since", metavar="COMMIT", help="only those whose code or whose tests have changed since this commit"
    )
    parser.add_argument("--list", action="store_true", help="name the mutants, and try none")
    at_a_time = 2 if (os.cpu_count() or 1) > 1 else 1
    parser.add_argument("--jobs", type=int, default=at_a_time, metavar="N", help=f"at a time (default: {at_a_time})")
    options = parser.parse_args(arguments)
    try:
        chosen = find(options.names)
        if options.since is not None:
            changed = _changed_since(options.since)
            chosen = [mutant for mutant in chosen if mutant.depends_on(changed)]
    except LookupError as error:
        parser.error(str(error.args[0]))
    if options.list:
        print(_row("mutant", "hazard", "who is to notice"))
        for mutant in chosen:
            print(_row(mutant.name, mutant.shown_hazards, ", ".join(mutant.expected)))
        return 0
    return _try(chosen, max(1, options.jobs))


def _changed_since(commit: str) -> list[str]:
    """Files, relative to the project. Raises LookupError if git knows no such commit."""
    told = subprocess.run(
        ["git", "diff", "--name-only", "--relative", commit, "--"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        raise LookupError(f"what has changed since {commit!r} is not known: {told.stderr.strip()}")
    return told.stdout.splitlines()


def _try(mutants: Sequence[Mutant], jobs: int) -> int:
    started = time.monotonic()
    print(_row("mutant", "hazard", "killed by"), flush=True)
    verdicts: list[Verdict] = []
    for verdict in _verdicts(mutants, jobs):
        verdicts.append(verdict)
        print(_row(verdict.mutant.name, verdict.mutant.shown_hazards, verdict.outcome), flush=True)
        if sys.stderr.isatty():
            print(f"  {len(verdicts)} of {len(mutants)}", end="\r", file=sys.stderr, flush=True)
    layers = Counter(killer.layer for verdict in verdicts for killer in verdict.killers)
    print("\nkilled by: " + (", ".join(f"{layer} {count}" for layer, count in layers.most_common()) or "nobody"))
    wrong = confirm([killer for verdict in verdicts for killer in verdict.killers])
    print(f"without a mutant: {wrong}" if wrong else "without a mutant all of these tests pass")
    alive = [verdict.mutant.name for verdict in verdicts if not verdict.killers]
    seconds = time.monotonic() - started
    if alive:
        print(f"{len(alive)} of {len(mutants)} mutants not killed, in {seconds:.0f} s: {'; '.join(alive)}")
    else:
        print(f"{len(mutants)} mutants, all killed in {seconds:.0f} s")
    return 1 if alive or wrong else 0


def _verdicts(mutants: Sequence[Mutant], jobs: int) -> Iterator[Verdict]:
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(judge, mutant) for mutant in mutants]):
                yield future.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _row(name: str, hazards: str, rest: str) -> str:
    return f"{name:{_NAME_WIDTH}}  {hazards:{_HAZARDS_WIDTH}}  {rest}"
