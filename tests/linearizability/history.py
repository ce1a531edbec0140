"""What clients did and what they were told: theory of operation.

A history is a list of operations on keys, each with the time of its invocation and, if it returned, the time of its
return and the outcome. An operation took effect, if at all, at one moment between the two. There are three outcomes:

* OK: it was carried out, and `result` is what the client was told.
* NOT_APPLIED: the client was told that nothing has been done, nor ever will be.
* UNKNOWN: nobody can tell (a timeout, a lost connection, a client that is still waiting). The operation may take
  effect at any moment after its invocation, even long after the client gave up, or never.

The times of one `Recorder` are strictly increasing: of two events at the same moment the one that was recorded later
gets the next larger number. So in a simulator, where virtual time stands still while much happens, no order is lost.
With real time, `invoke` before the call and `Call.returned` after it, from whatever thread, give intervals that are
never narrower than the truth, so a violation found in them is one. Histories recorded apart, with one clock, may be
put together: events with equal times count as concurrent.

Files are JSON lines, one operation each. Bytes that are not UTF-8 are written with `surrogateescape`.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final


class Kind(str, Enum):
    """What an operation does, named as a client's command."""

    GET = "get"
    SET = "set"
    DELETE = "del"
    SET_IF_ABSENT = "setnx"
    COMPARE_AND_SET = "cas"


class Outcome(str, Enum):
    OK = "ok"
    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


_RESULT_TYPES: Final = {
    Kind.GET: (bytes, type(None)),
    Kind.SET: (type(None),),
    Kind.DELETE: (bool,),
    Kind.SET_IF_ABSENT: (bool,),
    Kind.COMPARE_AND_SET: (bool,),
}


@dataclass(frozen=True, slots=True)
class Operation:
    client: str
    """Who did it. Only a drawing looks at it: operations of one client may overlap, after a timeout, say."""
    kind: Kind
    key: bytes
    invoked_at: float
    """Seconds, of whatever clock the whole history has."""
    returned_at: float | None = None
    """When the client was answered, or gave up; None: it was still waiting when the history ended."""
    outcome: Outcome = Outcome.UNKNOWN
    value: bytes = b""
    """What was to be written: SET, SET_IF_ABSENT, COMPARE_AND_SET."""
    expected: bytes = b""
    """COMPARE_AND_SET: what the key had to hold."""
    result: bytes | bool | None = None
    """Where the outcome is OK. GET: the value, None if there was none. DELETE, SET_IF_ABSENT, COMPARE_AND_SET: whether
    it was done. SET: None."""
    note: str = ""
    """For people: which node answered, what error came."""

    def __post_init__(self) -> None:
        """Refuse what can't be meant (ValueError), since the checker would draw wrong conclusions from it."""
        if self.returned_at is not None and not self.invoked_at <= self.returned_at:
            raise ValueError(f"returned at {self.returned_at}, before it was invoked at {self.invoked_at}")
        if self.returned_at is None and self.outcome is not Outcome.UNKNOWN:
            raise ValueError("it has an outcome but did not return")
        if self.outcome is Outcome.OK and not isinstance(self.result, _RESULT_TYPES[self.kind]):
            raise ValueError(f"{self.result!r} is no result of {self.kind.value}")

    def __str__(self) -> str:
        """One line: `c1 cas x "1" "2" -> done`."""
        return f"{self.client} {self.kind.value} {shown(self.key)} {self.summary}".strip()

    @property
    def took_effect_by(self) -> float:
        """The moment before which it took effect, if at all: its return, or never if its outcome is not OK."""
        return self.returned_at if self.outcome is Outcome.OK and self.returned_at is not None else math.inf

    @property
    def summary(self) -> str:
        """The arguments and the answer."""
        words = [shown(self.expected)] if self.kind is Kind.COMPARE_AND_SET else []
        if self.kind not in (Kind.GET, Kind.DELETE):
            words.append(shown(self.value))
        return " ".join([*words, self._answer]).strip()

    @property
    def _answer(self) -> str:
        if self.outcome is not Outcome.OK:
            return "-> ?" if self.outcome is Outcome.UNKNOWN else "-> not applied"
        if self.kind is Kind.GET:
            return f"-> {shown(self.result)}"
        if self.kind is Kind.SET:
            return ""
        return "-> done" if self.result else "-> not done"


