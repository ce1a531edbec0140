"""Runs one node of a cluster: `python raft_node.py <id> <address> [<address> ...]`. The node is raftkv/node.py."""

from __future__ import annotations

import sys

import raftkv.missing  # noqa: F401  says in one line that a package is missing
from raftkv.node import RaftNode, main

__all__ = ["RaftNode"]

if __name__ == "__main__":
    sys.exit(main())
