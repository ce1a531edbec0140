"""The search for an order of the operations on one key: theory of operation.

It is the search of Wing and Gong: choose an operation that may come first, since none of the others returned before
it was invoked; carry it out; go on with the rest; go back where nothing fits any more before the next return. With
Lowe's memory of configurations (what has been carried out, and the value then): none is searched twice. Four
observations keep it short, also with many operations of unknown outcome, which may come at any later time or never:

* What changes nothing and gives its answer now (a read of the current value) comes now: no choice is lost by that.
* An unknown operation is tried after all others, and only if it makes another one possible that was not so before:
  if what follows did not need it, it may as well never have happened.
* Two unknown operations with equal effects are used in the order of their invocation.
* A configuration that has used more of the unknown operations than one searched before, and is otherwise equal, can
  reach nothing that the other could not.

Values that nobody looked for are all alike to the search.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Final, NamedTuple

from tests.linearizability.history import Kind, Operation, Outcome


class Undecided(Exception):
    """The search has looked at as many configurations as it may."""


_ANYTHING: Final = -1
_UNCHANGED: Final = -1


class _Step(NamedTuple):
    """An operation as the search sees it. Values are small numbers; 0 is "no such key"."""

    needs: int
    """What the key must hold for the operation to give its answer; or _ANYTHING."""
    negated: bool
    """The key must hold anything but `needs`."""
    becomes: int
    """What the key holds afterwards; or _UNCHANGED."""

    def fits(self, value: int) -> bool:
        return self.needs == _ANYTHING or (self.needs == value) is not self.negated


class _Values:
    """Numbers for values. Those that no operation looks for share one number."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._numbers: dict[bytes | None, int] = {None: 0}
        for op in operations:
            if op.kind is Kind.GET:
                assert not isinstance(op.result, bool)
                self._numbers.setdefault(op.result, len(self._numbers))
            elif op.kind is Kind.COMPARE_AND_SET:
                self._numbers.setdefault(op.expected, len(self._numbers))

    def step(self, op: Operation) -> _Step:
        """What `op` does to the key; of an unknown one, what it does if it comes to do something at all."""
        number = self._number
        succeeded = op.outcome is Outcome.UNKNOWN or op.result is not False
        match op.kind:
            case Kind.GET:
                assert not isinstance(op.result, bool)
                return _Step(number(op.result), False, _UNCHANGED)
            case Kind.SET:
                return _Step(_ANYTHING, False, number(op.value))
            case Kind.DELETE if op.outcome is Outcome.UNKNOWN:
                return _Step(_ANYTHING, False, number(None))
            case Kind.DELETE:
                return _Step(number(None), True, number(None)) if succeeded else _Step(number(None), False, _UNCHANGED)
            case Kind.SET_IF_ABSENT:
                return _Step(number(None), not succeeded, number(op.value) if succeeded else _UNCHANGED)
            case Kind.COMPARE_AND_SET:
                return _Step(number(op.expected), not succeeded, number(op.value) if succeeded else _UNCHANGED)

    def _number(self, value: bytes | None) -> int:
        return self._numbers.get(value, len(self._numbers))


