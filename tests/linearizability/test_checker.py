"""The checker against examples that a person can judge, against the definition, and against the clock."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.linearizability import brute_force
from tests.linearizability.checker import check, main
from tests.linearizability.generated import Shape, correct, with_a_lie, with_any_answers
from tests.linearizability.history import Kind, Operation, Outcome, dump
from tests.linearizability.verdict import Violation


def op(
    client: str,
    interval: tuple[float, float],
    kind: Kind,
    *arguments: bytes,
    result: bytes | bool | None = None,
    outcome: Outcome = Outcome.OK,
    key: bytes = b"x",
) -> Operation:
    start, end = interval
    *expected, value = arguments or (b"",)
    return Operation(
        client, kind, key, start, None if end == math.inf else end, outcome, value, b"".join(expected), result
    )


def read(client: str, interval: tuple[float, float], result: bytes | None, key: bytes = b"x") -> Operation:
    return op(client, interval, Kind.GET, result=result, key=key)


def write(client: str, interval: tuple[float, float], value: bytes, key: bytes = b"x") -> Operation:
    return op(client, interval, Kind.SET, value, key=key)


def lost(client: str, since: float, kind: Kind, *arguments: bytes, gave_up: float = math.inf) -> Operation:
    return op(client, (since, gave_up), kind, *arguments, outcome=Outcome.UNKNOWN)


GOOD = {
    "nothing at all": [],
    "a read of what was written before": [write("a", (0, 1), b"1"), read("b", (2, 3), b"1")],
    "a read during a write sees the new value": [write("a", (0, 3), b"1"), read("b", (1, 2), b"1")],
    "a read during a write sees the old value": [write("a", (0, 3), b"1"), read("b", (1, 2), None)],
    "two writes at once, read in an order that neither clock gives": [
        write("a", (0, 10), b"1"),
        write("b", (1, 9), b"2"),
        read("c", (2, 3), b"2"),
        read("c", (4, 5), b"1"),
    ],
    "a lost write that came late": [
        lost("a", 0, Kind.SET, b"1", gave_up=1),
        read("b", (2, 3), None),
        read("b", (4, 5), b"1"),
    ],
    "a lost write that never came": [lost("a", 0, Kind.SET, b"1"), read("b", (2, 3), None)],
    "a lost delete that came between two reads": [
        write("a", (0, 1), b"1"),
        lost("a", 2, Kind.DELETE),
        read("b", (3, 4), b"1"),
        read("b", (5, 6), None),
    ],
    "a lost compare-and-set on top of a lost write": [
        lost("a", 0, Kind.SET, b"1"),
        lost("b", 1, Kind.COMPARE_AND_SET, b"1", b"2"),
        read("c", (2, 3), b"2"),
    ],
    "a lost write that only a delete noticed": [
        lost("a", 0, Kind.SET, b"1"),
        op("b", (1, 2), Kind.DELETE, result=True),
        op("b", (3, 4), Kind.DELETE, result=False),
    ],
    "a lost delete that is needed later, though it could have made room before": [
        write("a", (0, 2), b"1"),
        op("b", (1, 4), Kind.SET_IF_ABSENT, b"1", result=True),
        lost("c", 3, Kind.DELETE),
        read("a", (5, 6), None),
    ],
    "a refused write that nobody saw": [
        op("a", (0, 1), Kind.SET, b"1", outcome=Outcome.NOT_APPLIED),
        read("b", (2, 3), None),
    ],
    "a lost read, which says nothing": [write("a", (0, 1), b"1"), lost("b", 2, Kind.GET)],
    "set-if-absent, won by one of two": [
        op("a", (0, 3), Kind.SET_IF_ABSENT, b"1", result=False),
        op("b", (1, 2), Kind.SET_IF_ABSENT, b"2", result=True),
        read("a", (4, 5), b"2"),
    ],
    "compare-and-set, done and refused": [
        write("a", (0, 1), b"1"),
        op("a", (2, 3), Kind.COMPARE_AND_SET, b"1", b"2", result=True),
        op("a", (4, 5), Kind.COMPARE_AND_SET, b"1", b"3", result=False),
        read("a", (6, 7), b"2"),
    ],
    "compare-and-set of a missing key with an empty value": [
        op("a", (0, 1), Kind.COMPARE_AND_SET, b"", b"1", result=False),
        write("a", (2, 3), b""),
        op("a", (4, 5), Kind.COMPARE_AND_SET, b"", b"1", result=True),
    ],
    "an end and a beginning at the same time, taken for concurrent": [
        write("a", (0, 1), b"1"),
        read("b", (1, 2), None),
    ],
}

BAD = {
    "a stale read": [write("a", (0, 1), b"1"), write("a", (2, 3), b"2"), read("b", (4, 5), b"1")],
    "an acknowledged write that is gone": [write("a", (0, 1), b"1"), read("b", (2, 3), None)],
    "a value from nowhere": [write("a", (0, 1), b"1"), read("b", (2, 3), b"7")],
    "a read before the write began": [read("b", (0, 1), b"1"), write("a", (2, 3), b"1")],
    "two reads that turn a write back": [
        write("a", (0, 10), b"1"),
        read("b", (1, 2), b"1"),
        read("c", (3, 4), None),
    ],
    "a lost write seen, then unseen": [
        lost("a", 0, Kind.SET, b"1"),
        read("b", (2, 3), b"1"),
        read("b", (4, 5), None),
    ],
    "a lost write that came twice": [
        lost("a", 0, Kind.SET, b"1"),
        read("b", (1, 2), b"1"),
        write("b", (3, 4), b"2"),
        read("b", (5, 6), b"1"),
    ],
    "a lost write seen before it began": [read("b", (0, 1), b"1"), lost("a", 2, Kind.SET, b"1")],
    "a refused write that was seen": [
        op("a", (0, 1), Kind.SET, b"1", outcome=Outcome.NOT_APPLIED),
        read("b", (2, 3), b"1"),
    ],
    "set-if-absent, won twice": [
        op("a", (0, 1), Kind.SET_IF_ABSENT, b"1", result=True),
        op("b", (2, 3), Kind.SET_IF_ABSENT, b"2", result=True),
    ],
    "a delete of nothing that found something": [
        op("a", (0, 1), Kind.DELETE, result=True),
        lost("b", 2, Kind.SET, b"1"),
    ],
    "compare-and-set, done twice": [
        write("a", (0, 1), b"1"),
        op("a", (2, 5), Kind.COMPARE_AND_SET, b"1", b"2", result=True),
        op("b", (2, 5), Kind.COMPARE_AND_SET, b"1", b"3", result=True),
    ],
    "a retry applied twice": [
        write("a", (0, 1), b"1"),
        op("a", (2, 3), Kind.DELETE, result=True),
        op("b", (4, 5), Kind.SET_IF_ABSENT, b"2", result=True),
        read("b", (6, 7), None),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_it_accepts(name: str) -> None:
    assert brute_force.is_linearizable(GOOD[name])
    assert check(GOOD[name]).linearizable


@pytest.mark.parametrize("name", BAD)
def test_it_refuses(name: str) -> None:
    assert not brute_force.is_linearizable(BAD[name])
    verdict = check(BAD[name])
    assert not verdict.linearizable
    assert len(verdict.violations) == 1
    assert_explained(verdict.violations[0], BAD[name])


def assert_explained(violation: Violation, history: Sequence[Operation]) -> None:
    """All that a violation says must be so by the definition too. `history` is that of the violation's key."""
    prefix, culprit, order = violation.prefix, violation.culprit, violation.linearization
    assert culprit.took_effect_by == brute_force.impossible_from(history)
    assert not brute_force.is_linearizable(prefix)
    assert all(op.invoked_at <= culprit.took_effect_by for op in prefix)
    others = [op for op in prefix if op is not culprit]
    assert len(others) == len(prefix) - 1
    # The order has every answer in it but the culprit's, keeps to the clock, and gives these answers.
    assert {op for op in others if op.outcome is Outcome.OK} <= set(order)
    assert not any(later.took_effect_by < earlier.invoked_at for earlier, later in itertools.combinations(order, 2))
    store: dict[bytes, bytes] = {}
    for op in order:
        answer = brute_force.carry_out(op, store)
        assert op.outcome is Outcome.UNKNOWN or answer == op.result
    values = {None, *(op.value for op in history), *(op.expected for op in history)}
    assert violation.all_tried
    assert set(violation.possible) == {
        value
        for value in values
        if brute_force.is_linearizable([*others, replace(culprit, kind=Kind.GET, result=value)])
    }


