"""The client library: calls that wait, and calls that give a future; safe from any thread: theory of operation.

A `Client` checks arguments and makes a call object (calls.py) of each; the pipeline (pipeline.py) does the rest, and
has the rules: order, retries, sessions. A thread that waits for its call sees to its own time-out. `AsyncClient` is the
same for asyncio (async_client.py).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from raftkv.calls import GET, KEYS, SET, BlockingCall, FutureCall
from raftkv.cluster_calls import ClusterCalls
from raftkv.config import ConfigError, parse_members
from raftkv.errors import Error, NotApplied, OutcomeUnknown, WrongType, WrongValue
from raftkv.member_calls import ClusterMember
from raftkv.operations import Code
from raftkv.pipeline import Pipeline
from raftkv.routing import NodeStatus, Router

if TYPE_CHECKING:
    from raftkv.backup_file import BackupInfo, Progress

__all__ = ["Client", "ClusterMember", "Error", "NodeStatus", "NotApplied", "OutcomeUnknown", "WrongType", "WrongValue"]

_LAST_MOMENT_S: Final = 5.0
"""How long a call that is being finished just as its time runs out may still take: no time at all, unless the machine
stands still."""


class Client:
    """A connection to the cluster.

        with Client(["127.0.0.1:50051", "127.0.0.1:50052"]) as client:
            client.set("key", "value")

    Keys and values are `bytes`, or `str` taken as UTF-8. A call that fails raises `NotApplied` (definite) or, if it is
    a write, `OutcomeUnknown`; an argument that can't be used raises a `NotApplied` that is also a ValueError or a
    TypeError. No call takes longer than the timeout.

    The methods whose names end in `_async` do not wait: they give a `concurrent.futures.Future` of the same result, or
    the same error. Calls that are under way at once, from many threads or as futures, go out together: hundreds cost
    little more than one. Writes of one client are applied in the order in which they were made; a read sees every write
    that had been answered before.

    What can't be sent at once waits in the client: at most 100,000 writes and as many reads, and large ones of 256 MiB
    together. A call beyond that fails at once (`NotApplied`, RESOURCE_EXHAUSTED).

    A done-callback of a future is run by the thread that takes the cluster's answers: it may make further calls of
    the `_async` kind, but must not wait.
    """

    def __init__(self, addresses: Iterable[str], timeout: float = 10.0) -> None:
        """A client of the cluster that the members at `addresses` (`host:port`) belong to; any one of them will do.

        `timeout` is in seconds and holds for each call. Connects to nobody before the first call.
        """
        self._timeout = checked_timeout(timeout)
        self._addresses = checked_addresses(addresses)
        self._router = Router(self._addresses, self._timeout)
        self._pipeline = Pipeline(self._router, self._timeout)
        self._give_up = self._pipeline.cancel  # one object for all calls: the garbage collector counts
        self._cluster = ClusterCalls(self._router, self._timeout)

    def _successor(self) -> Client:
        """A new client with nothing under way, that knows the members which this one has learnt."""
        client = copy(self)
        client._router = Router(self._addresses, self._timeout, self._router)
        client._pipeline = Pipeline(client._router, self._timeout)
        client._give_up = client._pipeline.cancel
        client._cluster = ClusterCalls(client._router, self._timeout)
        return client

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def set(self, key: str | bytes, value: str | bytes) -> None:
        """Give the key this value."""
        self._call(Code.SET, as_bytes("key", key), as_bytes("value", value))

    def get(self, key: str | bytes) -> bytes | None:
        """The key's value, None if there is no such key. Linearizable."""
        value: bytes | None = self._call(GET, checked_key(key))
        return value

    def delete(self, key: str | bytes) -> bool:
        """Remove the key. Whether it existed."""
        return bool(self._call(Code.DELETE, as_bytes("key", key)))

    def set_if_absent(self, key: str | bytes, value: str | bytes) -> bool:
        """Give the key this value if it does not exist. Whether that was done."""
        return bool(self._call(Code.SET_IF_ABSENT, as_bytes("key", key), as_bytes("value", value)))

    def compare_and_set(self, key: str | bytes, expected: str | bytes, new: str | bytes) -> bool:
        """Give the key the value `new` if it exists and has the value `expected`. Whether that was done."""
        key, expected, new = as_bytes("key", key), as_bytes("expected", expected), as_bytes("new", new)
        return bool(self._call(Code.COMPARE_AND_SET, key, new, expected))

    def keys(self, prefix: str | bytes = b"") -> list[bytes]:
        """The keys that begin with `prefix`, sorted. Linearizable."""
        keys: list[bytes] = self._call(KEYS, as_bytes("prefix", prefix))
        return keys

    def set_async(self, key: str | bytes, value: str | bytes) -> Future[None]:
        """`set`, as a future."""
        return self._begin(SET, as_bytes("key", key), as_bytes("value", value))

    def get_async(self, key: str | bytes) -> Future[bytes | None]:
        """`get`, as a future."""
        return self._begin(GET, checked_key(key))

    def delete_async(self, key: str | bytes) -> Future[bool]:
        """`delete`, as a future."""
        return self._begin(Code.DELETE, as_bytes("key", key))

    def set_if_absent_async(self, key: str | bytes, value: str | bytes) -> Future[bool]:
        """`set_if_absent`, as a future."""
        return self._begin(Code.SET_IF_ABSENT, as_bytes("key", key), as_bytes("value", value))

    def compare_and_set_async(self, key: str | bytes, expected: str | bytes, new: str | bytes) -> Future[bool]:
        """`compare_and_set`, as a future."""
        key, expected, new = as_bytes("key", key), as_bytes("expected", expected), as_bytes("new", new)
        return self._begin(Code.COMPARE_AND_SET, key, new, expected)

    def keys_async(self, prefix: str | bytes = b"") -> Future[list[bytes]]:
        """`keys`, as a future."""
        return self._begin(KEYS, as_bytes("prefix", prefix))

    def status(self) -> list[NodeStatus]:
        """A row for every member, in the order of ids. A member that does not answer within a second has the role
        "unreachable"; if none does, the rows are those of the addresses known, without ids."""
        return self._cluster.status()

    def members(self) -> list[ClusterMember]:
        """The members of the cluster, as the leader knows them, by id."""
        return self._cluster.members()

    def add_member(self, member: int, address: str) -> None:
        """Add member number `member`, which will listen at `address` (`host:port`): it is a learner, and gets its vote
        once it has been started (`raft_node.py <id> --join <address>`) and has caught up. Of a member that is there
        already, change the address. Returns once the change is committed."""
        self._cluster.add_member(member, address)

    def remove_member(self, member: int) -> None:
        """Remove a member from the cluster, the leader too. Returns once the change is committed."""
        self._cluster.remove_member(member)

    def transfer_leadership(self, target: int | None = None) -> int:
        """Have the member `target` lead, or without one the most up-to-date member that does not lead now: the id of
        the member that leads then. Raises `NotApplied` if the leader goes on leading, and says why."""
        return self._cluster.transfer_leadership(target)

    def backup(self, path: str | os.PathLike[str], progress: Progress = lambda done, size: None) -> BackupInfo:
        """Write the state of the cluster to a new file at `path`, which `python -m raftkv.admin restore` makes a new
        cluster of. Every write that was acknowledged before is in it.

        The cluster goes on meanwhile. It takes as long as it takes: the timeout is only how long there may be no
        leader, and how long nothing may come from it. `progress` is called now and then with the bytes that have come,
        and of how many; with zeros while the leader saves its state.
        """
        return self._cluster.backup(path, progress)

    def close(self) -> None:
        """End the session, if that is quickly done, and the connections. Calls under way fail."""
        self._pipeline.close()
        self._router.close()

    def _call(self, code: Code | int, key: bytes, value: bytes = b"", expected: bytes = b"") -> Any:
        call = BlockingCall(code, key, value, expected, time.monotonic() + self._timeout)
        if self._pipeline.is_delivering_here():
            raise call.error("FAILED_PRECONDITION", "a future's callback must not wait for a call: use the _async form")
        self._pipeline.submit(call)
        try:
            is_done = call.wait(self._timeout)
        except BaseException:  # Ctrl-C: the call's number must not hold back the session's mark
            self._pipeline.abandon(call)
            raise
        if not is_done:
            error = self._pipeline.abandon(call)
            if error is not None:
                raise error
            if not call.wait(_LAST_MOMENT_S):
                call.doubt = True
                raise call.error("DEADLINE_EXCEEDED", "the answer has come, and is held up by a future's callback")
        return call.result()

    def _begin(self, code: Code | int, key: bytes, value: bytes = b"", expected: bytes = b"") -> Future[Any]:
        call = FutureCall(code, key, value, expected, time.monotonic() + self._timeout, self._give_up)
        try:
            self._pipeline.submit(call)
        except NotApplied as error:
            call.fail(error)
        return call


