"""The thread that saves snapshots: theory of operation.

It works on one thing after the other, as `Snapshots` hands them in: it writes a frozen state to a file, and removes
files that no longer count. grpcio does not survive a fork(), so the state is not copied that way; instead the thread
shares the interpreter with those who answer clients. After each piece, a millisecond's work at most, it rests for
eight times as long as that has taken, but for a tenth of a second at most: so nobody waits for it for long, and it
hardly takes more than a ninth of the interpreter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Final, TypeVar

from raftkv.log_storage import LogStorage
from raftkv.snapshots import Save, SnapshotFailed, SnapshotSaved, write_snapshot

_T = TypeVar("_T")

_REST: Final = 8
"""Times as long as what has just been done."""
_LONGEST_REST: Final = 0.1
"""Seconds. What took longer has waited for the disk, and held up nobody."""


class SnapshotThread:
    """See `raftkv.snapshots.Saver`."""

    def __init__(
        self,
        storage: LogStorage,
        bring: Callable[[SnapshotSaved | SnapshotFailed], None],
        fail: Callable[[BaseException], None],
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`bring` takes what has become of a save; `fail` stops the node."""
        self._storage = storage
        self._bring = bring
        self._fail = fail
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give up what is under way, and end."""
        self._stopped.set()
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def save(self, save: Save) -> None:
        self._jobs.put(lambda: self._write(save))

    def clean(self) -> None:
        self._jobs.put(self._remove_leftovers)

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None and not self._stopped.is_set():
                job()
        except BaseException as error:
            self._fail(error)

    def _write(self, save: Save) -> None:
        def give_up() -> None:
            save.is_wanted = False

        self._bring(self._carry_out(write_snapshot(save, self._storage), give_up))

    def _remove_leftovers(self) -> None:
        steps = self._storage.remove_leftovers()
        self._carry_out(steps, steps.close)

    def _carry_out(self, steps: Generator[None, None, _T], give_up: Callable[[], None]) -> _T:
        """Take one step after the other, and call `give_up` before the next one if the thread is to end."""
        try:
            while True:
                began = time.perf_counter()
                next(steps)
                if self._stopped.is_set():
                    give_up()
                else:
                    self._sleep(min(_REST * (time.perf_counter() - began), _LONGEST_REST))
        except StopIteration as end:
            result: _T = end.value
            return result
