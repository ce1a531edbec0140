"""The picture of a violation: that it is well-formed, and that what a person has to see is in it."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.linearizability.checker import check
from tests.linearizability.generated import Shape, correct
from tests.linearizability.history import Kind, Operation, Outcome
from tests.linearizability.timeline import draw

STALE_READ = [
    Operation("writer", Kind.SET, b"k", 0.0, 1.0, Outcome.OK, b"1"),
    Operation("writer", Kind.SET, b"k", 2.0, 3.0, Outcome.OK, b"2"),
    Operation("lost", Kind.SET, b"k", 2.5, 2.7, Outcome.UNKNOWN, b"3", note="timeout"),
    Operation("reader", Kind.GET, b"k", 4.0, 5.0, Outcome.OK, result=b"1"),
]


def pictures(history: list[Operation]) -> list[tuple[ET.Element, ET.Element]]:
    """The names and the timeline of each picture."""
    page = draw(check(history).violations)
    svgs = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    return list(zip(svgs[::2], svgs[1::2], strict=True))


def texts(element: ET.Element, path: str = ".//text") -> list[str]:
    return [text.text or "" for text in element.findall(path)]


def test_it_shows_clients_operations_values_and_the_impossible_one() -> None:
    [(names, timeline)] = pictures(STALE_READ)
    assert texts(names) == ["value", "lost", "reader", "writer"]
    assert texts(timeline, "./g[@class='write']/text") == ['set "1"', 'set "2"']
    assert texts(timeline, "./g[@class='unknown']/text") == ['set "3" ->…']
    assert texts(timeline, "./g[@class='culprit']/text") == ['get -> "1"']
    assert texts(timeline, "./g[@class='held']/text") == ['"1"', '"2"']
    assert len(timeline.findall(".//circle")) == 2
    assert any("timeout" in title for title in texts(timeline, ".//title"))


def test_bars_in_one_row_do_not_overlap_even_if_a_client_has_two_operations_at_once() -> None:
    rng = random.Random(1)
    history = correct(rng, Shape(operations=60, clients=3, unknown=0.3, values=0))
    history += [replace(op, key=b"k0", invoked_at=op.invoked_at + 100, returned_at=105.0) for op in STALE_READ]
    history[-1] = replace(history[-1], invoked_at=106.0, returned_at=107.0, result=b"of nobody")
    [(_, timeline)] = pictures(history)
    spans: dict[str, list[tuple[float, float]]] = {}
    for rect in timeline.findall(".//rect"):
        x, y, width = (rect.attrib[name] for name in ("x", "y", "width"))
        spans.setdefault(y, []).append((float(x), float(x) + float(width)))
    assert len(spans) > 4
    for row in spans.values():
        row.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(row))


def test_every_dot_is_within_its_bar_or_after_the_client_gave_up() -> None:
    [(_, timeline)] = pictures(STALE_READ)
    for group in timeline.findall("./g"):
        rect, circle = group.find("rect"), group.find("circle")
        if rect is not None and circle is not None:
            x, left = float(circle.attrib["cx"]), float(rect.attrib["x"])
            assert left < x
            assert x < left + float(rect.attrib["width"]) or group.attrib["class"] == "unknown"


def test_of_a_long_history_the_end_is_drawn() -> None:
    history = correct(random.Random(1), Shape(operations=2000, clients=4, values=0))
    history.append(Operation("r", Kind.GET, b"k0", 1e6, 1e6 + 1, Outcome.OK, result=b"of nobody"))
    page = draw(check(history).violations)
    assert 80 <= page.count("<title>invoked") + page.count("<title>c") <= 140
    assert re.search(r"1,\d\d\d earlier operations are not drawn", page)


@pytest.mark.parametrize("value", [b"<script>", b"&amp;", b'"', b"\xff\x00", "\u2603".encode()])
def test_nothing_that_clients_wrote_can_spoil_the_page(value: bytes) -> None:
    history = [
        Operation("<b>", Kind.SET, value, 0.0, 1.0, Outcome.OK, value),
        Operation("<b>", Kind.GET, value, 2.0, 3.0, Outcome.OK, result=None, note="</svg>"),
    ]
    page = draw(check(history).violations)
    assert page.count("<script>") == 1
    assert page.count("</svg>") == 2
    assert pictures(history)
