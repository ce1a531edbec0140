"""Clients at work, and the history of what they did and were told: theory of operation.

Each *worker* is a thread that draws an operation, asks for it, and writes down when it asked, when it was answered, and
what. They are of four kinds, as clients of a real cluster are:

* workers with a `Client`, which finds the leader and repeats what is in doubt; two of them share theirs;
* workers whose calls are futures, or tasks of an `AsyncClient`, two of each sharing one. Some calls they give up at a
  random moment: what comes of these nobody can tell, unless `cancel` says that a future's call was never sent;
* plain callers, who know nothing but the text form, speak to one node until it names another, and never repeat;
* readers bound to one node each, who ask it again and again whether it leads or not: the first to see a stale value.

Every value that is written is unique, so a write that takes effect twice can be told. All work on the same few keys,
which are given up for new ones every few seconds: contention, and yet no key with so long a history that checking it
takes forever. Now and then a worker writes a key of its own, once: the ledger, of which nothing acknowledged may be
missing in the end.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import ExitStack, closing
from typing import Final, NamedTuple

import grpc

from raftkv import Client, NotApplied, OutcomeUnknown
from tests.linearizability.history import Call, Kind, Operation, Outcome, Recorder
from tests.support.processes import PlainCaller
from tests.support.ways import PIPELINED, Futures

_KEYS: Final = 8
"""In use at a time."""
_KEYS_LAST: Final = 5.0
"""Seconds."""
_PATIENCE: Final = 3.0
"""Seconds that a client waits for an answer: short enough for doubtful outcomes to be common."""
_GIVEN_UP_SHARE: Final = 0.1
"""Of the calls of those who give calls up."""
_GIVEN_UP_AFTER: Final = (0.0, 0.001, 0.01, 0.1)
"""Seconds: before the call is sent, while it is under way, and when it is held up by a fault."""
GIVEN_UP: Final = "GIVEN_UP"
"""The note of such a call in the history."""
LEDGER: Final = b"ledger/"
_LEDGER_SHARE: Final = 0.05
_PAUSE_AFTER_FAILURE: Final = 0.05
"""Seconds, so that a worker whom everybody refuses leaves some of the machine to the others."""

_SHARES: Final = {Kind.GET: 40, Kind.SET: 30, Kind.COMPARE_AND_SET: 20, Kind.DELETE: 5, Kind.SET_IF_ABSENT: 5}
"""Of the operations on shared keys, in percent."""


class Wish(NamedTuple):
    """An operation to do."""

    kind: Kind
    key: bytes
    value: bytes = b""
    expected: bytes = b""


class Workload:
    """Workers that run from `start` until `stop`."""

    def __init__(self, addresses: Sequence[str], rng: random.Random, operations_per_second: float) -> None:
        self.recorder = Recorder()
        self.trouble: list[BaseException] = []
        """What ended a worker; nothing should."""
        self._addresses = addresses
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._opened = ExitStack()
        workers = self._workers(rng)
        self._pace = len(workers) / operations_per_second
        self._threads = [threading.Thread(target=self._work, args=(worker,), name=worker.name) for worker in workers]

    def _workers(self, rng: random.Random) -> list[Worker]:
        def new_rng() -> random.Random:
            return random.Random(rng.random())

        clients = [self._opened.enter_context(Client(self._addresses, timeout=_PATIENCE)) for _ in range(5)]
        callers = [PlainCaller(address) for address in self._addresses]
        for caller in callers:
            self._opened.callback(caller.channel.close)
        workers: list[Worker] = [
            LibraryWorker(f"client-{i}", new_rng(), client) for i, client in enumerate([clients[0], *clients], start=1)
        ]
        for way in PIPELINED:
            shared = self._opened.enter_context(closing(way(self._addresses, timeout=_PATIENCE)))
            workers += [ImpatientWorker(f"{way.__name__.lower()}-{i}", new_rng(), shared) for i in (1, 2)]
        workers += [PlainWorker(f"plain-{i}", new_rng(), callers) for i in (1, 2)]
        workers += [BoundReader(f"reader-{i}", new_rng(), [caller]) for i, caller in enumerate(callers, start=1)]
        return workers

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when every worker has had its last answer."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._opened.close()

    def _work(self, worker: Worker) -> None:
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                answered = worker.work(self.recorder, began - self._began)
                pause = self._pace - (time.monotonic() - began)
                self._stopping.wait(max(pause, 0.0 if answered else _PAUSE_AFTER_FAILURE))
        except BaseException as error:
            self.trouble.append(error)


class Worker:
    """Does one operation after the other."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self._sequence = 0
        self._last_seen = b"nothing"
        """A value that a compare-and-set may expect with some hope."""

    def work(self, recorder: Recorder, elapsed: float) -> bool:
        """Do one operation, `elapsed` seconds after the start. Whether it was answered."""
        wish = self.draw(elapsed)
        return self.carry_out(wish, recorder.invoke(self.name, wish.kind, wish.key, wish.value, wish.expected))

    def draw(self, elapsed: float) -> Wish:
        """What to do next."""
        self._sequence += 1
        value = f"{self.name}.{self._sequence}".encode()
        if self.rng.random() < _LEDGER_SHARE:
            return Wish(Kind.SET, LEDGER + value, value)
        kind = self.rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        key = shared_key(self.rng, elapsed)
        if kind in (Kind.GET, Kind.DELETE):
            return Wish(kind, key)
        return Wish(kind, key, value, self._last_seen if kind is Kind.COMPARE_AND_SET else b"")

    def carry_out(self, wish: Wish, call: Call) -> bool:
        """Do it, and end the call. Whether it was answered."""
        raise NotImplementedError


