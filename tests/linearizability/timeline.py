"""A violation as a picture: theory of operation.

One HTML page without anything from elsewhere. Each operation is a bar from its invocation to its return, a row for each
client (more, where a client's operations overlap). A dot on a bar is the moment at which the operation can have taken
effect; the row on top shows what the key held then. The bar without a moment that fits is red.

Time runs to the right, but not to scale: every invocation, return and dot has a column of its own, so that all can be
told apart, and the times stand below. Of a long history only the end is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

from tests.linearizability.history import Kind, Operation, Outcome, shown
from tests.linearizability.verdict import Violation

_LAST_LINEARIZED: Final = 80
_LAST_INVOKED: Final = 40
"""How many operations are drawn: the last ones of the order, the last ones of all, and the culprit."""

# Pixels.
_COLUMN: Final = 42
_ROW: Final = 30
_BAR: Final = 20
_MARGIN: Final = 12
_CHARACTER: Final = 6.7

_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
h1 { font-size: 1.4em } h2 { font-size: 1.15em; margin-top: 2em }
code, pre, text { font-family: ui-monospace, Menlo, Consolas, monospace } pre { font-size: 12px; overflow-x: auto }
.picture { display: flex; border: 1px solid #ccc; width: fit-content; max-width: 100% }
.names { flex: none; border-right: 1px solid #ccc; background: #fafafa } .timeline { overflow-x: auto }
svg { display: block } text { font-size: 11px; fill: #222; dominant-baseline: central }
rect { rx: 3px; stroke-width: 1px } line { stroke: #ddd }
.read rect { fill: #d9efd9; stroke: #2e7d32 } .write rect { fill: #d6e4fb; stroke: #1e5bb8 }
.unknown rect { fill: #fff3cd; stroke: #a37500; stroke-dasharray: 4 3 }
.unknown line { stroke: #a37500; stroke-dasharray: 2 3 }
.culprit rect { fill: #ffd4d4; stroke: #c00000; stroke-width: 2.5px } .culprit text { font-weight: bold }
.held rect { fill: #eee; stroke: #fff } .time { fill: #777 } circle { fill: #222 } line.effect { stroke: #999 }
.legend span { padding: 0 .5em; margin-right: .6em; border: 1px solid; border-radius: 3px }
"""

_LEGEND: Final = """<p class="legend">
<span style="background: #d6e4fb; border-color: #1e5bb8">write</span>
<span style="background: #d9efd9; border-color: #2e7d32">read</span>
<span style="background: #fff3cd; border: 1px dashed #a37500">outcome unknown, or under way: may take effect at any time
after its beginning, or never</span>
<span style="background: #ffd4d4; border-color: #c00000">impossible</span>
&#9679; a moment at which it can have taken effect</p>"""


def draw(violations: Sequence[Violation]) -> str:
    """An HTML page that shows each of the violations."""
    body = "\n".join(_section(violation) for violation in violations)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Not linearizable</title>'
        f"<style>{_STYLE}</style>\n<h1>Not linearizable</h1>\n{_LEGEND}\n{body}\n"
        "<script>for (const t of document.querySelectorAll('.timeline')) t.scrollLeft = t.scrollWidth</script></html>\n"
    )


def _section(violation: Violation) -> str:
    picture = _Picture(violation)
    hidden = len(violation.prefix) - len(picture.bars)
    left_out = f" {hidden:,} earlier operations are not drawn." if hidden else ""
    return (
        f"<h2>Key <code>{escape(shown(violation.key))}</code></h2>\n"
        f"<p>{_sentence(violation)} Everything before that return fits together as drawn.{left_out}</p>\n"
        f'<div class="picture">{picture.names_svg()}<div class="timeline">{picture.timeline_svg()}</div></div>\n'
        f"<details><summary>The last operations as text</summary><pre>{escape(str(violation))}</pre></details>"
    )


def _sentence(violation: Violation) -> str:
    parts = violation.explanation.split("`")
    return "".join(f"<code>{escape(p)}</code>" if i % 2 else escape(p) for i, p in enumerate(parts)) + "."


