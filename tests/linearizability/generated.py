"""Histories made up by chance: of a correct store, of one that lies once, and of nothing but chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.linearizability.history import Kind, Operation, Outcome

WRITES = (Kind.SET, Kind.DELETE, Kind.SET_IF_ABSENT, Kind.COMPARE_AND_SET)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the histories look like."""

    operations: int
    clients: int = 4
    keys: int = 1
    values: int = 3
    """How many there are to write; 0: each write has its own."""
    unknown: float = 0.0
    """The share of operations with an unknown outcome; half of these never take effect."""
    not_applied: float = 0.0
    writes: float = 0.6


def correct(rng: random.Random, shape: Shape) -> list[Operation]:
    """What clients see of a store that is linearizable, by the moments at which the operations took effect."""
    store: dict[bytes, bytes] = {}
    history = []
    for took_effect_at, op in sorted(_begun(rng, shape), key=lambda pair: pair[0]):
        expected = store.get(op.key, b"") if rng.random() < 0.6 else _value(rng, shape, 0)
        op = replace(op, expected=expected if op.kind is Kind.COMPARE_AND_SET else b"")
        chance = rng.random()
        if chance < shape.not_applied:
            history.append(replace(op, outcome=Outcome.NOT_APPLIED))
        elif chance < shape.not_applied + shape.unknown:
            if rng.random() < 0.5:
                _carry_out(op, store)
            history.append(replace(op, outcome=Outcome.UNKNOWN, returned_at=rng.choice([op.returned_at, None])))
        else:
            answer = _carry_out(op, store)
            late_enough = max(took_effect_at, op.returned_at or 0)
            history.append(replace(op, outcome=Outcome.OK, returned_at=late_enough, result=answer))
    return history


def with_a_lie(rng: random.Random, history: Sequence[Operation], shape: Shape) -> list[Operation]:
    """One answer is replaced by another, which may be just as possible."""
    liars = [i for i, op in enumerate(history) if op.outcome is Outcome.OK and op.kind is not Kind.SET]
    lying = rng.choice(liars) if liars else None
    return [replace(op, result=_any_answer(rng, op, shape)) if i == lying else op for i, op in enumerate(history)]


def with_any_answers(rng: random.Random, history: Sequence[Operation], shape: Shape) -> list[Operation]:
    """Nothing is left of the store."""
    return [replace(op, result=_any_answer(rng, op, shape)) if op.outcome is Outcome.OK else op for op in history]


def _begun(rng: random.Random, shape: Shape) -> list[tuple[float, Operation]]:
    """Operations that have not been answered yet, each with a moment within its interval."""
    free_at = [0.0] * shape.clients
    coarse = rng.random() < 0.2  # equal times are common
    begun = []
    for number in range(shape.operations):
        client = rng.randrange(shape.clients) if shape.operations < 100 else free_at.index(min(free_at))
        start = free_at[client] + rng.expovariate(2)
        end = start + rng.expovariate(1)
        if coarse:
            start, end = float(int(start)), float(int(end) + 1)
        free_at[client] = end
        kind = rng.choice(WRITES) if rng.random() < shape.writes else Kind.GET
        key = b"k%d" % rng.randrange(shape.keys)
        value = b"" if kind in (Kind.GET, Kind.DELETE) else _value(rng, shape, number)
        op = Operation(f"c{client}", kind, key, invoked_at=start, returned_at=end, value=value)
        begun.append((rng.uniform(start, end), op))
    return begun


def _value(rng: random.Random, shape: Shape, number: int) -> bytes:
    return b"%d" % (rng.randrange(shape.values) if shape.values else number)


def _any_answer(rng: random.Random, op: Operation, shape: Shape) -> bytes | bool | None:
    if op.kind is Kind.SET:
        return None
    return rng.choice([None, _value(rng, shape, 0)]) if op.kind is Kind.GET else rng.random() < 0.5


def _carry_out(op: Operation, store: dict[bytes, bytes]) -> bytes | bool | None:
    held = store.get(op.key)
    match op.kind:
        case Kind.GET:
            return held
        case Kind.SET:
            store[op.key] = op.value
            return None
        case Kind.DELETE:
            store.pop(op.key, None)
            return held is not None
        case Kind.SET_IF_ABSENT:
            store.setdefault(op.key, op.value)
            return held is None
        case Kind.COMPARE_AND_SET:
            if held is None or held != op.expected:
                return False
            store[op.key] = op.value
            return True
