"""What is measured, of which systems, in which order.

A *measure* compares cases: its rounds go A B B A (with three: A B C C B A), so that a machine that slows down or speeds
up in the meantime does so for all of them alike. A *phase* is a list of measures and the clusters that run during it:
those that are not being measured stand by, for their start would cost more than their idling does.

Reads come first, then small writes, then large ones, and transactions last: large writes leave etcd slower for as long
as it runs, and what is measured of it is to be its best. Each kind of work has its open loops right behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from benchmarks.rows import OPEN, Case

Side = TypeVar("Side")

LEVELS: Final = (1, 10, 100, 1000)
MOST_WRITES_PER_S: Final = {1: 10_000, 10: 40_000, 100: 150_000, 1000: 300_000}
"""By how many are in flight: a bound for keys, log and memory, with room for twice of what has ever been measured."""
MOST_READS_PER_S: Final = {1: 20_000, 10: 120_000, 100: 400_000, 1000: 600_000}
"""The same for reads, which need only the generator's memory."""
MOST_BY_THE_CLOCK_PER_S: Final = 500_000
WARM_UP_S: Final = 0.4
"""Before what is measured of a round; half of that, if it is shorter."""
PATHS: Final = ("lease", "read_index")
OPEN_PATHS: Final = {"get": PATHS, "mix": ("lease",), "set": ("",)}
"""Of open loops: our paths for the reads in each kind of work."""
TRANSACTIONS: Final = (16, 64, 1000)
"""In flight; the best of them is what is compared with."""
OPEN_CALLERS: Final = 20_000
"""How many operations of an open loop may wait; for etcd there are as many goroutines."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Cases to be compared with each other."""

    cases: tuple[Case, ...]

    @property
    def name(self) -> str:
        first = self.cases[0]
        return str(first).partition(":")[0] + f", {first.members} members"


