"""The pictures: latency against throughput, and how latencies are distributed. SVG, made with matplotlib if that is
installed (`pip install '.[bench]'`); without it there are none, and everything else is as with it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import CDF_SHARES, CLOSED, OPEN, Row

_LOOKS = {
    ("ours", "stream"): ("#1b6ca8", "o"),
    ("ours", "asyncio"): ("#5dade2", "s"),
    ("ours", "threads"): ("#a9cce3", "^"),
    ("etcd", "go"): ("#c0392b", "o"),
    ("etcd", "python"): ("#e59866", "^"),
    ("pysyncobj", "callback"): ("#1e8449", "o"),
    ("pysyncobj-journal", "callback"): ("#7dcea0", "s"),
}


_TAILS = (1.0, 0.5, 0.1, 0.01, 0.001, 0.0001)
"""Shares that are left, at which the axis of the distribution has its marks."""


def are_possible() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Write the pictures; where they are."""
    import matplotlib

    matplotlib.use("svg")
    # The same rows give the same bytes, so that a run again changes only what has changed.
    matplotlib.rcParams.update({"svg.hashsalt": "raftkv", "font.size": 9, "axes.grid": True, "grid.color": "#dddddd"})
    directory.mkdir(parents=True, exist_ok=True)
    shown = [row for row in rows if row["members"] == 3 and row["value_bytes"] == 100 and row["ops_per_s"]]
    pictures = {"latency-against-throughput": _against_throughput, "latency-distribution": _distribution}
    paths = []
    for name, draw_it in pictures.items():
        path = directory / f"{name}.svg"
        figure = draw_it(shown)
        figure.savefig(path, metadata={"Date": None})
        paths.append(path)
    return paths


def _axes(titles: Sequence[str]) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(titles), 4.2), layout="constrained")
    axes = [figure.add_subplot(1, len(titles), i) for i in range(1, len(titles) + 1)]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
    return figure, axes


def _against_throughput(rows: Sequence[Row]) -> Any:
    """For writes, reads and the mix: a line for each system and interface, a point for each number in flight."""
    works = {"set": "writes", "get": "reads", "mix": "half writes, half reads"}
    figure, axes = _axes(list(works.values()))
    for ax, work in zip(axes, works, strict=True):
        lines: dict[tuple[str, str, str], list[Row]] = {}
        for row in rows:
            if row["work"] == work and row["mode"] == CLOSED and row["api"] != "unary":
                lines.setdefault((row["system"], row["api"], row["read_path"]), []).append(row)
        for (system, api, path), points in lines.items():
            colour, marker = _LOOKS.get((system, api), ("#555555", "x"))
            points.sort(key=lambda row: int(row["in_flight"]))
            rates, p50 = [row["ops_per_s"] for row in points], [row["p50_ms"] for row in points]
            dash = "--" if system == "ours" and path == "read_index" else "-"
            label = f"{system} ({api}){', ReadIndex' if path == 'read_index' else ''}"
            ax.plot(rates, p50, dash, color=colour, marker=marker, label=label)
            for row in points:
                ax.annotate(str(row["in_flight"]), (row["ops_per_s"], row["p50_ms"]), fontsize=6)
        ax.set(xscale="log", yscale="log", xlabel="operations a second", ylabel="p50, ms (with the number in flight)")
        if lines:
            ax.legend(fontsize=7)
    return figure


def _distribution(rows: Sequence[Row]) -> Any:
    """Of writes: what share is answered within so long (CDF), for one in flight, for 1000, and at half of each one's
    peak. The axis is stretched at its end, where the slowest ones are."""
    kinds: dict[str, Callable[[Row], bool]] = {
        "one in flight": lambda row: row["in_flight"] == 1 and row["mode"] == CLOSED,
        "1000 in flight": lambda row: row["in_flight"] == 1000 and row["mode"] == CLOSED,
        "half the peak, open loop": lambda row: row["mode"] == OPEN,
    }
    figure, axes = _axes([f"writes, {title}" for title in kinds])
    for ax, belongs in zip(axes, kinds.values(), strict=True):
        for row in rows:
            if row["work"] == "set" and belongs(row):
                colour, _ = _LOOKS.get((row["system"], row["api"]), ("#555555", ""))
                rest = [1 - share for share in CDF_SHARES[:-1]]
                ax.plot(row["cdf_ms"][:-1], rest, color=colour, label=f"{row['system']} ({row['api']})")
        ax.set(xscale="log", yscale="log", xlabel="ms", ylabel="share of operations answered within")
        ax.set_yticks(_TAILS, [f"{1 - tail:.4%}".rstrip("0%").rstrip(".") + " %" for tail in _TAILS])
        ax.invert_yaxis()
        if ax.lines:
            ax.legend(fontsize=7)
    return figure
