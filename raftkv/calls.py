"""A client's calls while they are under way: one object for each, whichever way it was made: theory of operation.

The pipeline (pipeline.py) sends calls and finishes each of them once, with `finish` or with `fail`. What that means to
the caller is the subclass's: a thread that waits (`BlockingCall`), a future of `concurrent.futures` (`FutureCall`), or
one of asyncio (in async_client.py). A call has the fields of an operation, so that it can be encoded as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, LOGGER, PENDING, RUNNING
from enum import Enum
from typing import Any, Final

from raftkv.errors import Error, NotApplied, OutcomeUnknown, WrongValue
from raftkv.operations import Code

GET: Final = -1
KEYS: Final = -2
"""The codes of the two kinds of reads, which never become operations of the log."""

SET: Final = Code.SET


class State(Enum):
    WAITING = "waiting"
    """It will be sent."""
    FLYING = "flying"
    """It has been sent, and is not answered yet."""
    OVER = "over"
    """Finished, or given up by its caller: it will not be sent, nor its sequence number be kept, any more."""


# An Enum's members are slow to reach, and each call changes its state three times.
WAITING: Final = State.WAITING
FLYING: Final = State.FLYING
OVER: Final = State.OVER


class Call:
    """One operation of a client. All but the first five fields belong to the pipeline, under its lock."""

    __slots__ = (
        "code",
        "counted",
        "deadline",
        "doubt",
        "expected",
        "key",
        "order",
        "sequence",
        "session",
        "state",
        "value",
    )

    def __init__(self, code: Code | int, key: bytes, value: bytes, expected: bytes, deadline: float) -> None:
        """`deadline` is in seconds of `time.monotonic`."""
        self.code: Any = code
        self.key = key
        self.value = value
        self.expected = expected
        self.deadline = deadline
        self.state: State = WAITING
        self.doubt = False
        """It has been sent, and may have been carried out though nobody said so."""
        self.order = 0
        """Counts the client's writes as they are sent for the first time, through all sessions; 0: not sent yet."""
        self.sequence = 0
        """Its number in the session; 0: none yet."""
        self.session = 0
        """The session in which it has its number."""
        self.counted = 0
        """Bytes for which it counts among those that wait."""

    @property
    def is_write(self) -> bool:
        return bool(self.code > 0)

    def finish(self, answer: Any) -> None:
        """It has been carried out. `answer`: whether a write's condition held, or what was read."""
        raise NotImplementedError

    def fail(self, error: Error) -> None:
        raise NotImplementedError

    def error(self, code: str, text: str) -> Error:
        """The error that says what is certain about the call."""
        if self.is_write and self.doubt:
            return OutcomeUnknown(f"{text}; the write may have been applied", code)
        kind = WrongValue if code == "INVALID_ARGUMENT" else NotApplied
        return kind(f"{text}; {'the write was not applied' if self.is_write else 'nothing was read'}", code)

    def result_of(self, answer: Any) -> Any:
        """What the caller gets."""
        return None if self.code == SET else answer


class BlockingCall(Call):
    """Somebody waits for it, in `wait`: a bare lock, the cheapest hand-over there is."""

    __slots__ = ("_answer", "_done", "_error")

    def __init__(self, code: Code | int, key: bytes, value: bytes, expected: bytes, deadline: float) -> None:
        super().__init__(code, key, value, expected, deadline)
        self._done = threading.Lock()
        self._done.acquire()
        self._answer: Any = None
        self._error: Error | None = None

    def finish(self, answer: Any) -> None:
        self._answer = answer
        self._done.release()

    def fail(self, error: Error) -> None:
        self._error = error
        self._done.release()

    def wait(self, seconds: float) -> bool:
        """Whether it has been finished within this time."""
        return self._done.acquire(timeout=max(seconds, 0.0))

    def result(self) -> Any:
        """After `wait` has said so. Raises an Error."""
        if self._error is not None:
            raise self._error
        return self.result_of(self._answer)


_MAKING: Final = threading.Lock()
"""Held for a moment by whoever makes a LeanFuture's condition, or settles one that has none."""


class LeanFuture(Future[Any]):
    """A `concurrent.futures.Future` that makes its lock only when somebody waits for it.

    Hundreds of thousands of futures a second are made here, most of which nobody ever waits for: they have a callback,
    or are looked at when they are done. The lock with its condition is half the price of a future, and most of what the
    garbage collector has to do. One lock that all of them share, `_MAKING`, decides which comes first: that the future
    is done, which then everybody sees who waits, or that it gets a condition, under which alone it can be done from
    then on. `concurrent.futures.wait` looks at the state twice, and returns too early if that changes in between.
    """

    __slots__ = ()

    def __init__(self) -> None:
        # What Future itself has, less what the two properties make.
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._done_callbacks: list[Callable[[Any], object]] = []
        self._own_condition: threading.Condition | None = None
        self._own_waiters: list[Any] | None = None

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # a field there
        condition = self._own_condition
        if condition is None:
            new = threading.Condition()  # not under the lock: a finalizer may run here, which may want one as well
            with _MAKING:
                condition = self._own_condition = self._own_condition or new
        return condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]  # a field there
        """With the condition, as everybody has it who looks at them."""
        if self._own_waiters is None:
            self._own_waiters = []
        return self._own_waiters

    def done(self) -> bool:
        return self._state not in (PENDING, RUNNING)

    def result(self, timeout: float | None = None) -> Any:
        if self._state == FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        self._done_callbacks.append(fn)
        if self.done():
            self._invoke_callbacks()

    def settle(self, result: Any, exception: BaseException | None) -> None:
        """`set_result` or `set_exception`. Once."""
        self._result, self._exception = result, exception
        with _MAKING:
            condition = self._own_condition
            if condition is None:
                self._state = FINISHED
        if condition is not None:
            with condition:
                self._state = FINISHED
                for waiter in self._waiters:
                    (waiter.add_result if exception is None else waiter.add_exception)(self)
                condition.notify_all()
        if self._done_callbacks:
            # By a thread of the client's, or of gRPC's, which a SystemExit would end, and with it all that it does.
            self._invoke_callbacks(BaseException)

    def _invoke_callbacks(self, logged: type[BaseException] = Exception) -> None:
        """What they raise is only logged, if it is of this kind."""
        while self._done_callbacks:
            try:
                callback = self._done_callbacks.pop(0)
            except IndexError:
                return  # another thread was quicker
            try:
                callback(self)
            except logged:
                LOGGER.exception("exception calling callback for %r", self)


class FutureCall(Call, LeanFuture):
    """Is its own future. It can be cancelled as long as it has not been sent: then it is never carried out."""

    __slots__ = (  # Future has none, but what is here is not looked for in a dict
        "_done_callbacks",
        "_exception",
        "_give_up",
        "_own_condition",
        "_own_waiters",
        "_result",
        "_state",
    )

    def __init__(
        self,
        code: Code | int,
        key: bytes,
        value: bytes,
        expected: bytes,
        deadline: float,
        give_up: Callable[[Call], bool],
    ) -> None:
        """`give_up` tells the pipeline, and says whether that was in time."""
        Call.__init__(self, code, key, value, expected, deadline)
        LeanFuture.__init__(self)
        self._give_up = give_up

    def cancel(self) -> bool:
        if self.cancelled():
            return True
        if not self._give_up(self):
            return False
        super().cancel()
        self.set_running_or_notify_cancel()
        return True

    def finish(self, answer: Any) -> None:
        self.settle(self.result_of(answer), None)

    def fail(self, error: Error) -> None:
        self.settle(None, error)
