"""The definition of linearizability, tried out: slow, obvious, and independent of the checker that it tests.

Every order of every choice of operations is built up, one operation after the other, and played to a store; an order
is dropped as soon as an answer differs from the one that the client got. Good for about eight operations.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.linearizability.history import Kind, Operation, Outcome


def is_linearizable(history: Sequence[Operation]) -> bool:
    """Whether all the history's operations, on whatever keys, can have happened at one moment each."""
    return _can_go_on([op for op in history if op.outcome is not Outcome.NOT_APPLIED], {})


def impossible_from(history: Sequence[Operation]) -> float | None:
    """The return at which the history becomes impossible, as known at that moment; None if it never does."""
    returns = sorted(op.returned_at for op in history if op.outcome is Outcome.OK and op.returned_at is not None)
    for moment in returns:
        if not is_linearizable([_as_known_at(moment, op) for op in history if op.invoked_at <= moment]):
            return moment
    return None


def _as_known_at(moment: float, op: Operation) -> Operation:
    if op.outcome is not Outcome.OK or (op.returned_at is not None and op.returned_at <= moment):
        return op
    return Operation(op.client, op.kind, op.key, op.invoked_at, value=op.value, expected=op.expected)


def _can_go_on(remaining: list[Operation], store: dict[bytes, bytes]) -> bool:
    if all(op.outcome is Outcome.UNKNOWN for op in remaining):
        return True  # they never happened
    for op in remaining:
        if any(_precedes(other, op) for other in remaining):
            continue
        copy = dict(store)
        answer = carry_out(op, copy)
        if op.outcome is Outcome.UNKNOWN or answer == op.result:
            rest = [other for other in remaining if other is not op]
            if _can_go_on(rest, copy):
                return True
    return False


def _precedes(first: Operation, second: Operation) -> bool:
    """Whether `first` was over before `second` began. What is unknown may never be over."""
    return first.outcome is Outcome.OK and first.returned_at is not None and first.returned_at < second.invoked_at


def carry_out(op: Operation, store: dict[bytes, bytes]) -> bytes | bool | None:
    """Do it to the store, and answer as a store does."""
    held = store.get(op.key)
    if op.kind is Kind.GET:
        return held
    if op.kind is Kind.SET:
        store[op.key] = op.value
        return None
    if op.kind is Kind.DELETE:
        store.pop(op.key, None)
        return held is not None
    if op.kind is Kind.SET_IF_ABSENT:
        store.setdefault(op.key, op.value)
        return held is None
    if held is not None and held == op.expected:
        store[op.key] = op.value
        return True
    return False
