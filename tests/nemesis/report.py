"""What a run was, for people: figures in text, and a plot of throughput and latency with the faults marked (SVG)."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from tests.linearizability.history import Kind, Operation, Outcome

EACH_WITHIN: Final = 240.0
"""Seconds in which each kind of fault must happen at least once, on average: five times in twenty minutes. On a busy
machine it was three times as often."""


@dataclass(frozen=True, slots=True)
class Deed:
    """A fault that was done. Times in seconds, of the history's clock."""

    lane: str
    fault: str
    began: float
    ended: float


def answered(history: Iterable[Operation]) -> list[Operation]:
    return [operation for operation in history if operation.outcome is Outcome.OK]


# ---- text ------------------------------------------------------------------------------------------------------------


def faults_in_text(deeds: Sequence[Deed]) -> list[str]:
    """A line for each kind of fault: how often, and for how long altogether."""
    count = Counter(deed.fault for deed in deeds)
    seconds = dict.fromkeys(count, 0.0)
    for deed in deeds:
        seconds[deed.fault] += deed.ended - deed.began
    return [f"{count[fault]:5}  {fault:<40} {seconds[fault]:7.1f} s" for fault in sorted(count)]


def too_seldom(deeds: Sequence[Deed], kinds: Collection[str], seconds: float) -> list[str]:
    """A line for each kind of fault that a run of this length should have done more often: a green run must mean that
    each of them has been survived."""
    count, least = Counter(deed.fault for deed in deeds), int(seconds / EACH_WITHIN)
    return [f"too seldom: {kind}, {count[kind]} of {least} times" for kind in sorted(kinds) if count[kind] < least]


def hardly_answered(history: Sequence[Operation]) -> list[str]:
    """A line for each kind of client (`reader-1` and `reader-2` are of one) of whose many calls hardly any was
    answered: whatever such clients do has not been tried."""
    calls = Counter(_kind_of(operation.client) for operation in history)
    answers = Counter(_kind_of(operation.client) for operation in answered(history))
    return [
        f"hardly answered: {kind}, {answers[kind]} of {count} calls"
        for kind, count in sorted(calls.items())
        if count >= 100 and answers[kind] < count / 100
    ]


def _kind_of(client: str) -> str:
    return client.rpartition("-")[0] or client


def operations_in_text(history: Sequence[Operation]) -> list[str]:
    """A line for each kind of operation: how many there were with each outcome."""
    count = Counter((operation.kind, operation.outcome) for operation in history)
    lines = [f"{'':8}" + "".join(f"{outcome.value:>14}" for outcome in Outcome)]
    for kind in Kind:
        lines.append(f"{kind.value:8}" + "".join(f"{count[kind, outcome]:14}" for outcome in Outcome))
    return lines


def pace_in_text(history: Sequence[Operation], began: float, ended: float) -> list[str]:
    """How fast the cluster was, and how long it stood still."""
    latencies = sorted(_latency(op) for op in answered(history))
    writes = sorted(
        op.returned_at for op in answered(history) if op.kind is not Kind.GET and op.returned_at is not None
    )
    moments = [began, *(moment for moment in writes if began <= moment <= ended), ended]
    longest = max(later - earlier for earlier, later in itertools.pairwise(moments))
    if not latencies:
        return ["nothing was answered"]
    shares = [latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000 for share in (0.5, 0.99)]
    return [
        f"{len(latencies) / (ended - began):.0f} answers a second; latency {shares[0]:.1f} ms (median), "
        f"{shares[1]:.0f} ms (99%)",
        f"longest time without an acknowledged write: {longest:.1f} s",
    ]


def _latency(operation: Operation) -> float:
    assert operation.returned_at is not None
    return operation.returned_at - operation.invoked_at


# ---- the plot --------------------------------------------------------------------------------------------------------

_WIDTH: Final = 1300
_LEFT: Final = 220
_RIGHT: Final = 20
_CHART: Final = 170
_ROW: Final = 15
_COLOURS: Final = ("#1b6ca8", "#c0392b", "#b9770e", "#1e8449", "#6c3483", "#5d6d7e")
_STYLE: Final = """
text { font: 12px sans-serif; fill: #222 } .title { font-size: 15px; font-weight: bold } .small { font-size: 10px }
.axis { stroke: #999 } .grid { stroke: #ddd } .p50 { fill: none; stroke: #1b6ca8; stroke-width: 1.4 }
.p99 { fill: none; stroke: #c0392b; stroke-width: 1 } .rate { fill: #1b6ca8; opacity: 0.75 }
.failed { fill: #c0392b; opacity: 0.75 }
"""


