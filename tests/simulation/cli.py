"""The command `scripts/simulate.py`: runs seeds, shows its progress, and sums up what was done.

    scripts/simulate.py --seeds 1000        the seeds 1 to 1000
    scripts/simulate.py --minutes 10        as many as there is time for
    scripts/simulate.py --seed 17           one, and its trace: the same bytes every time, on every machine

Exit status 0: all is well. 1: something was violated, or (from 1,000 seeds on) a kind of fault has never happened.
2: wrong usage.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import count, islice

from tests.simulation.simulation import Report, simulate
from tests.simulation.summary import Summary, replay_command, summarize

_PROGRESS_EVERY = 2.0
"""Seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Gives back the exit status."""
    options = _parse(arguments)
    if options.seed is not None:
        report = simulate(options.seed, print)
        summary = summarize([report])
        print()
    else:
        seeds = count(options.first) if options.minutes else islice(count(options.first), options.seeds)
        summary = _run(seeds, (options.minutes or math.inf) * 60, options.jobs)
    for line in summary.lines():
        print(line)
    return 0 if summary.is_well else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="simulate.py", description="Deterministic simulation of whole clusters; docs/testing.md says more."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, metavar="N", help="run this one and print its trace")
    which.add_argument("--seeds", type=_positive, default=100, metavar="N", help="run so many (default: 100)")
    which.add_argument("--minutes", type=float, metavar="M", help="run as many as there is time for")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="the first seed (default: 1)")
    parser.add_argument(
        "--jobs", type=_positive, default=multiprocessing.cpu_count(), metavar="N", help="how many at a time"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _run(seeds: Iterator[int], seconds: float, jobs: int) -> Summary:
    """Run seeds, `jobs` at a time, as long as there are any and begin none after `seconds`."""
    started = time.monotonic()
    summary, shown_at = Summary(), started
    for report in _reports(seeds, started + seconds, jobs):
        summary.add(report)
        if report.violation:
            print(f"VIOLATION in seed {report.seed}: {report.violation}", flush=True)
            print(f"    replay with: {replay_command(report.seed)}", flush=True)
        if time.monotonic() - shown_at > _PROGRESS_EVERY:
            shown_at = time.monotonic()
            print(f"{shown_at - started:6.0f} s: {summary.runs:,} seeds, {summary.events:,} events", file=sys.stderr)
    elapsed = time.monotonic() - started
    rate = summary.events / max(summary.cpu_seconds, 1e-9)
    print(
        f"{elapsed:.0f} s, {summary.cpu_seconds:.0f} s of them computing: {rate:,.0f} checked events a second and core"
    )
    return summary


def _reports(seeds: Iterator[int], stop_at: float, jobs: int) -> Iterator[Report]:
    """What comes of each seed, in the order in which they end."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(simulate, seed) for seed in islice(seeds, 2 * jobs)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            if time.monotonic() < stop_at:
                running |= {pool.submit(simulate, seed) for seed in islice(seeds, len(ended))}
            yield from (run.result() for run in ended)