@dataclass(slots=True)
class _Bar:
    """An operation in the picture. Columns count from 0."""

    operation: Operation
    start: int = 0
    end: int | None = None
    """None: not within the picture."""
    dot: int | None = None
    row: int = 0

    @property
    def is_write(self) -> bool:
        """Whether the dot stands for a write."""
        return self.operation.kind is not Kind.GET and self.operation.result is not False


class _Picture:
    """Where everything is. The columns are given out from left to right, then the rows from top to bottom."""

    def __init__(self, violation: Violation) -> None:
        self._culprit = violation.culprit
        prefix = set(violation.prefix)
        # In the linearization an operation under way stands for the culprit.
        order = [op if op in prefix else violation.culprit for op in violation.linearization]
        drawn = {*order[-_LAST_LINEARIZED:], *violation.prefix[-_LAST_INVOKED:], violation.culprit}
        self.bars = [_Bar(op) for op in violation.prefix if op in drawn]
        self._columns = 0
        self._times: list[tuple[int, float]] = []  # column, seconds since the history's beginning
        self._held: list[tuple[int, str]] = []  # from that column on
        self._give_columns(order, violation.prefix[0].invoked_at)
        self._row_names: list[str] = []
        self._give_rows()

    def _give_columns(self, order: Sequence[Operation], beginning: float) -> None:
        bars = {bar.operation: bar for bar in self.bars}
        value: bytes | None = None
        dots: list[tuple[_Bar, str]] = []
        for op in order:
            value = _after(op, value)
            if op in bars:
                dots.append((bars[op], shown(value)))
            else:
                self._held = [(0, shown(value))]
        dotted = {bar.operation for bar, _ in dots}
        begun: set[Operation] = set()
        for time, is_end, bar in _events(self.bars):
            self._times.append((self._columns, time - beginning))
            if is_end:
                bar.end = self._next_column()
                continue
            bar.start = self._next_column()
            if bar.operation not in dotted:
                self._next_column()  # room for its name
            begun.add(bar.operation)
            while dots and dots[0][0].operation in begun:  # as early as possible
                next_bar, text = dots.pop(0)
                next_bar.dot = self._next_column()
                if next_bar.is_write:
                    self._held.append((next_bar.dot, text))

    def _next_column(self) -> int:
        self._columns += 1
        return self._columns - 1

    def _give_rows(self) -> None:
        """A row for each client, and as many more as it has operations at the same time."""
        for client in sorted({bar.operation.client for bar in self.bars}, key=lambda name: (len(name), name)):
            free_from: list[int] = []
            for bar in self.bars:
                if bar.operation.client == client:
                    row = next((i for i, column in enumerate(free_from) if column <= bar.start), len(free_from))
                    free_from[row : row + 1] = [self._reach(bar)]
                    bar.row = len(self._row_names) + row
            self._row_names += [client] + [""] * (len(free_from) - 1)

    def _reach(self, bar: _Bar) -> int:
        """The first column to the right of all that is drawn of the bar."""
        end = self._columns if bar.end is None else bar.end
        return max(end, bar.dot or 0) + 1

    def names_svg(self) -> str:
        """The names of the rows, which stay where they are when the picture is scrolled."""
        width = 2 * _MARGIN + _CHARACTER * max(map(len, [*self._row_names, "value"]))
        texts = [f'<text x="{_MARGIN}" y="{_y(-1)}">value</text>']
        texts += [
            f'<text x="{_MARGIN}" y="{_y(row)}">{escape(name)}</text>' for row, name in enumerate(self._row_names)
        ]
        return f'<svg class="names" width="{width:.0f}" height="{self._height}">{"".join(texts)}</svg>'

    def timeline_svg(self) -> str:
        """Bars, dots, what the key held, and the times."""
        parts = [*self._grid(), *self._values(), *map(self._bar, self.bars)]
        return f'<svg width="{_x(self._columns) + _MARGIN}" height="{self._height}">\n{chr(10).join(parts)}\n</svg>'

    @property
    def _height(self) -> int:
        return _y(len(self._row_names)) + _ROW

    def _grid(self) -> Iterator[str]:
        for row in range(len(self._row_names)):
            yield f'<line x1="0" y1="{_y(row)}" x2="{_x(self._columns)}" y2="{_y(row)}"/>'
        next_free = 0
        for column, time in self._times:
            if column >= next_free:
                text = f"{time:.6f}"
                yield f'<text class="time" x="{_x(column)}" y="{_y(len(self._row_names))}">{text}</text>'
                next_free = column + 2 + int(len(text) * _CHARACTER / _COLUMN)

    def _values(self) -> Iterator[str]:
        for (column, text), (until, _) in pairwise([*self._held, (self._columns, "")]):
            yield f'<g class="held">{_box(column, until, -1, text, f"the key holds {text}")}</g>'

    def _bar(self, bar: _Bar) -> str:
        op = bar.operation
        parts = []
        end = self._columns if bar.end is None else bar.end
        y = _y(bar.row)
        if bar.dot is not None and bar.dot > end:
            parts.append(f'<line x1="{_x(end)}" y1="{y}" x2="{_x(bar.dot)}" y2="{y}"/>')
        parts.append(_box(bar.start, end, bar.row, f"{op.kind.value} {op.summary}", _tooltip(op)))
        if bar.dot is not None:
            x = _x(bar.dot)
            if bar.is_write:
                parts.append(f'<line class="effect" x1="{x}" y1="{_y(-1) + _BAR // 2}" x2="{x}" y2="{y}"/>')
            parts.append(f'<circle cx="{x}" cy="{y + _BAR // 2}" r="4"/>')
        return f'<g class="{self._class(op)}">{"".join(parts)}</g>'

    def _class(self, op: Operation) -> str:
        if op == self._culprit:
            return "culprit"
        if op.outcome is Outcome.UNKNOWN:
            return "unknown"
        return "read" if op.kind is Kind.GET else "write"