@pytest.mark.parametrize("history", [*GOOD.values(), *BAD.values()])
def test_operations_on_other_keys_make_no_difference(history: Sequence[Operation]) -> None:
    elsewhere = [replace(op, key=b"y") for op in GOOD["two writes at once, read in an order that neither clock gives"]]
    verdict = check([*history, *elsewhere])
    assert verdict.linearizable == check(history).linearizable
    assert all(violation.key == b"x" for violation in verdict.violations)


def small_history(seed: int) -> list[Operation]:
    rng = random.Random(seed)
    shape = Shape(
        operations=rng.randrange(1, 9),
        clients=rng.choice([2, 3, 8]),
        keys=rng.choice([1, 1, 1, 2]),
        values=rng.choice([1, 2, 3]),
        unknown=rng.choice([0, 0.2, 0.5]),
        not_applied=0.05,
    )
    history = correct(rng, shape)
    history = rng.choice([history, with_a_lie(rng, history, shape), with_any_answers(rng, history, shape)])
    rng.shuffle(history)
    return history


@pytest.mark.parametrize(
    "seeds", [pytest.param(range(i, i + 500), id=f"seeds{i}-{i + 499}") for i in range(0, 4000, 500)]
)
def test_it_judges_as_the_definition_does(seeds: range) -> None:
    verdicts = []
    for seed in seeds:
        history = small_history(seed)
        verdict = check(history)
        replay = f"seed {seed}; replay: python -m pytest tests/linearizability -k 'seeds{seeds[0]}-{seeds[-1]}'"
        assert verdict.linearizable == brute_force.is_linearizable(history), replay
        for violation in verdict.violations:
            assert_explained(violation, [op for op in history if op.key == violation.key])
        verdicts.append(verdict.linearizable)
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.8, "one verdict is hardly tested"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("unknown", [0, 0.1])
def test_it_accepts_long_histories_of_a_correct_store(seed: int, unknown: float) -> None:
    rng = random.Random(seed)
    shape = Shape(operations=400, clients=8, keys=2, values=rng.choice([0, 3]), unknown=unknown)
    history = correct(rng, shape)
    assert check(history).linearizable, f"seed {seed}"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("unknown", [0, 0.1])
