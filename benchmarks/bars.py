"""The bars: what the figures of one run are held to. Ratios within the run, so that the machine matters little.

3 members and values of 100 bytes unless a bar says otherwise. A figure that is missing (etcd is not installed, or the
run was cut short) makes a bar "not measured", never "met".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.rows import OPEN, Row, find

Rows = Sequence[Row]
Figure = Callable[[Rows], "float | None"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and its bound."""

    name: str
    bound: float
    at_most: bool
    unit: str
    figure: Figure

    def judge(self, rows: Rows) -> Verdict:
        figure = self.figure(rows)
        is_met = None if figure is None else (figure <= self.bound if self.at_most else figure >= self.bound)
        return Verdict(self, figure, is_met)


@dataclass(frozen=True, slots=True)
class Verdict:
    bar: Bar
    figure: float | None
    is_met: bool | None
    """None: not measured."""

    @property
    def word(self) -> str:
        return {True: "met", False: "NOT met", None: "not measured"}[self.is_met]

    @property
    def bound_in_words(self) -> str:
        return f"{'<=' if self.bar.at_most else '>='} {_amount(self.bar.bound, self.bar.unit)}"

    @property
    def figure_in_words(self) -> str:
        return "-" if self.figure is None else _amount(self.figure, self.bar.unit)


def _amount(figure: float, unit: str) -> str:
    text = f"{figure:,.0f}" if figure >= 1000 else f"{figure:.4g}" if figure == int(figure) else f"{figure:.2f}"
    return text + (unit if unit == "x" else f" {unit}")


def _row(rows: Rows, system: str, work: str, api: str, in_flight: int, **more: object) -> Row | None:
    wanted = {"members": 3, "value_bytes": 100, **more}
    return find(rows, system=system, work=work, api=api, in_flight=in_flight, **wanted)


def _ratio(above: Row | None, below: Row | None, name: str) -> float | None:
    """Of the two rows' figures of this name."""
    if above is None or below is None or not above[name] or not below[name]:
        return None
    return float(above[name]) / float(below[name])


def _writes(in_flight: int, rows: Rows) -> float | None:
    ours, theirs = _row(rows, "ours", "set", "stream", in_flight), _row(rows, "etcd", "set", "go", in_flight)
    return _ratio(ours, theirs, "ops_per_s")


def _transactions(rows: Rows) -> float | None:
    """etcd's best, whatever number of transactions was in flight for it."""
    theirs = [r for r in rows if (r["system"], r["work"], r.get("members"), r["value_bytes"]) == (*_TXN, 3, 100)]
    best = max(theirs, key=lambda row: float(row["ops_per_s"]), default=None)
    return _ratio(_row(rows, "ours", "set", "stream", 1000), best, "ops_per_s")


_MILLION: Final = 1_000_000
_TXN: Final = ("etcd", "set_txn64")


def _one_write(api: str, rows: Rows) -> float | None:
    return _ratio(_row(rows, "ours", "set", "stream", 1), _row(rows, "etcd", "set", api, 1), "p50_ms")


def _lease_reads(rows: Rows) -> float | None:
    ours = _row(rows, "ours", "get", "stream", 100, read_path="lease")
    return _ratio(ours, _row(rows, "etcd", "get", "go", 100), "ops_per_s")


def _one_read(rows: Rows) -> float | None:
    ours = _row(rows, "ours", "get", "stream", 1, read_path="lease")
    return _ratio(ours, _row(rows, "etcd", "get", "go", 1), "p50_ms")


def _unary(rows: Rows) -> float | None:
    echo = _row(rows, "grpcio", "echo", "unary", 64, members=1)
    return _ratio(_row(rows, "ours", "set", "unary", 64), echo, "ops_per_s")


def _five_members(rows: Rows) -> float | None:
    five = _row(rows, "ours", "set", "stream", 1000, members=5)
    return _ratio(five, _row(rows, "ours", "set", "stream", 1000), "ops_per_s")


def _at_half_the_peak(rows: Rows) -> float | None:
    row = find(rows, system="ours", members=3, work="set", api="stream", value_bytes=100, mode=OPEN)
    if row is None or row["p99_ms"] == 0:
        return None
    # A loop that could not begin all of its operations, or has waited for some in vain, shows what it does not know.
    return math.inf if row["errors"] or row["p99_ms"] is None else float(row["p99_ms"])


def _replay(rows: Rows) -> float | None:
    row = find(rows, system="ours", work="replay")
    return None if row is None or row["writes"] < _MILLION else float(row["ops_per_s"])


def _memory(rows: Rows) -> float | None:
    row = find(rows, system="ours", work="memory")
    return None if row is None or row["keys"] < _MILLION else float(row["mb_per_node"])


BARS: Final = (
    Bar("writes, 1000 in flight, against etcd with 1000 Go clients", 6, False, "x", partial(_writes, 1000)),
    Bar("the same against etcd's transactions of 64 puts", 3, False, "x", _transactions),
    Bar("writes, 100 in flight, against etcd", 4, False, "x", partial(_writes, 100)),
    Bar("writes, 10 in flight, against etcd", 1.6, False, "x", partial(_writes, 10)),
    Bar("one write, p50, against a Python user of etcd", 0.9, True, "x", partial(_one_write, "python")),
    Bar("one write, p50, against etcd's Go client", 1.3, True, "x", partial(_one_write, "go")),
    Bar("lease reads, 100 in flight, against etcd's reads", 3, False, "x", _lease_reads),
    Bar("one read, p50, against etcd's Go client", 1.2, True, "x", _one_read),
    Bar("unary ServeClient with 64 callers, against a bare grpcio echo with 64 callers", 0.5, False, "x", _unary),
    Bar("writes with 5 members, against 3 members", 0.6, False, "x", _five_members),
    Bar("writes at half the peak, open loop, p99", 10, True, "ms", _at_half_the_peak),
    Bar("start on a log of a million writes", 300_000, False, "writes/s", _replay),
    Bar("memory of a node with a million keys", 450, True, "MB", _memory),
)


def judge(rows: Rows) -> list[Verdict]:
    return [bar.judge(rows) for bar in BARS]