def _events(bars: Sequence[_Bar]) -> list[tuple[float, bool, _Bar]]:
    """All invocations and returns, in the order of time; at equal times the invocations first."""
    starts = [(bar.operation.invoked_at, False, bar) for bar in bars]
    ends = [(bar.operation.returned_at, True, bar) for bar in bars if bar.operation.returned_at is not None]
    return sorted([*starts, *ends], key=lambda event: event[:2])


def _after(op: Operation, value: bytes | None) -> bytes | None:
    """What a key that holds `value` holds after `op`."""
    match op.kind:
        case Kind.GET:
            return value
        case Kind.SET:
            return op.value
        case Kind.DELETE:
            return None
        case Kind.SET_IF_ABSENT:
            return op.value if value is None else value
        case Kind.COMPARE_AND_SET:
            return op.value if value == op.expected else value


def _tooltip(op: Operation) -> str:
    end = {Outcome.OK: "returned", Outcome.UNKNOWN: "given up", Outcome.NOT_APPLIED: "refused"}[op.outcome]
    times = f"invoked at {op.invoked_at:.6f}" + ("" if op.returned_at is None else f", {end} at {op.returned_at:.6f}")
    return "\n".join(filter(None, [str(op), times, op.note]))


def _box(start: int, end: int, row: int, text: str, tooltip: str) -> str:
    """A rectangle from column to column with as much of the text as there is room for."""
    width = max(_x(end) - _x(start), 6)
    room = int((width - 8) / _CHARACTER)
    cut = text if len(text) <= room else text[: max(0, room - 1)] + "\u2026" * (room > 0)
    return (
        f'<rect x="{_x(start)}" y="{_y(row) - _BAR // 2}" width="{width}" height="{_BAR}">'
        f"<title>{escape(tooltip)}</title></rect>"
        f'<text x="{_x(start) + 4}" y="{_y(row)}" pointer-events="none">{escape(cut)}</text>'
    )


def _x(column: int) -> int:
    return _MARGIN + column * _COLUMN


def _y(row: int) -> int:
    """The middle of a row; row -1 is the value's."""
    return _MARGIN + (row + 1) * _ROW + _ROW // 2
