"""A key-value store on a Raft cluster: the client library.

    from raftkv import Client
    with Client(["127.0.0.1:50051"]) as client:
        client.set("key", "value")

The names are imported when they are first used, so that the parts of the package that need no gRPC (the algorithm, the
state machine, the storage) can be imported without it.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raftkv.async_client import AsyncClient
    from raftkv.client import Client, Error, NodeStatus, NotApplied, OutcomeUnknown

# gRPC reads this when it is imported, so it has to be said here, before any module of this package does that. Its newer
# way of waiting for the network (its "event engine") hands every message from one thread to another once more; the one
# before takes half the time and half the CPU for a round trip (docs/performance.md). Whoever has set the variable knows
# better; and who imports gRPC first is served more slowly, and as well.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
# gRPC's core writes lines of its own to stderr, even of connections that have only ended ("Got goaway"): what matters
# of them is said by errors and in the log. Whoever has set it wants to see them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Error", "NodeStatus", "NotApplied", "OutcomeUnknown", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "raftkv.async_client" if name == "AsyncClient" else "raftkv.client"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__