def shown(value: object) -> str:
    """A value in a form for people, on one line: bytes quoted, and `nothing` for None."""
    if value is None:
        return "nothing"
    if not isinstance(value, bytes):
        return str(value)
    text = value.decode(errors="backslashreplace")
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) + '"'


class Call:
    """An operation under way. End it with one of the three methods, once; a call never ended is unknown."""

    def __init__(self, recorder: Recorder, position: int) -> None:
        self._recorder = recorder
        self._position = position

    def returned(self, result: bytes | bool | None = None, note: str = "") -> None:
        """It was carried out, and `result` is what the client was told (as in `Operation.result`)."""
        self._recorder._end(self._position, Outcome.OK, result, note)

    def not_applied(self, note: str = "") -> None:
        """The client was told that nothing has been done."""
        self._recorder._end(self._position, Outcome.NOT_APPLIED, None, note)

    def unknown(self, note: str = "") -> None:
        """The client gave up."""
        self._recorder._end(self._position, Outcome.UNKNOWN, None, note)


class Recorder:
    """Writes a history down as it happens, from any number of threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds: real ones, or a simulator's."""
        self._clock = clock
        self._lock = threading.Lock()
        self._last_time = -math.inf
        self._operations: list[Operation] = []

    def invoke(self, client: str, kind: Kind, key: bytes, value: bytes = b"", expected: bytes = b"") -> Call:
        """Record that `client` is about to start this operation."""
        with self._lock:
            self._operations.append(Operation(client, kind, key, self._now(), value=value, expected=expected))
            return Call(self, len(self._operations) - 1)

    def history(self) -> list[Operation]:
        """All operations so far, by invocation. Those under way have an unknown outcome."""
        with self._lock:
            return list(self._operations)

    def _end(self, position: int, outcome: Outcome, result: bytes | bool | None, note: str) -> None:
        with self._lock:
            begun = self._operations[position]
            assert begun.returned_at is None, f"ended twice: {begun}"
            self._operations[position] = replace(
                begun, returned_at=self._now(), outcome=outcome, result=result, note=note
            )

    def _now(self) -> float:
        self._last_time = max(self._clock(), math.nextafter(self._last_time, math.inf))
        return self._last_time


class BadHistory(ValueError):
    """A file that is not a history; the message names the line."""


def dump(history: Iterable[Operation], path: Path) -> None:
    """Write a history to a file."""
    with path.open("w", encoding="utf-8") as file:
        for operation in history:
            file.write(json.dumps(_to_json(operation)) + "\n")


def load(path: Path) -> list[Operation]:
    """Read a history from a file. Raises BadHistory, or OSError."""
    history = []
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            try:
                history.append(_from_json(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise BadHistory(f"{path}, line {number}: not an operation of a history ({error})") from None
    return history


def _to_json(operation: Operation) -> dict[str, Any]:
    return {
        "client": operation.client,
        "kind": operation.kind.value,
        "key": _text(operation.key),
        "invoked_at": operation.invoked_at,
        "returned_at": operation.returned_at,
        "outcome": operation.outcome.value,
        "value": _text(operation.value),
        "expected": _text(operation.expected),
        "result": _text(operation.result) if isinstance(operation.result, bytes) else operation.result,
        "note": operation.note,
    }


def _from_json(fields: dict[str, Any]) -> Operation:
    result = fields.get("result")
    return Operation(
        client=str(fields["client"]),
        kind=Kind(fields["kind"]),
        key=_bytes(fields["key"]),
        invoked_at=float(fields["invoked_at"]),
        returned_at=None if fields["returned_at"] is None else float(fields["returned_at"]),
        outcome=Outcome(fields["outcome"]),
        value=_bytes(fields.get("value", "")),
        expected=_bytes(fields.get("expected", "")),
        result=_bytes(result) if isinstance(result, str) else result,
        note=str(fields.get("note", "")),
    )


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