class Plot:
    """Throughput above, latency below it, and below both a row for each kind of fault; all over the same time."""

    def __init__(self, history: Sequence[Operation], deeds: Sequence[Deed], began: float, ended: float) -> None:
        self._deeds = deeds
        self._began = began
        self._step = max(1.0, (ended - began) / 400)
        self._columns = max(1, math.ceil((ended - began) / self._step))
        self._scale = (_WIDTH - _LEFT - _RIGHT) / (self._columns * self._step)
        self._latencies: list[list[float]] = [[] for _ in range(self._columns)]
        self._unknown = [0] * self._columns
        for operation in history:
            self._sort_in(operation)
        self._parts: list[str] = []

    def _sort_in(self, operation: Operation) -> None:
        if operation.returned_at is None:
            return
        column = int((operation.returned_at - self._began) / self._step)
        if 0 <= column < self._columns:
            if operation.outcome is Outcome.OK:
                self._latencies[column].append(_latency(operation))
            elif operation.outcome is Outcome.UNKNOWN:
                self._unknown[column] += 1

    def svg(self, title: str) -> str:
        """The whole picture."""
        faults = sorted({(deed.lane, deed.fault) for deed in self._deeds})
        rate_top, latency_top, faults_top = 60, 60 + _CHART + 40, 60 + 2 * (_CHART + 40)
        height = faults_top + _ROW * len(faults) + 50
        self._text(_LEFT, 24, title, "title")
        self._bands(faults, rate_top, faults_top)
        self._throughput(rate_top)
        self._latency_chart(latency_top)
        self._time_axis(faults_top + _ROW * len(faults) + 14)
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        head += (
            f'viewBox="0 0 {_WIDTH} {height}"><style>{_STYLE}</style><rect width="100%" height="100%" fill="white"/>'
        )
        return head + "\n".join(self._parts) + "</svg>\n"

    def _x(self, seconds: float) -> float:
        return _LEFT + seconds * self._scale

    def _text(self, x: float, y: float, text: str, kind: str = "small", anchor: str = "start") -> None:
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>')

    def _line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def _box(self, x: float, y: float, width: float, height: float, look: str) -> None:
        box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        self._parts.append(f"<rect {box} {look}/>")

    def _bands(self, faults: Sequence[tuple[str, str]], top: float, rows_top: float) -> None:
        """A row for each fault, and its shadow on the charts."""
        rows = {fault: rows_top + _ROW * number for number, (_, fault) in enumerate(faults)}
        lanes = sorted({lane for lane, _ in faults})
        for deed in self._deeds:
            x, width = self._x(deed.began - self._began), max(1.0, (deed.ended - deed.began) * self._scale)
            colour = _COLOURS[lanes.index(deed.lane) + 1]
            self._box(x, top, width, rows_top - top - 10, f'fill="{colour}" opacity="0.07"')
            self._box(x, rows[deed.fault], width, _ROW - 5, f'fill="{colour}" opacity="0.8"')
        for fault, y in rows.items():
            self._line(_LEFT, y + _ROW - 3, _WIDTH - _RIGHT, y + _ROW - 3, "grid")
            self._text(_LEFT - 6, y + _ROW - 6, fault, anchor="end")

    def _throughput(self, top: float) -> None:
        rates = [len(latencies) / self._step for latencies in self._latencies]
        most = max(*rates, 1.0)
        self._text(_LEFT, top - 8, "answers a second (blue), outcomes unknown a second (red)")
        for share in (0, 0.5, 1):
            y = top + _CHART * (1 - share)
            self._line(_LEFT, y, _WIDTH - _RIGHT, y, "grid")
            self._text(_LEFT - 6, y + 4, f"{most * share:.0f}", anchor="end")
        width = self._step * self._scale
        for column, rate in enumerate(rates):
            tall = _CHART * rate / most
            self._box(self._x(column * self._step), top + _CHART - tall, width, tall, 'class="rate"')
            tall = _CHART * min(1.0, self._unknown[column] / self._step / most)
            if tall:
                self._box(self._x(column * self._step), top, width, tall, 'class="failed"')

    def _latency_chart(self, top: float) -> None:
        """From 0.1 ms to 10 s, a decade each a fifth."""
        self._text(_LEFT, top - 8, "latency of what was answered: median (blue), 99% (red)")
        for decade, label in enumerate(("10 s", "1 s", "100 ms", "10 ms", "1 ms", "0.1 ms")):
            y = top + _CHART * decade / 5
            self._line(_LEFT, y, _WIDTH - _RIGHT, y, "grid")
            self._text(_LEFT - 6, y + 4, label, anchor="end")
        for share, kind in ((0.99, "p99"), (0.5, "p50")):
            points: list[str] = []
            for column, latencies in enumerate(self._latencies):
                if latencies:
                    value = sorted(latencies)[min(int(len(latencies) * share), len(latencies) - 1)]
                    height = (math.log10(max(value, 1e-4)) + 4) / 5
                    x, y = self._x((column + 0.5) * self._step), top + _CHART * (1 - min(height, 1.0))
                    points.append(f"{'L' if points and self._latencies[column - 1] else 'M'}{x:.1f} {y:.1f}")
            self._parts.append(f'<path d="{" ".join(points) or "M0 0"}" class="{kind}"/>')

    def _time_axis(self, y: float) -> None:
        total = self._columns * self._step
        tick = next((t for t in (1, 2, 5, 10, 30, 60, 120, 300, 600) if total / t <= 20), 1800)
        for second in range(0, int(total) + 1, tick):
            self._text(self._x(second), y, f"{second} s" if total < 600 else f"{second / 60:g} min", anchor="middle")
