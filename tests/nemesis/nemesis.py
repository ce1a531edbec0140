"""One run of the nemesis, and its command line: theory of operation.

A cluster is started, a workload set to work, and for the given time faults come down on the cluster, those of each lane
one after the other (`faults.py`). Then everything is mended and examined (`aftermath.py`). The run's directory keeps
what one needs to understand it: `report.txt`, `plot.svg`, `history.jsonl`, the nodes' logs, and if the history is not
linearizable, a picture of why (`violation.html`) and the nodes' data.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.linearizability.history import Operation, dump
from tests.linearizability.timeline import draw
from tests.nemesis import faults, report, sandbox
from tests.nemesis.aftermath import Aftermath
from tests.nemesis.faults import Arena, Fault, Script
from tests.nemesis.network import WHOLE, all_pairs
from tests.nemesis.proxy import ProxiedNetwork
from tests.nemesis.report import Deed
from tests.nemesis.switch import SwitchedNetwork
from tests.nemesis.workload import Workload
from tests.support.processes import ROOT, Cluster

OPERATIONS_PER_SECOND: Final = 250.0
"""What the workload aims at: enough to be in the way of every fault, little enough to be checked."""

_CALM_SECONDS: Final = (0.5, 4.0)
"""Between two faults of a lane: at times too short for an election, at times long enough for clients to get ahead."""

SETTINGS: Final = {"SEGMENT_BYTES": 1 << 15, "SNAPSHOT_LOG_BYTES": 1 << 16, "KEPT_LOG_BYTES": 1 << 14}
"""Short segments and frequent snapshots, so that faults meet the change from one to the next, saves, and members that
lack what the others have forgotten. Everything else has its default."""


class Storm:
    """Faults, lane by lane, until the time is over."""

    def __init__(self, arena: Arena, lanes: dict[str, list[Fault]], seconds: float) -> None:
        self.deeds: list[Deed] = []
        self._arena = arena
        self._lanes = lanes
        self._ends_at = time.monotonic() + seconds
        self._seconds = seconds

    def rage(self, workload: Workload) -> None:
        """Returns when the time is over and every fault mended, or as soon as a worker has failed."""
        count = itertools.count()
        scripts = [(0.0, next(count), self._lane(lane, chosen)) for lane, chosen in self._lanes.items()]
        while scripts and not workload.trouble:
            due, _, script = heapq.heappop(scripts)
            time.sleep(max(0.0, due - time.monotonic()))
            wait = next(script, None)
            if wait is not None:
                heapq.heappush(scripts, (time.monotonic() + wait, next(count), script))

    def _lane(self, lane: str, chosen: list[Fault]) -> Script:
        rng = random.Random(self._arena.rng.random())
        for fault in _shuffled_for_ever(chosen, rng):
            yield rng.uniform(*_CALM_SECONDS)
            if time.monotonic() >= self._ends_at:
                return
            began = time.monotonic()
            came_to_nothing = (yield from fault(self._arena)) is False
            deed = Deed(lane, faults.name_of(fault), began, time.monotonic())
            if not came_to_nothing:
                self.deeds.append(deed)
            at = deed.began - self._ends_at + self._seconds
            end = ", came to nothing" if came_to_nothing else ""
            tell(f"{at:7.1f} s  {deed.fault} ({deed.ended - deed.began:.1f} s{end})")


def _shuffled_for_ever(chosen: Sequence[Fault], rng: random.Random) -> Iterator[Fault]:
    while True:
        yield from rng.sample(chosen, len(chosen))


def tell(line: str) -> None:
    print(line, flush=True)


# ---- a run -----------------------------------------------------------------------------------------------------------


class Run:
    """Everything from the first node's start to the verdict."""

    def __init__(self, seed: int, seconds: float, size: int, directory: Path, only: Sequence[str] = ()) -> None:
        """`only`: words, one of which must be in the name of each fault; all faults without any."""
        self._only = only
        self._seed = seed
        self._seconds = seconds
        self._size = size
        self._directory = directory
        self._opened = ExitStack()

    def carry_out(self) -> bool:
        """Whether all is well."""
        with self._opened:
            arena = self._arena()
            lanes = self._lanes(arena)
            cluster = arena.cluster
            cluster.start()
            cluster.leader()
            began = time.monotonic()
            workload = Workload(cluster.addresses, random.Random(self._seed), OPERATIONS_PER_SECOND)
            storm = Storm(arena, lanes, self._seconds)
            workload.start()
            try:
                storm.rage(workload)
                self._make_peace(arena)
            finally:
                workload.stop()
                dump(workload.recorder.history(), self._directory / "history.jsonl")  # whatever comes
            ended = time.monotonic()
            if workload.trouble:
                raise workload.trouble[0]
            during = workload.recorder.history()
            aftermath = Aftermath(cluster, workload.recorder, tell)
            aftermath.examine()
            self._keep(aftermath, workload.recorder.history())
            kinds = [faults.name_of(fault) for there in lanes.values() for fault in there]
            return self._report(aftermath, storm.deeds, kinds, during, began, ended)

    def _lanes(self, arena: Arena) -> dict[str, list[Fault]]:
        lanes, missing = faults.lanes(arena.own_disks, arena.network.loses_packets)
        for line in missing:
            tell(f"left out: {line}")
        if not self._only:
            return lanes
        chosen = {lane: [fault for fault in there if self._is_wanted(fault)] for lane, there in lanes.items()}
        return {lane: there for lane, there in chosen.items() if there}

    def _is_wanted(self, fault: Fault) -> bool:
        return any(word in faults.name_of(fault) for word in self._only)

    def _arena(self) -> Arena:
        network = SwitchedNetwork(self._size) if sandbox.is_inside() else ProxiedNetwork(self._size)
        self._opened.callback(network.close)
        tell(f"network: {network.name}")
        cluster = Cluster(self._directory, addresses=network.addresses, settings=SETTINGS)
        network.connect(cluster)
        if sandbox.is_inside():
            for node in cluster.nodes:
                faults.mount_disk(node)
        self._opened.enter_context(cluster)
        scratch = self._directory / "strace"
        scratch.mkdir()
        rng = random.Random(self._seed)
        return Arena(cluster, network, rng, own_disks=sandbox.is_inside(), scratch=scratch)

    def _make_peace(self, arena: Arena) -> None:
        """Mend what a fault that was cut short may have left."""
        arena.network.change(all_pairs(node.id for node in arena.nodes), WHOLE)
        for node in arena.nodes:
            if node.is_running and node.is_paused:
                node.resume()
        arena.start(arena.nodes)

    # ---- what remains ------------------------------------------------------------------------------------------------

    def _keep(self, aftermath: Aftermath, history: Sequence[Operation]) -> None:
        dump(history, self._directory / "history.jsonl")
        if aftermath.verdict and aftermath.verdict.violations:
            (self._directory / "violation.html").write_text(draw(aftermath.verdict.violations))
        if not aftermath.all_is_well and sandbox.is_inside():  # the disks are gone with the sandbox
            for number in range(1, self._size + 1):
                shutil.copytree(self._directory / f"node-{number}", self._directory / f"node-{number}-data")

    def _report(
        self,
        aftermath: Aftermath,
        deeds: Sequence[Deed],
        kinds: Sequence[str],
        history: Sequence[Operation],
        began: float,
        ended: float,
    ) -> bool:
        """Whether all is well, and has been put to the test."""
        too_seldom = report.too_seldom(deeds, kinds, self._seconds) + report.hardly_answered(history)
        verdict = "ALL IS WELL" if aftermath.all_is_well else "SOMETHING IS WRONG"
        if aftermath.all_is_well and too_seldom:
            verdict = "TOO LITTLE HAS BEEN TRIED"
        lines = [
            f"seed {self._seed}, {self._size} nodes, {ended - began:.0f} s under faults",
            "",
            f"faults: {len(deeds)}",
            *report.faults_in_text(deeds),
            *too_seldom,
            "",
            f"operations: {len(history)}",
            *report.operations_in_text(history),
            "",
            *report.pace_in_text(history, began, ended),
        ]
        findings = [str(finding) for finding in aftermath.findings]
        (self._directory / "report.txt").write_text("\n".join([*lines, "", *findings, "", verdict]) + "\n")
        title = f"{self._size} nodes, seed {self._seed}: {len(deeds)} faults, {len(history)} operations"
        (self._directory / "plot.svg").write_text(report.Plot(history, deeds, began, ended).svg(title))
        tell("")
        for line in lines:
            tell(line)
        tell(f"\nkept in {self._directory}: report.txt, plot.svg, history.jsonl, logs")
        tell(verdict)
        return aftermath.all_is_well and not too_seldom


