"""What is measured, of which systems, in which order.

A *measure* compares cases: its rounds go A B B A (with three: A B C C B A), so that a machine that slows down or speeds
up in the meantime does so for all of them alike. A *phase* is a list of measures and the clusters that run during it:
those that are not being measured stand by, for their start would cost more than their idling does.

Reads come first and transactions last: large writes leave etcd's reads slower for as long as it runs, and what is
measured of it is to be its best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from benchmarks.rows import OPEN, Case

Side = TypeVar("Side")

LEVELS: Final = (1, 10, 100, 1000)
MAX_OPS: Final = {1: 20_000, 10: 80_000, 100: 300_000, 1000: 700_000}
"""The most operations of a round, by how many are in flight: a bound for keys, log and memory, seldom met."""
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


def max_ops(case: Case, seconds: float) -> int:
    """The most operations of a round."""
    most = MAX_OPS[min(level for level in (*LEVELS, 10**9) if level >= case.in_flight)] if case.mode != OPEN else 10**6
    return max(1000, int(most * min(1.0, seconds / 2)))


# ---- the plans -------------------------------------------------------------------------------------------------------


def quick(have: Have, seconds: float = 1.0, fill: int = 1_000_000) -> Plan:
    """3 members and values of 100 bytes: what the bars need, in a few minutes."""
    measures = [
        *_reads(have, 3, (1, 100), "lease"),
        *_writes(have, 3, 100, LEVELS),
        *_open_loops(have, 3, ("set",)),
        *_unary(),
        *_transactions(have, 3, 100),
    ]
    return Plan((_phase(have, measures),), seconds, fill)


def full(have: Have, seconds: float = 2.0, fill: int = 1_000_000) -> Plan:
    """Everything, in less than half an hour."""
    three = [
        *_reads(have, 3, LEVELS, "lease"),
        *_reads(have, 3, LEVELS, "read_index"),
        *_mix(have, 3, LEVELS),
        *_python_callers(have, 3, (10, 100)),
        *_other_callers(),
        *_writes(have, 3, 100, LEVELS),
        *_writes(have, 3, 1024, LEVELS),
        *_open_loops(have, 3, ("get", "mix", "set")),
        *_unary(),
        *_transactions(have, 3, 100),
    ]
    five = [
        *_reads(have, 5, (1, 100, 1000), "lease"),
        *_mix(have, 5, (100, 1000)),
        *_writes(have, 5, 100, LEVELS, with_three=True),
        *_transactions(have, 5, 100),
    ]
    return Plan((_phase(have, three), _phase(have, five)), seconds, fill)


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
        if have.pysyncobj and size == 100 and members == 3:
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


def _reads(have: Have, members: int, levels: Sequence[int], path: str) -> list[Measure]:
    """etcd has ReadIndex only (its serializable reads may be stale, and are left out)."""
    measures = []
    for n in levels:
        cases = [Case("ours", members, "get", "stream", n, read_path=path)]
        if have.etcd and have.go:
            cases.append(Case("etcd", members, "get", "go", n, read_path="read_index"))
        if have.etcd and n == 1 and path == "lease":
            cases.append(Case("etcd", members, "get", "python", n, read_path="read_index"))
        measures.append(Measure(tuple(cases)))
    return measures


def _mix(have: Have, members: int, levels: Sequence[int]) -> list[Measure]:
    measures = []
    for n in levels:
        cases = [Case("ours", members, "mix", "stream", n, read_path="lease")]
        if have.etcd and have.go:
            cases.append(Case("etcd", members, "mix", "go", n, read_path="read_index"))
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


def _open_loops(have: Have, members: int, works: Sequence[str]) -> list[Measure]:
    measures = []
    for work in works:
        ours_path, etcd_path = ("", "") if work == "set" else ("lease", "read_index")
        cases = [Case("ours", members, work, "stream", 0, mode=OPEN, read_path=ours_path)]
        if have.etcd and have.go:
            cases.append(Case("etcd", members, work, "go", 0, mode=OPEN, read_path=etcd_path))
        measures.append(Measure(tuple(cases)))
    return measures


def _unary() -> list[Measure]:
    alone = Measure((Case("grpcio", 1, "echo", "stream", 1),))
    return [Measure((Case("ours", 3, "set", "unary", 64), Case("grpcio", 1, "echo", "unary", 64))), alone]
