"""The command `scripts/bench.py`: measures, shows its progress, sums up. docs/performance.md says how to read it.

Exit status 0: all was measured and no acknowledged write of ours is missing. 1: something went wrong. 2: wrong usage.
A bar that is not met is a result, and changes nothing about the status.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final, NoReturn

from benchmarks import etcd, machine, plots, report
from benchmarks.clusters import started
from benchmarks.plan import LEVELS, Have, Measure, Phase, Plan, cluster_of, full, in_turn, only, quick, rounds_of
from benchmarks.rows import CLOSED, OPEN, Case, Round, Row, best_twin, pool
from benchmarks.runner import Failure, Runner
from benchmarks.singles import kill_all, memory, replay, replay_single
from tests.support.processes import ROOT

_BUSY: Final = 0.5
"""From this load average on, figures may be another process's fault."""
OTHERS: Final = ("etcd", "pysyncobj")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Gives back the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(words)
    if machine.is_in_memory(options.data):
        print(
            f"bench: {options.data} is in memory, where an fsync costs nothing: name a disk with --data",
            file=sys.stderr,
        )
        return 1
    signal.signal(signal.SIGTERM, _end)
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=options.data))
    try:
        return Bench(options, words, directory).run()
    except (Failure, AssertionError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; nothing is kept", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py", description="This cluster, etcd and PySyncObj under the same load; see docs/performance.md."
    )
    parser.add_argument("--quick", action="store_true", help="3 members, 100 B values, short rounds: a few minutes")
    parser.add_argument(
        *("--against", "-a"),
        type=_others,
        default=None,
        metavar="NAMES",
        help="etcd, pysyncobj or both with a comma, or none; default: what is installed, --quick without pysyncobj",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all rows")
    parser.add_argument(
        "--markdown", type=Path, metavar="PATH", help="write the report, into its place if there is one"
    )
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="draw latency against throughput, and a CDF")
    parser.add_argument("--only", default="", metavar="WORDS", help="only the measures with these words in their name")
    parser.add_argument("--seconds", type=float, default=0.0, metavar="S", help="the length of a round (2; --quick: 1)")
    parser.add_argument(
        "--fill", type=int, default=1_000_000, metavar="N", help="keys for memory and replay; 0: neither"
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data", metavar="DIRECTORY", help="where the members' data go"
    )
    options = parser.parse_args(words)
    options.data.mkdir(parents=True, exist_ok=True)
    return options


