"""Is a history linearizable? Theory of operation.

A history is linearizable if one moment can be chosen for each operation, between its invocation and its return, so
that the operations, carried out one after the other at these moments, give the answers that the clients got (Herlihy
and Wing). Operations on different keys do not affect one another, so a history is linearizable exactly if the
operations on each key are ("P-compositionality": Horn and Kroening; Porcupine does the same).

For one key there is `Search`.

A violation is shown by the shortest prefix of the key's history that can't be linearized: the history up to a return
at which it becomes impossible, all operations under way at that moment taken for unknown. Every shorter prefix can be
linearized, so the prefix is found by bisection.

    python -m tests.linearizability.checker HISTORY.jsonl [--html PICTURE.html]

prints the verdict and draws the violation. Exit status 0: linearizable; 1: not, or undecided; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.linearizability.history import BadHistory, Kind, Operation, Outcome, load
from tests.linearizability.search import Search, Undecided
from tests.linearizability.timeline import draw
from tests.linearizability.verdict import Verdict, Violation

MAX_CONFIGURATIONS: Final = 2_000_000
"""For one key: a minute or two, and half a gigabyte. Keys that need more are not decided."""

_TRIED_AT_MOST: Final = 8
"""Of the values that an impossible operation might have found instead, for the explanation."""


def check(history: Iterable[Operation], max_configurations: int = MAX_CONFIGURATIONS) -> Verdict:
    """Judge a history, in any order, of a store that was empty at its start. `max_configurations` is for each key."""
    by_key: dict[bytes, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    configurations = 0
    violations, undecided = [], []
    for key, operations in sorted(by_key.items()):
        search = Search(operations, max_configurations)
        try:
            if not search.run():
                violations.append(_explain(search, operations, max_configurations))
        except Undecided:
            undecided.append(key)
        configurations += search.configurations
    return Verdict(sum(map(len, by_key.values())), len(by_key), configurations, violations, undecided)


def _explain(failed: Search, operations: list[Operation], max_configurations: int) -> Violation:
    """Find the shortest prefix that can't be linearized, given that the whole can't, and what is wrong with it."""

    def order(candidate: Iterable[Operation]) -> list[Operation] | None:
        """A linearization, or None. Where that can't be decided the explanation is worse, but remains true."""
        search = Search(candidate, max_configurations)
        try:
            return search.linearization if search.run() else None
        except Undecided:
            return []

    returns = sorted((op for op in operations if op.outcome is Outcome.OK), key=lambda op: op.took_effect_by)
    good = sum(op.took_effect_by < failed.furthest_return_at for op in returns)  # that many returns can be linearized,
    bad, step = len(returns), 1  # and that many can't; most often it is the very next one
    while bad - good > 1:
        middle = min(good + step, (good + bad) // 2)
        if order(_prefix(operations, returns[:middle])) is None:
            bad = middle
        else:
            good, step = middle, 2 * step
    prefix = _prefix(operations, returns[:bad])
    culprit = returns[bad - 1]
    others = [op for op in prefix if op != culprit]
    candidates = _candidates(others, culprit)
    return Violation(
        key=culprit.key,
        prefix=prefix,
        culprit=culprit,
        linearization=order([*others, _under_way(culprit)]) or [],
        possible=[
            value
            for value in candidates[:_TRIED_AT_MOST]
            if order([*others, replace(culprit, kind=Kind.GET, result=value)]) is not None
        ],
        all_tried=len(candidates) <= _TRIED_AT_MOST,
    )


def _prefix(operations: Iterable[Operation], returns: Sequence[Operation]) -> list[Operation]:
    """The history up to the last of `returns`; what has not returned by then is under way."""
    until = returns[-1].took_effect_by
    returned = set(returns)
    known = (
        op
        if op in returned or (op.outcome is Outcome.UNKNOWN and op.returned_at is not None and op.returned_at < until)
        else _under_way(op)
        for op in operations
        if op.invoked_at <= until and op.outcome is not Outcome.NOT_APPLIED
    )
    return sorted(known, key=lambda op: op.invoked_at)


def _under_way(operation: Operation) -> Operation:
    return replace(operation, returned_at=None, outcome=Outcome.UNKNOWN, result=None)


def _candidates(others: Sequence[Operation], culprit: Operation) -> list[bytes | None]:
    """All that `culprit` might have found in the key, and maybe more: what was not overwritten long before it. First
    comes what was certainly written, then what may have been, the latest first."""
    writes = [op for op in others if op.kind is not Kind.GET and op.result is not False]
    last_overwrite = max((op.invoked_at for op in writes if op.took_effect_by < culprit.invoked_at), default=-math.inf)
    possible = [op for op in writes if op.took_effect_by >= last_overwrite]
    possible.sort(key=lambda op: (op.outcome is Outcome.OK, op.invoked_at), reverse=True)
    return list(dict.fromkeys([None, *(None if op.kind is Kind.DELETE else op.value for op in possible)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a file. The exit status is in the module's docstring."""
    parser = argparse.ArgumentParser(prog="checker", description="Is a recorded history linearizable?")
    parser.add_argument("history", type=Path, help="JSON lines, as tests/linearizability/history.py writes them")
    parser.add_argument("--html", type=Path, metavar="PATH", help="draw violations to this file")
    options = parser.parse_args(arguments)
    try:
        history = load(options.history)
    except (OSError, BadHistory) as error:
        print(error, file=sys.stderr)
        return 2
    started = time.perf_counter()
    verdict = check(history)
    print(verdict)
    print(f"{verdict.configurations:,} configurations in {time.perf_counter() - started:.1f} s")
    if options.html and verdict.violations:
        options.html.write_text(draw(verdict.violations), encoding="utf-8")
        print(f"drawn in {options.html}")
    return 0 if verdict.linearizable else 1


if __name__ == "__main__":
    sys.exit(main())
