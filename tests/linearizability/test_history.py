"""Recording, keeping and showing histories."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest

from tests.linearizability.history import BadHistory, Kind, Operation, Outcome, Recorder, dump, load

EVERY_SORT = [
    Operation("a", Kind.GET, b"k", 0.0, 1.0, Outcome.OK, result=None),
    Operation("a", Kind.GET, b"k", 0.1, 1.0, Outcome.OK, result=b"", note="node 3"),
    Operation("a", Kind.GET, b"\xff", 0.1, 1.0, Outcome.OK, result="grün".encode() + b"\xfe"),
    Operation("a", Kind.SET, b"", 0.1 + 0.2, 5e300, Outcome.NOT_APPLIED, value=b"v"),
    Operation("b", Kind.DELETE, b"k", 2.0, 3.0, Outcome.OK, result=False),
    Operation("b", Kind.COMPARE_AND_SET, b"k", 2.0, 3.0, Outcome.OK, b"new", b"old", True),
    Operation("b", Kind.SET_IF_ABSENT, b"k", 2.0, None, Outcome.UNKNOWN, value=b"line\nbreak"),
    Operation("b", Kind.SET_IF_ABSENT, b"k", 2.0, 9.0, Outcome.UNKNOWN, note='"timeout"'),
]


def test_a_recorder_writes_down_what_was_asked_and_what_was_answered() -> None:
    times = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    recorder = Recorder(clock=lambda: next(times))
    first = recorder.invoke("a", Kind.COMPARE_AND_SET, b"k", b"new", expected=b"old")
    second = recorder.invoke("b", Kind.SET, b"k", b"v")
    second.unknown("timeout")
    first.returned(True)
    recorder.invoke("b", Kind.GET, b"k")
    assert recorder.history() == [
        Operation("a", Kind.COMPARE_AND_SET, b"k", 1.0, 4.0, Outcome.OK, b"new", b"old", True),
        Operation("b", Kind.SET, b"k", 2.0, 3.0, Outcome.UNKNOWN, b"v", note="timeout"),
        Operation("b", Kind.GET, b"k", 5.0),
    ]


def test_the_order_of_events_is_kept_while_the_clock_stands_still() -> None:
    recorder = Recorder(clock=lambda: 7.0)
    for _ in range(3):
        recorder.invoke("a", Kind.SET, b"k", b"v").returned()
    times = [time for op in recorder.history() for time in (op.invoked_at, op.took_effect_by)]
    assert times == sorted(set(times))
    assert times[0] == 7.0
    assert times[-1] == pytest.approx(7.0)


def test_the_order_of_events_is_kept_when_the_clock_jumps_back() -> None:
    times = iter([5.0, 1.0])
    recorder = Recorder(clock=lambda: next(times))
    recorder.invoke("a", Kind.SET, b"k", b"v").not_applied()
    [operation] = recorder.history()
    assert operation.invoked_at < operation.took_effect_by


def test_a_call_ends_once() -> None:
    call = Recorder().invoke("a", Kind.SET, b"k", b"v")
    call.returned()
    with pytest.raises(AssertionError, match="ended twice"):
        call.unknown()


def test_many_threads_may_record_at_once() -> None:
    recorder = Recorder()

    def work(name: str) -> None:
        for i in range(200):
            recorder.invoke(name, Kind.SET, b"k", b"%d" % i).returned()

    threads = [threading.Thread(target=work, args=(f"c{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = recorder.history()
    assert len(history) == 1600
    times = {time for op in history for time in (op.invoked_at, op.returned_at)}
    assert len(times) == 3200
    for client in {op.client for op in history}:
        mine = [op for op in history if op.client == client]
        assert [op.value for op in mine] == [b"%d" % i for i in range(200)]
        assert all(a.took_effect_by < b.invoked_at for a, b in pairwise(mine))


def test_what_was_written_to_a_file_is_read_from_it(tmp_path: Path) -> None:
    dump(EVERY_SORT, tmp_path / "history.jsonl")
    assert load(tmp_path / "history.jsonl") == EVERY_SORT
    assert len((tmp_path / "history.jsonl").read_bytes().splitlines()) == len(EVERY_SORT)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "not json",
        "[1, 2]",
        '{"client": "a", "kind": "get"}',
        '{"client": "a", "kind": "jump", "key": "k", "invoked_at": 1, "returned_at": 2, "outcome": "ok"}',
        '{"client": "a", "kind": "del", "key": "k", "invoked_at": 1, "returned_at": 2, "outcome": "ok", "result": "x"}',
        '{"client": "a", "kind": "set", "key": "k", "invoked_at": 2, "returned_at": 1, "outcome": "ok"}',
        '{"client": "a", "kind": "set", "key": "k", "invoked_at": 2, "returned_at": null, "outcome": "ok"}',
        "\udcff",
    ],
)
def test_a_line_that_is_no_operation_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    dump(EVERY_SORT[:1], path)
    with path.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(BadHistory, match=r"history.jsonl, line 2: not an operation"):
        load(path)


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (EVERY_SORT[0], 'a get "k" -> nothing'),
        (EVERY_SORT[2], r'a get "\xff" -> "grün\xfe"'),
        (EVERY_SORT[3], 'a set "" "v" -> not applied'),
        (EVERY_SORT[4], 'b del "k" -> not done'),
        (EVERY_SORT[5], 'b cas "k" "old" "new" -> done'),
        (EVERY_SORT[6], 'b setnx "k" "line\nbreak" -> ?'),
        (Operation("b", Kind.SET, b"k", 1.0, 2.0, Outcome.OK, b"v"), 'b set "k" "v"'),
    ],
)
def test_an_operation_is_shown_in_one_line(operation: Operation, text: str) -> None:
    assert str(operation) == text.replace("\n", r"\n")
