"""Runs one node of a cluster: `python raft_node.py <id> <address> [<address> ...]`. The node is raftkv/node.py."""

from __future__ import annotations

import sys

import raftkv.front_door  # noqa: F401  before the rest: a package may be missing, somebody may press Ctrl-C
from raftkv.node import RaftNode
from raftkv.node_program import main

__all__ = ["RaftNode"]

if __name__ == "__main__":
    sys.exit(main())