def test_it_finds_the_one_read_in_a_long_history_that_saw_a_value_from_long_ago(seed: int, unknown: float) -> None:
    rng = random.Random(seed)
    history = correct(rng, Shape(operations=400, clients=8, keys=2, values=0, unknown=unknown, writes=0.5))
    reads = [i for i, op in enumerate(history) if op.kind is Kind.GET and op.outcome is Outcome.OK]
    i = rng.choice(reads[len(reads) // 2 :])
    old = next(op for op in history if op.kind is Kind.SET and op.outcome is Outcome.OK and op.key == history[i].key)
    history[i] = replace(history[i], result=old.value)
    [violation] = check(history).violations
    assert violation.culprit == history[i], f"seed {seed}"


TARGET_SECONDS = 10.0
"""Of this process's own time, so that a busy machine makes no difference."""

LARGE = Shape(operations=20_000, clients=16, keys=10, values=0, unknown=0.02, writes=0.5)


def test_20_000_operations_on_10_keys_by_16_clients_take_less_than_10_seconds() -> None:
    history = correct(random.Random(1), LARGE)
    started = time.process_time()
    assert check(history).linearizable
    assert time.process_time() - started < TARGET_SECONDS


def test_so_do_they_with_a_violation() -> None:
    history = correct(random.Random(1), LARGE)
    i = max(i for i, op in enumerate(history) if op.kind is Kind.GET and op.result is not None)
    history[i] = replace(history[i], result=b"of nobody")
    started = time.process_time()
    [violation] = check(history).violations
    assert time.process_time() - started < TARGET_SECONDS
    assert violation.culprit == history[i]


def test_many_lost_writes_do_not_make_it_slow() -> None:
    """Each doubles the number of sets of operations that may have happened by a given moment."""
    lost_writes = [lost(f"c{i}", i, Kind.SET, b"%d" % (i % 20)) for i in range(200)]
    reads = [read("r", (1000 + i, 1000.5 + i), b"%d" % (i % 20)) for i in range(200)]
    verdict = check([*lost_writes, *reads])
    assert verdict.linearizable
    assert verdict.configurations < 1000
    verdict = check([*lost_writes, *reads, read("r", (2000, 2001), b"7"), read("r", (2002, 2003), b"8")])
    assert not verdict.linearizable


def test_a_search_that_is_given_up_is_no_success() -> None:
    history = correct(random.Random(1), Shape(operations=50))
    verdict = check(history, max_configurations=10)
    assert not verdict.linearizable
    assert list(verdict.undecided) == [b"k0"]
    assert "UNDECIDED" in str(verdict)


def test_a_violation_is_reported_beside_a_search_that_is_given_up() -> None:
    history = correct(random.Random(1), Shape(operations=50))
    verdict = check([*BAD["a stale read"], *history], max_configurations=10)
    assert [violation.key for violation in verdict.violations] == [b"x"]
    assert list(verdict.undecided) == [b"k0"]


def test_the_text_of_a_violation_shows_the_impossible_operation_and_what_it_can_have_found() -> None:
    text = str(check(BAD["a stale read"]))
    assert 'key "x" is not linearizable: `b get "x" -> "1"`, but it can only have found "2"' in text
    assert text.splitlines()[-1].endswith('b get "x" -> "1"  <-- impossible')


def test_of_many_values_that_were_possible_the_text_shows_some() -> None:
    history = [*(lost(f"c{i}", i, Kind.SET, b"%d" % i) for i in range(20)), read("r", (30, 31), b"x")]
    [violation] = check(history).violations
    assert not violation.all_tried
    assert violation.possible[:2] == [None, b"19"]
    assert 'but it can have found, among others, nothing or "19" or "18"' in str(violation)


class TestCommand:
    def test_it_says_that_a_history_is_linearizable(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        dump(GOOD["a read of what was written before"], tmp_path / "history.jsonl")
        assert main([str(tmp_path / "history.jsonl")]) == 0
        assert capsys.readouterr().out.startswith("linearizable: 2 operations on 1 keys\n")

    def test_it_tells_and_draws_a_violation(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        dump(BAD["a stale read"], tmp_path / "history.jsonl")
        assert main([str(tmp_path / "history.jsonl"), "--html", str(tmp_path / "picture.html")]) == 1
        assert "NOT LINEARIZABLE" in capsys.readouterr().out
        assert "<svg" in (tmp_path / "picture.html").read_text(encoding="utf-8")

    @pytest.mark.parametrize("content", ["garbage\n", '{"client": "a"}\n', "[]\n", None])
    def test_what_is_no_history_is_refused_in_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
    ) -> None:
        path = tmp_path / "history.jsonl"
        if content is not None:
            path.write_text(content, encoding="utf-8")
        assert main([str(path)]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert str(path) in error
