"""The interactive client: `python client.py <address> [<address> ...]`. The library is raftkv/client.py."""

from __future__ import annotations

import sys

import raftkv.missing  # noqa: F401  says in one line that a package is missing
from raftkv.client import Client
from raftkv.repl import main

__all__ = ["Client"]

if __name__ == "__main__":
    sys.exit(main())