@dataclass(frozen=True, slots=True)
class Phase:
    clusters: tuple[tuple[str, int], ...]
    """What runs: a name of clusters.py, and how many members."""
    measures: tuple[Measure, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    phases: tuple[Phase, ...]
    seconds: float
    """Of a round, without its warm-up."""
    fill: int
    """How many keys for memory, and how many writes for the replay."""
    left_out: tuple[str, ...] = ()
    """What is not measured on purpose, and why: for the report."""


@dataclass(frozen=True, slots=True)
class Have:
    """What there is to measure."""

    etcd: bool = False
    go: bool = False
    pysyncobj: bool = False


def in_turn(sides: Sequence[Side]) -> list[Side]:
    """The rounds of a measure: there and back again, so that drift falls on each side alike."""
    return [*sides, *reversed(sides)]


def rounds_of(plan: Plan) -> int:
    """How many rounds there are; one of an open loop has one of a closed loop before it, to learn its rate."""
    cases = [case for phase in plan.phases for measure in phase.measures for case in measure.cases]
    return 2 * (len(cases) + sum(case.mode == OPEN for case in cases))


def cluster_of(case: Case) -> tuple[str, int]:
    """Which cluster a case is measured on."""
    leaseless = case.system == "ours" and case.read_path == "read_index"
    return ("ours, leases off" if leaseless else case.system), case.members


def warm_up(seconds: float) -> float:
    """How long a round of so many seconds is under load before they begin."""
    return min(WARM_UP_S, seconds / 2)


def max_ops(case: Case, seconds: float) -> int:
    """The most operations of a round, its warm-up included. A round that has done them ends before its time."""
    bounds = MOST_READS_PER_S if case.work == "get" else MOST_WRITES_PER_S
    level = next((level for level in LEVELS if level >= case.in_flight), LEVELS[-1])
    per_second = MOST_BY_THE_CLOCK_PER_S if case.mode == OPEN else bounds[level]
    return max(1000, int(per_second * (seconds + warm_up(seconds))))


# ---- the plans -------------------------------------------------------------------------------------------------------

LEFT_OUT: Final = (
    "PySyncObj has no reads but those of a member's own dict, which may be stale: it is measured by writes alone, with "
    "values of 100 bytes (its rate is that of its ticks, whatever is in them)",
    "with 5 members there are no reads and no mix with values of 1 KiB, and no open loops with them: what a read costs "
    "does not depend on the members (under the lease), and what the size changes shows with 3",
    "threads, asyncio, unary calls and etcd's client in Python, beyond one in flight, are there to compare interfaces: "
    "with 3 members and 100 bytes",
)
"""Of the full plan, on purpose; and why."""


def quick(have: Have, seconds: float = 1.0, fill: int = 1_000_000) -> Plan:
    """3 members and values of 100 bytes: what the bars need, in a few minutes."""
    measures = [
        *_reads(have, 3, 100, (1, 100), ("lease",)),
        *_writes(have, 3, 100, LEVELS),
        *_open_loops(have, 3, 100, "set"),
        *_unary(),
        *_transactions(have, 3, 100),
    ]
    return Plan((_phase(have, measures),), seconds, fill)


def full(have: Have, seconds: float = 2.0, fill: int = 1_000_000) -> Plan:
    """Everything but what LEFT_OUT says, in less than half an hour."""
    three = [
        *_reads(have, 3, 100, LEVELS, PATHS),
        *_reads(have, 3, 1024, LEVELS, PATHS),
        *_open_loops(have, 3, 100, "get"),
        *_open_loops(have, 3, 1024, "get"),
        *_mix(have, 3, 100, LEVELS),
        *_open_loops(have, 3, 100, "mix"),
        *_python_callers(have, 3, (10, 100)),
        *_other_callers(),
        *_writes(have, 3, 100, LEVELS),
        *_open_loops(have, 3, 100, "set"),
        *_unary(),
        *_mix(have, 3, 1024, LEVELS),
        *_open_loops(have, 3, 1024, "mix"),
        *_writes(have, 3, 1024, LEVELS),
        *_open_loops(have, 3, 1024, "set"),
        *_transactions(have, 3, 100),
    ]
    five = [
        *_reads(have, 5, 100, LEVELS, PATHS),
        *_open_loops(have, 5, 100, "get"),
        *_mix(have, 5, 100, LEVELS),
        *_open_loops(have, 5, 100, "mix"),
        *_writes(have, 5, 100, LEVELS, with_three=True),
        *_open_loops(have, 5, 100, "set"),
        *_writes(have, 5, 1024, LEVELS),
        *_transactions(have, 5, 100),
    ]
    return Plan((_phase(have, three), _phase(have, five)), seconds, fill, LEFT_OUT)


def only(plan: Plan, word: str) -> Plan:
    """The measures whose name has this word in it, and no more clusters than they need."""
    phases = []
    for phase in plan.phases:
        measures = tuple(m for m in phase.measures if word in m.name or any(word in str(case) for case in m.cases))
        if measures:
            phases.append(Phase(_clusters(measures), measures))
    return Plan(tuple(phases), plan.seconds, plan.fill)


def _phase(have: Have, measures: Sequence[Measure]) -> Phase:
    kept = tuple(m for m in measures if m.cases)
    return Phase(_clusters(kept), kept)


def _clusters(measures: Sequence[Measure]) -> tuple[tuple[str, int], ...]:
    return tuple(dict.fromkeys(cluster_of(case) for measure in measures for case in measure.cases))


def _writes(have: Have, members: int, size: int, levels: Sequence[int], with_three: bool = False) -> list[Measure]:
    """`with_three`: clusters of three in the same turns, to see what more members cost."""
    measures = []
    for n in levels:
        cases = [Case("ours", members, "set", "stream", n, size)]
        if have.etcd and have.go:
            cases.append(Case("etcd", members, "set", "go", n, size))
        if have.etcd and n == 1 and size == 100:
            cases.append(Case("etcd", members, "set", "python", n, size))
        if have.pysyncobj and size == 100:
            cases += [
                Case(system, members, "set", "callback", n, size) for system in ("pysyncobj", "pysyncobj-journal")
            ]
        if with_three and n == max(levels):
            cases.insert(0, Case("ours", 3, "set", "stream", n, size))
        measures.append(Measure(tuple(cases)))
    return measures


def _transactions(have: Have, members: int, size: int) -> list[Measure]:
    if not (have.etcd and have.go):
        return []
    return [Measure(tuple(Case("etcd", members, "set_txn64", "go", n, size) for n in TRANSACTIONS))]


def _reads(have: Have, members: int, size: int, levels: Sequence[int], paths: Sequence[str]) -> list[Measure]:
    """Ours by these paths. etcd has ReadIndex only (its serializable reads may be stale, and are left out)."""
    measures = []
    for n in levels:
        cases = [Case("ours", members, "get", "stream", n, size, read_path=path) for path in paths]
        if have.etcd and have.go:
            cases.append(Case("etcd", members, "get", "go", n, size, read_path="read_index"))
        if have.etcd and n == 1 and size == 100:
            cases.append(Case("etcd", members, "get", "python", n, size, read_path="read_index"))
        measures.append(Measure(tuple(cases)))
    return measures


def _mix(have: Have, members: int, size: int, levels: Sequence[int]) -> list[Measure]:
    measures = []
    for n in levels:
        cases = [Case("ours", members, "mix", "stream", n, size, read_path="lease")]
        if have.etcd and have.go:
            cases.append(Case("etcd", members, "mix", "go", n, size, read_path="read_index"))
        measures.append(Measure(tuple(cases)))
    return measures


def _python_callers(have: Have, members: int, levels: Sequence[int]) -> list[Measure]:
    """What a Python program gets from either by blocking calls, from a thread for each in flight."""
    measures = []
    for work, ours_path, etcd_path in (("set", "", ""), ("get", "lease", "read_index")):
        for n in levels:
            cases = [Case("ours", members, work, "threads", n, read_path=ours_path)]
            if have.etcd:
                cases.append(Case("etcd", members, work, "python", n, read_path=etcd_path))
            measures.append(Measure(tuple(cases)))
    return measures


def _other_callers() -> list[Measure]:
    levels = [Measure((Case("ours", 3, "set", "asyncio", n),)) for n in LEVELS]
    return [*levels, *(Measure((Case("ours", 3, "get", "asyncio", n, read_path="lease"),)) for n in (1, 100))]


def _open_loops(have: Have, members: int, size: int, work: str) -> list[Measure]:
    measures = []
    for path in OPEN_PATHS[work]:
        cases = [Case("ours", members, work, "stream", 0, size, OPEN, path)]
        if have.etcd and have.go and path != "read_index":  # its one path stands beside our lease
            cases.append(Case("etcd", members, work, "go", 0, size, OPEN, "read_index" if path else ""))
        measures.append(Measure(tuple(cases)))
    return measures


def _unary() -> list[Measure]:
    alone = Measure((Case("grpcio", 1, "echo", "stream", 1),))
    return [Measure((Case("ours", 3, "set", "unary", 64), Case("grpcio", 1, "echo", "unary", 64))), alone]
