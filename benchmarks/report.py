"""The run for people: tables in text and in Markdown, and the verdicts on the bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.bars import judge
from benchmarks.rows import OPEN, Row

BEGIN: Final = "<!-- latest run: written by scripts/bench.py -->"
END: Final = "<!-- end of the latest run -->"

_PATHS: Final = {"": "", "lease": ", lease", "read_index": ", ReadIndex"}
_HEAD: Final = (
    *(
        "work",
        "value",
        "members",
        "in flight",
        "system",
        "ops/s",
        "rounds",
        "p50 ms",
        "p99 ms",
        "CPU us/op",
        "ops/entry",
    ),
    *("entries/fsync", "fsyncs/op", "flushes/op"),
)
_RIGHT: Final = {1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13}
"""Columns of figures."""


@dataclass(slots=True)
class Run:
    """All that there is to tell."""

    command: str
    machine: str
    versions: str
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    rows: list[Row] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)
    """Paths of pictures, as the Markdown names them."""


# ---- the measured rows -----------------------------------------------------------------------------------------------


def measured(rows: Iterable[Row]) -> list[Row]:
    """The rows that come of rounds."""
    return [row for row in rows if row["rounds_ops_per_s"] != [0.0] or row["errors"]]


def cells(row: Row) -> list[str]:
    """One row's words, as in _HEAD."""
    load = f"open, {row['offered_ops_per_s']:,.0f}/s" if row["mode"] == OPEN else f"{row['in_flight']:,}"
    cpu = row["cpu_us_per_op"]
    followers = [used for part, used in cpu.items() if part.startswith("follower")]
    parts = [cpu.get("client"), cpu.get("leader"), max(followers, default=None)]
    broken = " (!)" if row["errors"] else ""
    return [
        row["work"] + _PATHS[row["read_path"]],
        f"{row['value_bytes']} B",
        str(row["members"]),
        load,
        f"{row['system']} ({row['api']})",
        f"{row['ops_per_s']:,.0f}{broken}",
        " ".join(f"{rate:,.0f}" for rate in row["rounds_ops_per_s"]),
        _ms(row["p50_ms"]),
        _ms(row["p99_ms"]),
        " + ".join(f"{used:.0f}" for used in parts if used is not None) or "-",
        _figure(row["ops_per_entry"], ".1f"),
        _figure(row["entries_per_batch"], ".1f"),
        _figure(row["fsyncs_per_op"], ".4f"),
        _figure(row["disk_flushes_per_op"], ".4f"),
    ]


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "never"
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:.0f}"


def _figure(figure: float | None, form: str) -> str:
    return "-" if figure is None else format(figure, form)


def progress(row: Row) -> str:
    """A round in a few words."""
    said = f"{row['ops_per_s']:,.0f}/s, p50 {_ms(row['p50_ms'])} ms, p99 {_ms(row['p99_ms'])} ms"
    return said + (f", {row['errors']} errors: {row.get('first_error', '')}" if row["errors"] else "")


# ---- sentences -------------------------------------------------------------------------------------------------------


def singles(rows: Iterable[Row]) -> list[str]:
    """A line for each thing that is measured once."""
    lines = []
    for row in rows:
        if row["work"].startswith("replay"):
            log = f"a log of {row['writes']:,} writes in {row['entries']:,} entries, without a snapshot"
            lines.append(f"start of a node on {log}: {row['seconds']:.2f} s, {row['ops_per_s']:,.0f} writes/s")
        elif row["work"] == "memory":
            used = ", ".join(f"{part} {mb:.0f} MB" for part, mb in row["mb"].items())
            lines.append(f"memory with {row['keys']:,} keys of 16 B with values of 100 B: {used}")
        elif row["work"] == "kill -9 of all":
            lost = "all there" if not row["missing"] else f"{row['missing']:,} MISSING"
            who = f"{row['system']}, {row['members']} members"
            lines.append(f"kill -9 of all members, {who}: {row['acknowledged']:,} acknowledged writes, {lost}")
    return lines


def troubles(rows: Iterable[Row]) -> list[str]:
    """A line for each row with errors."""
    return [
        f"{row['work']}, {row['in_flight']} in flight, {row['system']} ({row['api']}), {row['members']} members: "
        f"{row['errors']} errors, the first: {row.get('first_error', '')}"
        for row in rows
        if row["errors"]
    ]


# ---- text ------------------------------------------------------------------------------------------------------------


def text(run: Run) -> str:
    """For the terminal."""
    lines = [run.machine, run.versions, "", *_aligned([list(_HEAD), *map(cells, measured(run.rows))], _RIGHT), ""]
    verdicts = [[v.word, v.bar.name, v.bound_in_words, v.figure_in_words] for v in judge(run.rows)]
    lines += [*_aligned([["", "bar", "bound", "figure"], *verdicts], {2, 3}), ""]
    lines += [*singles(run.rows), *troubles(run.rows), *run.notes]
    return "\n".join([*lines, f"{run.seconds / 60:.1f} minutes"])


def _aligned(table: Sequence[Sequence[str]], right: set[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


# ---- Markdown --------------------------------------------------------------------------------------------------------


def markdown(run: Run) -> str:
    """The section for docs/performance.md, between its marks."""
    verdicts = [[v.bar.name, v.bound_in_words, v.figure_in_words, _emphasis(v.word)] for v in judge(run.rows)]
    parts = [
        BEGIN,
        f"    {run.command}\n\n{run.machine}. {run.versions}. The run took {run.seconds / 60:.1f} minutes.",
        _table(["bar", "bound", "figure", ""], verdicts, {1, 2}),
        "\n".join(f"* {line}" for line in [*singles(run.rows), *troubles(run.rows), *run.notes]),
        _table(list(_HEAD), [cells(row) for row in measured(run.rows)], _RIGHT),
        *(f"![{Path(path).stem.replace('-', ' ')}]({path})" for path in run.plots),
        END,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _emphasis(word: str) -> str:
    return f"**{word}**" if word == "NOT met" else word


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], right: set[int]) -> str:
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


def put_into(path: Path, section: str) -> None:
    """Write the section to a file; where the file has the marks already, in place of what is between them."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END + "\n")
    path.write_text(before + section + after if begin and end else section, encoding="utf-8")
