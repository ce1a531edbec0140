"""From rounds to rows: one row for everything that was measured of one system in one way.

The rounds of a case (A B B A gives two) are pooled: throughput is all operations over all the time, and percentiles are
those of all latencies together. Nothing is left out: no best of, no trimming.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from benchmarks.work import PUTS_IN_TRANSACTION

Row = dict[str, Any]

CLOSED: Final = "closed"
OPEN: Final = "open"

CDF_SHARES: Final = (*(share / 100 for share in range(0, 99)), 0.99, 0.995, 0.999, 0.9999, 1.0)
"""At which shares of all operations a row keeps the latency, for the plots."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured; equal cases are pooled."""

    system: str
    members: int
    work: str
    api: str
    in_flight: int
    value_bytes: int = 100
    mode: str = CLOSED
    read_path: str = ""
    """Of reads: "lease" or "read_index"."""

    def __str__(self) -> str:
        path = {"": "", "lease": " under the lease", "read_index": " by ReadIndex"}[self.read_path]
        load = f"{self.in_flight} in flight" if self.mode == CLOSED else "open loop"
        return f"{self.work}{path}, {self.value_bytes} B, {load}: {self.system} ({self.api}), {self.members} members"


@dataclass(frozen=True, slots=True)
class Round:
    """What one run of a load generator came to."""

    case: Case
    seconds: float
    latencies_ms: Sequence[float]
    """Of what was answered in that time; of an open loop: of what was to begin in it, infinite if never answered. A
    transaction counts once."""
    count: int
    """Of all operations that were begun, those before and after that time too."""
    errors: int = 0
    first_error: str = ""
    rate: float = 0.0
    """Of an open loop: offered operations a second."""
    cpu_s: dict[str, float] = field(default_factory=dict)
    """By process, in that time."""
    flushes: int | None = None
    """Of the disk, in that time."""
    entries: int | None = None
    """Of the log, for all operations."""
    syncs: int | None = None
    """The same: how often the leader made its log durable."""
    answered: int | None = None
    """In that time, whenever they began; None: as many as there are latencies. A transaction counts once."""

    @property
    def operations(self) -> int:
        """Answered in that time; each write of a transaction counts."""
        answered = len(self.latencies_ms) if self.answered is None else self.answered
        return answered * _weight(self.case)


def _weight(case: Case) -> int:
    return PUTS_IN_TRANSACTION if case.work == "set_txn64" else 1


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank); 0 if there are none."""
    if not ordered:
        return 0.0
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def pool(rounds: Iterable[Round]) -> list[Row]:
    """A row for each case, in the order in which they first appear."""
    by_case: dict[Case, list[Round]] = {}
    for one in rounds:
        by_case.setdefault(one.case, []).append(one)
    return [_row(case, of_case) for case, of_case in by_case.items()]


def _throughput(rounds: Sequence[Round]) -> float:
    """Operations a second, over all of the rounds."""
    seconds = sum(r.seconds for r in rounds)
    return sum(r.operations for r in rounds) / seconds if seconds else 0.0


def _row(case: Case, rounds: Sequence[Round]) -> Row:
    operations = sum(r.operations for r in rounds)
    ordered = sorted(latency for r in rounds for latency in r.latencies_ms)
    row: Row = {
        **asdict(case),
        "ops_per_s": round(_throughput(rounds), 1),
        **{f"p{name}_ms": _ms(percentile(ordered, share)) for name, share in _SHARES.items()},
        "max_ms": _ms(percentile(ordered, 1.0)),
        "rounds_ops_per_s": [round(_throughput([r]), 1) for r in rounds],
        "errors": sum(r.errors for r in rounds),
        "cpu_us_per_op": _cpu(rounds, operations),
        **_batches(rounds, operations),
        "cdf_ms": [_ms(percentile(ordered, share)) for share in CDF_SHARES],
    }
    if case.mode == OPEN:
        row["offered_ops_per_s"] = round(sum(r.rate for r in rounds) / len(rounds), 1)
    if first := next((r.first_error for r in rounds if r.first_error), ""):
        row["first_error"] = first
    return row


def _ms(latency: float) -> float | None:
    """As rows have it. None: never answered, for JSON knows nothing infinite."""
    return round(latency, 4) if math.isfinite(latency) else None


def best_twin(rounds: Iterable[Round], opened: Case) -> Case | None:
    """The closed loop of the same work that has come to the most operations a second; None: there is none."""
    same = ("system", "members", "work", "api", "value_bytes", "read_path")
    twins: dict[Case, list[Round]] = {}
    for one in rounds:
        if one.case.mode == CLOSED and all(getattr(one.case, name) == getattr(opened, name) for name in same):
            twins.setdefault(one.case, []).append(one)
    return max(twins, key=lambda case: _throughput(twins[case]), default=None)


_SHARES: Final = {"50": 0.5, "99": 0.99, "999": 0.999}


def _cpu(rounds: Sequence[Round], operations: int) -> dict[str, float]:
    """Microseconds of processor time for an operation, by process."""
    parts = list(dict.fromkeys(part for r in rounds for part in r.cpu_s))
    spent = {part: sum(r.cpu_s.get(part, 0.0) for r in rounds) for part in parts}
    return {part: round(seconds * 1e6 / operations, 1) for part, seconds in spent.items()} if operations else {}


def _batches(rounds: Sequence[Round], operations: int) -> Row:
    """How much went into an entry of the log, and into one sync of the disk. None: nobody counted."""
    begun = sum(r.count * _weight(r.case) for r in rounds)
    entries = _total([r.entries for r in rounds])
    syncs = _total([r.syncs for r in rounds])
    flushes = _total([r.flushes for r in rounds])
    return {
        "ops_per_entry": round(begun / entries, 2) if entries else None,
        "entries_per_batch": round(entries / syncs, 2) if entries and syncs else None,
        "fsyncs_per_op": round(syncs / begun, 5) if syncs is not None and begun else None,
        "disk_flushes_per_op": round(flushes / operations, 5) if flushes is not None and operations else None,
    }


def _total(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(count for count in counts if count is not None)


def find(rows: Iterable[Row], **wanted: object) -> Row | None:
    """The first row that has these entries. An unnamed mode is the closed loop; an unnamed read_path is any."""
    wanted = {"mode": CLOSED, **wanted}
    return next((row for row in rows if all(row.get(name) == entry for name, entry in wanted.items())), None)