def shared_key(rng: random.Random, elapsed: float) -> bytes:
    """One of those that all work on at this time."""
    return f"shared/{int(elapsed / _KEYS_LAST)}/{rng.randrange(_KEYS)}".encode()


class LibraryWorker(Worker):
    """Uses the client library as an application does."""

    def __init__(self, name: str, rng: random.Random, client: Client) -> None:
        super().__init__(name, rng)
        self._client = client

    def carry_out(self, wish: Wish, call: Call) -> bool:
        try:
            result = self._ask(wish)
        except NotApplied as error:
            call.not_applied(error.code)
            return False
        except OutcomeUnknown as error:
            call.unknown(error.code)
            return False
        call.returned(result)
        self._last_seen = result if isinstance(result, bytes) else wish.value or self._last_seen
        return True

    def _ask(self, wish: Wish) -> bytes | bool | None:
        name, words = _as_call(wish)
        result: bytes | bool | None = getattr(self._client, name)(*words)
        return result


def _as_call(wish: Wish) -> tuple[str, tuple[bytes, ...]]:
    """The method of a client, and its arguments."""
    key, value = wish.key, wish.value
    match wish.kind:
        case Kind.GET:
            return "get", (key,)
        case Kind.SET:
            return "set", (key, value)
        case Kind.DELETE:
            return "delete", (key,)
        case Kind.SET_IF_ABSENT:
            return "set_if_absent", (key, value)
        case Kind.COMPARE_AND_SET:
            return "compare_and_set", (key, wish.expected, value)


class ImpatientWorker(LibraryWorker):
    """Has its calls under way as futures, or as tasks, and gives some of them up."""

    def __init__(self, name: str, rng: random.Random, client: Futures) -> None:
        super().__init__(name, rng, client)
        self._pipelined = client

    def _ask(self, wish: Wish) -> bytes | bool | None:
        name, words = _as_call(wish)
        future: Future[bytes | bool | None] = getattr(self._pipelined, f"{name}_async")(*words)
        is_given_up = self.rng.random() < _GIVEN_UP_SHARE
        try:
            return future.result(self.rng.choice(_GIVEN_UP_AFTER) if is_given_up else None)
        except NotInTime:
            certain = self._pipelined.cancelled if future.cancel() else OutcomeUnknown
            raise certain("given up", GIVEN_UP) from None


_NEVER_PROPOSED: Final = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
)


class PlainWorker(Worker):
    """Knows the text form only. Asks the node that was named the leader, and another one if that fails."""

    def __init__(self, name: str, rng: random.Random, callers: Sequence[PlainCaller]) -> None:
        super().__init__(name, rng)
        self._callers = callers
        self._current = 0

    def carry_out(self, wish: Wish, call: Call) -> bool:
        kind = wish.kind
        words = [kind.value.upper().encode(), wish.key, wish.expected, wish.value]
        request = b" ".join(word for word in words if word).decode()
        try:
            reply = self._callers[self._current].ask(request, timeout=_PATIENCE)
        except grpc.RpcError as error:
            return self._failed(call, kind, error.code())
        if not reply.success:
            self._follow(reply.leader_id)
            call.not_applied("not the leader")
            return False
        if kind in (Kind.GET, Kind.SET):
            call.returned(reply.data.encode() if kind is Kind.GET else None)
        else:
            call.returned(reply.data == "1")
        return True

    def _failed(self, call: Call, kind: Kind, code: grpc.StatusCode) -> bool:
        if kind is Kind.GET and code is grpc.StatusCode.NOT_FOUND:
            call.returned(None)
            return True
        if kind is Kind.GET or code in _NEVER_PROPOSED:
            call.not_applied(code.name)
        else:
            call.unknown(code.name)
        self._follow(0)
        return False

    def _follow(self, leader_id: int) -> None:
        self._current = leader_id - 1 if leader_id else self.rng.randrange(len(self._callers))


class BoundReader(PlainWorker):
    """Reads, from one node only."""

    def draw(self, elapsed: float) -> Wish:
        return Wish(Kind.GET, shared_key(self.rng, elapsed))

    def _follow(self, leader_id: int) -> None:
        pass


def read_everything(addresses: Sequence[str], keys: Sequence[bytes], recorder: Recorder, name: str) -> None:
    """Read all these keys, into the history. Raises raftkv.Error if the cluster does not answer."""
    with Client(addresses, timeout=20.0) as client:
        for key in keys:
            call = recorder.invoke(name, Kind.GET, key)
            call.returned(client.get(key))


def keys_of(history: Sequence[Operation]) -> list[bytes]:
    return sorted({operation.key for operation in history})


def acknowledged_ledger(history: Sequence[Operation]) -> dict[bytes, bytes]:
    """What was acknowledged of the keys that are written only once."""
    return {
        op.key: op.value
        for op in history
        if op.kind is Kind.SET and op.outcome is Outcome.OK and op.key.startswith(LEDGER)
    }
