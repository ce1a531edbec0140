"""Shows the data directory of a node that is down: `python storage.py DIR`. The storage itself is raftkv/storage.py."""

from __future__ import annotations

import sys

import raftkv.front_door  # noqa: F401  before the rest: a package may be missing, somebody may press Ctrl-C
from raftkv.dump import main
from raftkv.storage import Storage

__all__ = ["Storage"]

if __name__ == "__main__":
    sys.exit(main())
