"""The interactive client: `python client.py <address> [<address> ...]`. The library is raftkv/client.py."""

from __future__ import annotations

import sys

import raftkv.front_door  # noqa: F401  before the rest: a package may be missing, somebody may press Ctrl-C
from raftkv.client import Client
from raftkv.repl import main

__all__ = ["Client"]

if __name__ == "__main__":
    sys.exit(main())