class Search:
    """The search for an order of the operations on one key.

    Operations have numbers: those with an answer first, by invocation, then the unknown ones, by invocation. Calls
    and returns that are still ahead stand in a doubly linked list, in the order of time, from which a chosen
    operation's two entries are lifted and to which they go back: the entries are `number` for a call, the number of
    answers + `number` for a return, and one more for the list's both ends. Unknown operations never return.
    """

    def __init__(self, operations: Iterable[Operation], max_configurations: int) -> None:
        in_order = sorted(operations, key=lambda op: op.invoked_at)
        answered = [op for op in in_order if op.outcome is Outcome.OK]
        unknown = [op for op in in_order if op.outcome is Outcome.UNKNOWN and op.kind is not Kind.GET]
        values = _Values(answered + unknown)
        self._operations = answered + unknown
        self._answered = len(answered)
        self._ends = 2 * len(answered)
        self._returned_at = [op.took_effect_by for op in answered]
        self._steps = [values.step(op) for op in self._operations]
        self._making: dict[int, list[int]] = {}  # bits of unknown operations, by what the key holds after them
        for bit, step in enumerate(self._steps[len(answered) :]):
            self._making.setdefault(step.becomes, []).append(bit)
        self._twin = self._earlier_twins()
        self._link(answered)
        # The configuration, and how it came about:
        self._value = 0
        self._done = 0  # a bit for each answered operation
        self._used = 0  # a bit for each unknown operation
        self._path: list[tuple[int, int]] = []  # number of the operation, value before it
        # All configurations searched so far: for the done operations and the value, the sets of used unknown ones.
        self._seen: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self._max_configurations = max_configurations
        self.configurations = 0
        self.furthest_return_at = -math.inf
        """Before this return everything can be linearized, whatever `run` says of the whole."""

    def run(self) -> bool:
        """Whether there is an order. To be called once. Raises Undecided."""
        everything = (1 << self._answered) - 1
        choices = [self._choices()]
        while self._done != everything:
            number = next(choices[-1], None)
            if number is not None:
                if self._take(number):
                    choices.append(self._choices())
            else:
                choices.pop()
                if not choices:
                    return False
                self._give_back()
        return True

    @property
    def linearization(self) -> list[Operation]:
        """After success: the order."""
        return [self._operations[number] for number, _ in self._path]

    def _choices(self) -> Iterator[int]:
        """What may come next, the most promising first. The configuration at each `next` is that of the first."""
        steps, value = self._steps, self._value
        fitting, waiting = [], []
        entry = self._after[self._ends]
        while entry < self._answered:
            if not steps[entry].fits(value):
                waiting.append(steps[entry])
            elif steps[entry].becomes == _UNCHANGED:
                yield entry
                return
            else:
                fitting.append(entry)
            entry = self._after[entry]
        first_return_at = self._returned_at[entry - self._answered]
        self.furthest_return_at = max(self.furthest_return_at, first_return_at)
        last, value_before_last = self._path[-1] if self._path else (0, value)
        follows_unknown = last >= self._answered
        for number in chain(fitting, self._useful_unknown(waiting, first_return_at)):
            if not (follows_unknown and steps[number].fits(value_before_last)):
                yield number

    def _useful_unknown(self, waiting: Sequence[_Step], first_return_at: float) -> Iterator[int]:
        """The unknown operations that may come now and help one of `waiting`, by invocation."""
        for bit in self._leading_to_what_is_needed_by(waiting):
            number, twin = self._answered + bit, self._twin[bit]
            if self._operations[number].invoked_at > first_return_at:
                return
            is_next_of_its_kind = not self._used >> bit & 1 and (twin is None or self._used >> twin & 1)
            step = self._steps[number]
            if is_next_of_its_kind and step.fits(self._value) and step.becomes != self._value:
                yield number

    def _leading_to_what_is_needed_by(self, waiting: Sequence[_Step]) -> Sequence[int]:
        """The bits of the unknown operations that do so directly or through one another."""
        if any(step.negated for step in waiting):
            return range(len(self._twin))  # any other value will do
        needed = list({step.needs for step in waiting})
        bits = []
        for value in needed:  # which grows
            for bit in self._making.get(value, ()):
                bits.append(bit)
                needs = self._steps[self._answered + bit].needs
                if needs != _ANYTHING and needs not in needed:
                    needed.append(needs)
        return sorted(bits)

    def _take(self, number: int) -> bool:
        """Let the operation come next; not so, and False, if all that could follow has been searched before."""
        self._path.append((number, self._value))
        if number < self._answered:
            self._done |= 1 << number
            self._lift(number)
            self._lift(self._answered + number)
        else:
            self._used |= 1 << number - self._answered
        if self._steps[number].becomes != _UNCHANGED:
            self._value = self._steps[number].becomes
        if self._is_new():
            return True
        self._give_back()
        return False

    def _give_back(self) -> None:
        number, self._value = self._path.pop()
        if number < self._answered:
            self._done ^= 1 << number
            self._put_back(self._answered + number)
            self._put_back(number)
        else:
            self._used ^= 1 << number - self._answered

    def _is_new(self) -> bool:
        # All answered operations before the first one in the list are done: the numbers to remember stay short.
        first = min(self._after[self._ends], self._answered)
        configuration = first, self._done >> first, self._value
        used_before = self._seen.get(configuration, ())
        if any(used & self._used == used for used in used_before):
            return False
        self._seen[configuration] = (*used_before, self._used)
        self.configurations += 1
        if self.configurations > self._max_configurations:
            raise Undecided
        return True

    def _earlier_twins(self) -> list[int | None]:
        """For each unknown operation, by its bit: the last one before it that does the same."""
        latest: dict[_Step, int] = {}
        twins = []
        for bit, step in enumerate(self._steps[self._answered :]):
            twins.append(latest.get(step))
            latest[step] = bit
        return twins

    def _link(self, answered: Sequence[Operation]) -> None:
        calls = [(op.invoked_at, 0, number) for number, op in enumerate(answered)]
        returns = [(op.took_effect_by, 1, len(answered) + number) for number, op in enumerate(answered)]
        entries = [self._ends, *(entry for _, _, entry in sorted(calls + returns)), self._ends]
        self._after, self._before = [0] * (self._ends + 1), [0] * (self._ends + 1)
        for earlier, later in pairwise(entries):
            self._after[earlier] = later
            self._before[later] = earlier

    def _lift(self, entry: int) -> None:
        before, after = self._before[entry], self._after[entry]
        self._after[before] = after
        self._before[after] = before

    def _put_back(self, entry: int) -> None:
        self._after[self._before[entry]] = self._before[self._after[entry]] = entry