# ---- the command line ------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all is well; 1: not; 2: wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parse(words)
    if not sandbox.is_inside() and arguments.network != "proxy":
        reason = sandbox.why_not()
        if not reason:
            sandbox.enter([sys.executable, str(ROOT / "scripts" / "nemesis.py"), *words])
        if arguments.network == "namespaces":
            tell(f"nemesis: no namespaces: {reason}")
            return 2
        tell(f"no namespaces: {reason}")
    if sandbox.is_inside():
        sandbox.furnish()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    directory = arguments.out or Path(tempfile.mkdtemp(prefix="raftkv-nemesis-"))
    directory.mkdir(parents=True, exist_ok=True)
    tell(f"seed {seed}: scripts/nemesis.py --seed {seed} --minutes {arguments.minutes:g} --nodes {arguments.nodes}")
    run = Run(seed, arguments.minutes * 60, arguments.nodes, directory.resolve(), arguments.only)
    try:
        return 0 if run.carry_out() else 1
    except KeyboardInterrupt:
        tell(f"interrupted; logs are in {directory}")
        return 1


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nemesis.py", description="Faults on the real processes of a cluster.")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the faults last (default: 5)")
    parser.add_argument("--seed", type=int, help="of the schedule of faults (default: a random one)")
    parser.add_argument("--nodes", type=int, default=5, choices=range(3, 8), metavar="N", help="3 to 7 (default: 5)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="faults with one of these in their names")
    parser.add_argument("--out", type=Path, help="a new directory for what is kept (default: a temporary one)")
    parser.add_argument(
        "--network",
        choices=["auto", "namespaces", "proxy"],
        default="auto",
        help="what connects the nodes: namespaces where they can be had, which takes root (default), or proxies",
    )
    arguments = parser.parse_args(words)
    if not 0 < arguments.minutes < 100_000:
        parser.error("--minutes must be more than 0")
    if arguments.out and arguments.out.exists():
        parser.error(f"{arguments.out} exists: name a new directory")
    return arguments
