"""A node whose connections to other nodes go through the nemesis's proxies; otherwise the same as raft_node.py.

The addresses stay what they are, since the members compare them; only where a channel connects to is changed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import grpc

from raftkv.node_program import main
from tests.nemesis.proxy import PROXIES

_insecure_channel = grpc.insecure_channel
_proxies: dict[str, str] = json.loads(os.environ[PROXIES])


def _through_proxy(target: str, *arguments: Any, **options: Any) -> grpc.Channel:
    return _insecure_channel(_proxies.get(target, target), *arguments, **options)


if __name__ == "__main__":
    grpc.insecure_channel = _through_proxy
    sys.exit(main())