def _others(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name not in ("", "none"))
    if unknown := set(names) - set(OTHERS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not known; there are {' and '.join(OTHERS)}")
    return names


class Bench:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, words: list[str], directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._began = time.monotonic()
        command = shlex.join([".venv/bin/python", "scripts/bench.py", *words])
        self._report = report.Run(command, machine.description(directory), "")
        if (busy := os.getloadavg()[0]) > _BUSY:
            self._note(f"the machine was busy with other things when the run began (load {busy:.1f})")
        self._have, generator = self._look_around()
        self._plan = self._make_plan()
        self._report.notes += [f"left out on purpose: {what}" for what in self._plan.left_out]
        self._runner = Runner(directory, self._plan.seconds, generator)
        self._rounds: list[Round] = []
        self._singles: list[Row] = []
        self._total = rounds_of(self._plan)

    # ---- what there is -----------------------------------------------------------------------------------------------

    def _look_around(self) -> tuple[Have, list[str]]:
        """What can be measured, and the command of etcd's generator. Notes what can't."""
        quick_ones = ("etcd",) if self._options.quick else OTHERS
        wanted = quick_ones if self._options.against is None else self._options.against
        etcd_version = etcd.version() if "etcd" in wanted else ""
        has_pysyncobj = "pysyncobj" in wanted and importlib.util.find_spec("pysyncobj") is not None
        generator: list[str] = []
        if "etcd" in wanted and not etcd_version:
            self._note("etcd is not installed (apt-get install etcd-server etcd-client): its rows are left out")
        if etcd_version:
            self._say("building etcd's load generator in Go")
            generator, why = etcd.build_generator(self._build_directory())
            if why:
                self._note(f"{why}: etcd's rows with a client in Go are left out")
        if "pysyncobj" in wanted and not has_pysyncobj:
            self._note("PySyncObj is not installed (pip install pysyncobj): its rows are left out")
        if self._options.plots and not plots.are_possible():
            self._note("matplotlib is not installed (pip install '.[bench]'): there are no plots")
        versions = [f"etcd {etcd_version}"] if etcd_version else []
        versions += [f"PySyncObj {metadata.version('pysyncobj')}"] if has_pysyncobj else []
        self._report.versions = " and ".join(versions) or "No other system was measured"
        return Have(bool(etcd_version), bool(generator), has_pysyncobj), generator

    def _build_directory(self) -> Path:
        directory: Path = self._options.data / "bench-build"
        directory.mkdir(exist_ok=True)
        return directory

    def _make_plan(self) -> Plan:
        make, seconds = (quick, 1.0) if self._options.quick else (full, 2.0)
        plan = make(self._have, self._options.seconds or seconds, self._options.fill)
        return only(plan, self._options.only) if self._options.only else plan

    # ---- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """All of it. The exit status."""
        is_well = True
        for phase in self._plan.phases:
            is_well &= self._phase(phase)
        if self._plan.fill:
            of_all = self._runner, self._directory, self._plan.fill
            is_well &= self._single("memory", partial(memory, *of_all))
            is_well &= self._single("replay", partial(replay, *of_all))
            is_well &= self._single("replay of single writes", partial(replay_single, *of_all[1:]))
        rows = self._report.rows = pool(self._rounds) + self._singles
        self._report.seconds = time.monotonic() - self._began
        self._write()
        print(report.text(self._report))
        lost = any(row.get("missing") for row in rows if row["system"] == "ours")
        failed = any(row["errors"] for row in rows if row["system"] == "ours")
        return 0 if is_well and not lost and not failed else 1

    def _phase(self, phase: Phase) -> bool:
        """Start the clusters, measure, and kill them. Whether all went well."""
        is_well = True
        with ExitStack() as running:
            for name, members in phase.clusters:
                self._say(f"starting {name}, {members} member{'s' if members > 1 else ''}")
                self._runner.systems[name, members] = running.enter_context(started(name, members, self._directory))
            for case in _that_read(phase.measures):
                self._runner.fill_for_reads(case)
            for measure in phase.measures:
                self._measure(measure)
            for case in _that_write(phase.measures):
                name = f"kill -9 of all: {case.system}, {case.members} members"
                is_well &= self._single(name, partial(kill_all, self._runner, case)) or case.system != "ours"
        self._runner.systems.clear()
        for records in self._runner.records.values():
            for path in records:
                path.unlink(missing_ok=True)
        self._runner.records.clear()
        return is_well

    def _measure(self, measure: Measure) -> None:
        for case in in_turn(measure.cases):
            rate = self._half_the_peak(case) if case.mode == OPEN else 0.0
            if case.mode == OPEN and not rate:
                self._note(f"{case}: left out, for its closed loop has failed")
            else:
                self._round(case, rate)

    def _round(self, case: Case, rate: float = 0.0) -> Row:
        done = self._runner.measure(case, rate)
        self._rounds.append(done)
        (row,) = pool([done])
        self._say(f"[{len(self._rounds)}/{self._total}] {case}: {report.progress(row)}")
        return row

    def _half_the_peak(self, case: Case) -> float:
        """Half of what the same work comes to just now, in the closed loop that has been the best so far (if none has
        been measured: in the one with most in flight). Just now, for some minutes ago the machine may have been another
        one."""
        best = best_twin(self._rounds, case) or replace(case, mode=CLOSED, in_flight=LEVELS[-1])
        return float(self._round(best)["ops_per_s"]) / 2

    def _single(self, name: str, measure: Callable[[], Row]) -> bool:
        self._say(name)
        try:
            row = measure()
        except (Failure, AssertionError, OSError, ValueError) as error:
            self._note(f"{name} failed: {error}")
            return False
        self._singles.append(row)
        for line in report.singles([row]):
            self._say(line)
        return True

    # ---- words -------------------------------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        """Progress goes to stderr."""
        elapsed = int(time.monotonic() - self._began)
        print(f"{elapsed // 60:2}:{elapsed % 60:02} {line}", file=sys.stderr, flush=True)

    def _note(self, line: str) -> None:
        self._report.notes.append(line)
        self._say(line)

    def _write(self) -> None:
        options, run = self._options, self._report
        if options.json:
            # A line a row, to be read by people too.
            lines = ",\n".join(json.dumps(row, allow_nan=False) for row in run.rows)
            options.json.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        if options.plots and plots.are_possible():
            drawn = plots.draw(run.rows, options.plots)
            base = options.markdown.parent.resolve() if options.markdown else Path.cwd()
            run.plots = [os.path.relpath(path.resolve(), base) for path in drawn]
        if options.markdown:
            report.put_into(options.markdown, report.markdown(run))


def _that_read(measures: Sequence[Measure]) -> list[Case]:
    """A case for each cluster that is read from, and for each size of value."""
    found: dict[tuple[tuple[str, int], int], Case] = {}
    for case in (case for measure in measures for case in measure.cases):
        if case.work in ("get", "mix"):
            found.setdefault((cluster_of(case), case.value_bytes), case)
    return list(found.values())


def _that_write(measures: Sequence[Measure]) -> list[Case]:
    """A case for each cluster that is written to, by the interface for the last load before the kill."""
    found: dict[tuple[str, int], Case] = {}
    for case in (case for measure in measures for case in measure.cases):
        if case.work == "set" and case.mode == CLOSED:
            last = Case(case.system, case.members, "set", case.api, 100)
            place = cluster_of(case)
            if place not in found or case.api in ("stream", "go"):
                found[place] = last
    return list(found.values())
