"""Mutants of `AsyncClient`: what is between a task and the pipeline that all clients share."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_ASYNC = "async_client.py"
_ASYNCIO = ("tests/client/test_asyncio.py",)

TASKS = [
    Mutant(
        "a task that is cancelled does not give its call up",
        (55,),
        (Patch(_ASYNC, "AsyncClient._call", "self._pipeline.abandon(call)", "pass"),),
        _ASYNCIO,
    ),
    Mutant(
        "a task finds no value",
        (),
        (Patch(_ASYNC, "AsyncClient.get", "return value", "return None"),),
        _ASYNCIO,
    ),
    Mutant(
        "a task waits for ever",
        (48,),
        (Patch(_ASYNC, "AsyncClient._call", "time.monotonic() + self._timeout", "time.monotonic() + 1e9"),),
        _ASYNCIO,
    ),
    Mutant(
        "a task's write is put before those that wait",
        (),
        (
            Patch(
                _ASYNC,
                "AsyncClient._call",
                "self._pipeline.enqueue(call)",
                "(self._pipeline._writes if call.is_write else self._pipeline._reads).appendleft(call)",
            ),
        ),
        _ASYNCIO,
    ),
    Mutant(
        "a task's compare-and-set takes the new value for the expected one",
        (),
        (Patch(_ASYNC, "AsyncClient.compare_and_set", "key, new, expected))", "key, expected, new))"),),
        _ASYNCIO,
    ),
    Mutant(
        "a task that is cancelled takes the others' answers along",
        (),
        (Patch(_ASYNC, "AsyncClient._settle", "if future.done():", "if False:"),),
        _ASYNCIO,
    ),
    Mutant(
        "a task's error is its result",
        (48,),
        (Patch(_ASYNC, "AsyncClient._settle", "if isinstance(outcome, Error):", "if False:"),),
        _ASYNCIO,
    ),
    Mutant(
        "each task's call is a message of its own",
        (),
        (Patch(_ASYNC, "AsyncClient._call", "loop.call_soon(self._flush)", "self._flush()"),),
        _ASYNCIO,
    ),
    Mutant(
        "only what is answered last is told to the loop",
        (),
        (
            Patch(
                _ASYNC,
                "AsyncClient._hand_over",
                "while True:\n    outcomes.append(self._outcomes.popleft())",
                "while True:\n    outcomes[:] = [self._outcomes.popleft()]",
            ),
        ),
        _ASYNCIO,
    ),
    Mutant(
        "a second loop may use a client, too",
        (),
        (Patch(_ASYNC, "AsyncClient._call", "if self._loop is not None:", "if False:"),),
        _ASYNCIO,
    ),
    Mutant(
        "the loop stands still while the members are asked for their status",
        (),
        (
            Patch(
                _ASYNC, "AsyncClient.status", "await asyncio.to_thread(self._cluster.status)", "self._cluster.status()"
            ),
        ),
        _ASYNCIO,
    ),
    Mutant(
        "the loop stands still while a client says goodbye",
        (),
        (Patch(_ASYNC, "AsyncClient.close", "await asyncio.to_thread(self._close)", "self._close()"),),
        _ASYNCIO,
    ),
    Mutant(
        "a client of asyncio that is closed keeps its connections",
        (),
        (Patch(_ASYNC, "AsyncClient._close", "self._router.close()", "pass"),),
        ("tests/client/test_leader.py",),
    ),
    Mutant(
        "a task waits too long for the members",
        (48,),
        (
            Patch(
                _ASYNC,
                "AsyncClient.__init__",
                "ClusterCalls(self._router, self._timeout)",
                "ClusterCalls(self._router, 5 * self._timeout)",
            ),
        ),
        ("tests/client/test_members.py",),
    ),
    Mutant(
        "an answer for a loop that is gone ends the thread that brings it",
        (51,),
        (Patch(_ASYNC, "AsyncClient._hand_over", "suppress(RuntimeError)", "suppress()"),),
        _ASYNCIO,
    ),
]