def as_bytes(name: str, argument: str | bytes) -> bytes:
    if isinstance(argument, bytes):
        return argument
    if not isinstance(argument, str):
        raise WrongType(f"{name} must be str or bytes, not {type(argument).__name__}", "INVALID_ARGUMENT")
    try:
        return argument.encode()
    except UnicodeEncodeError as error:
        raise WrongValue(f"{name} can't be written as UTF-8: {error.reason}", "INVALID_ARGUMENT") from None


def checked_key(key: str | bytes) -> bytes:
    """Of a read; a write's key is the server's to check, with the rest."""
    checked = as_bytes("key", key)
    if not checked:
        raise WrongValue("a key must not be empty; nothing was read", "INVALID_ARGUMENT")
    return checked


def checked_addresses(addresses: Iterable[str]) -> list[str]:
    if isinstance(addresses, str) or not isinstance(addresses, Iterable):
        raise WrongType("addresses must be a list of host:port", "INVALID_ARGUMENT")
    checked: list[str] = []
    for address in addresses:
        if not isinstance(address, str):
            raise WrongType(f"an address must be str, not {type(address).__name__}", "INVALID_ARGUMENT")
        try:
            checked += parse_members([address]).values()
        except ConfigError as error:
            raise WrongValue(str(error), "INVALID_ARGUMENT") from None
    if not checked:
        raise WrongValue("no member's address is given", "INVALID_ARGUMENT")
    return checked


def checked_timeout(timeout: float) -> float:
    if not isinstance(timeout, int | float):
        raise WrongType(f"timeout must be a number of seconds, not {type(timeout).__name__}", "INVALID_ARGUMENT")
    if not (math.isfinite(timeout) and 0 < timeout <= threading.TIMEOUT_MAX):
        raise WrongValue(f"timeout must be a number of seconds above 0, not {timeout}", "INVALID_ARGUMENT")
    return float(timeout)
