"""A member of a PySyncObj cluster, which can make the load as well: there, a client is a member.

    python -m benchmarks.pysyncobj_member OWN_ADDRESS OTHER_ADDRESS ... [--journal PATH]

It says `ready` when there is a leader. On stdin it takes `leader` (answers whether it leads), `count` (how many keys it
has) and orders for load as JSON, which it answers like load.py.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import Future
from typing import Any

import pysyncobj

from benchmarks.load import run
from benchmarks.loops import Futures
from benchmarks.work import Order


class Store(pysyncobj.SyncObj):  # type: ignore[misc, unused-ignore]
    """A replicated dict."""

    def __init__(self, own: str, others: list[str], journal: str | None) -> None:
        super().__init__(own, others, pysyncobj.SyncObjConf(journalFile=journal, commandsQueueSize=1_000_000))
        self.values: dict[bytes, bytes] = {}

    @pysyncobj.replicated  # type: ignore[untyped-decorator, unused-ignore]
    def put(self, key: bytes, value: bytes) -> None:
        self.values[key] = value


class Client:
    """Futures for the load's loops."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def set_async(self, key: bytes, value: bytes) -> Future[None]:
        future: Future[None] = Future()

        def done(_: Any, error: int) -> None:
            if error:
                future.set_exception(ConnectionError(f"PySyncObj's failure {error}"))
            else:
                future.set_result(None)

        self._store.put(key, value, callback=done)
        return future


def main(words: list[str]) -> None:
    """Serve until stdin ends."""
    journal = None
    if "--journal" in words:
        at = words.index("--journal")
        journal, words = words[at + 1], words[:at]
    store = Store(words[0], words[1:], journal)
    while not store.isReady():
        time.sleep(0.01)
    print("ready", flush=True)
    for line in sys.stdin:
        match line.strip():
            case "leader":
                leader = store._getLeader()
                print(json.dumps(leader is not None and str(leader) == words[0]), flush=True)
            case "count":
                print(json.dumps(len(store.values)), flush=True)
            case text:
                print(json.dumps(run(Futures(Order.from_json(text), Client(store)))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
