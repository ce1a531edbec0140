"""What a number of runs have done, in a form that a person can read: theory of operation.

A green run means something only if it has done something. So everything that happens is counted in tables, the tables
of all runs are added up, and what should have happened in so many runs and never did is a failure in itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.simulation.calls import IN_TURN, READ_INDEX, WITHOUT_TURN
from tests.simulation.disk import Boundary
from tests.simulation.plan import Fault
from tests.simulation.simulation import Report

ENOUGH_SEEDS = 1_000
"""From so many runs on every kind of fault must have happened."""

_TABLES = (
    "elections",
    "transfers",
    "crashes",
    "crashes at",
    "faults",
    "storage",
    "membership",
    "reads",
    "client outcomes",
    "clients",
    "messages",
    "snapshots sent",
)
EXPECTED: dict[str, tuple[str, ...]] = {
    "crashes at": tuple(boundary.value for boundary in Boundary),
    "faults": tuple(fault.value for fault in Fault),
    "crashes": ("process", "power lost", "power lost after a process that left data unsynced"),
    "storage": (
        "truncations",
        "torn tails cut",
        "snapshots adopted",
        "snapshots adopted, of a log that begins later than with entry 1",
        "saves that failed",
        "backups",
        "restarts from a snapshot",
        "snapshots installed",
    ),
    "snapshots sent": (
        "begun",
        "answered",
        "not wanted",
        "gone on with where another had stopped",
        "begun while another was being installed",
        "put off, as there are too many",
        "broken off by the network",
        "broken off by the follower",
        "given up, as nothing came",
        "given up, as the term was over",
        "refused, as the chunks do not follow each other",
        "refused, as the disk failed",
        "thrown away, as it had become superfluous",
    ),
    "transfers": (
        "done",
        "given up",
        "somebody else leads",
        "refused: it does not lead",
        "refused: it still waits for an earlier leader's lease to run out",
        "refused: it has only just been elected",
        "refused: leadership is being handed over to node N already",
        "refused: no other voter answers",
        "refused: node N does not answer",
        "refused: node N is not a voting member",
        "refused: node N leads already",
    ),
    "membership": (
        *("changes committed", "promotions", "adds: done", "removes: done", "moves: done", "wiped disks"),
        "removals of the leader asked for",
    ),
    "reads": (WITHOUT_TURN, IN_TURN, READ_INDEX),
    "client outcomes": ("no space",),
}
"""Rows that are shown even if there is nothing to count, and must not be 0 in the end."""


@dataclass(slots=True)
class Summary:
    runs: int = 0
    events: int = 0
    virtual_seconds: float = 0.0
    cpu_seconds: float = 0.0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Take in what a run has done."""
        self.runs += 1
        self.events += report.events
        self.virtual_seconds += report.seconds
        self.cpu_seconds += report.cpu_seconds
        self.counts += report.counts
        if report.violation:
            self.violations.append(report)

    def missing(self) -> list[str]:
        """What has never happened, though it should have in so many runs."""
        if self.runs < ENOUGH_SEEDS:
            return []
        return [f"{table}: {row}" for table, rows in EXPECTED.items() for row in rows if not self.counts[table, row]]

    @property
    def is_well(self) -> bool:
        return not self.violations and not self.missing()

    def lines(self) -> Iterator[str]:
        """The summary, without anything that depends on the machine."""
        yield f"{self.runs:,} seeds, {self.events:,} events, {self.virtual_seconds / 3600:.2f} virtual hours"
        for table in _TABLES:
            rows = {row: times for (name, row), times in sorted(self.counts.items()) if name == table}
            rows = {**dict.fromkeys(EXPECTED.get(table, ()), 0), **rows}
            if rows:
                yield ""
                yield table
            for row, times in rows.items():
                yield f"    {times:>13,}  {row}"
        yield ""
        yield from self._verdict()

    def _verdict(self) -> Iterator[str]:
        for report in sorted(self.violations, key=lambda report: report.seed):
            yield f"VIOLATION in seed {report.seed}: {report.violation}"
            yield f"    replay with: {replay_command(report.seed)}"
        for what in self.missing():
            yield f"NEVER HAPPENED: {what}"
        yield "all is well" if self.is_well else "NOT WELL"


def replay_command(seed: int) -> str:
    """What prints the trace of a seed."""
    return f"scripts/simulate.py --seed {seed}"


def summarize(reports: Iterable[Report]) -> Summary:
    """All of them in one."""
    summary = Summary()
    for report in reports:
        summary.add(report)
    return summary
