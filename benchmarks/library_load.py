"""`benchmarks.load` as a program that uses our library has it: the library is imported first, and sets gRPC up.

In a run of scripts/bench.py all processes inherit the variable that this sets, the bare echo's and the others' too.
"""

from __future__ import annotations

import sys

import raftkv  # noqa: F401  # before what imports gRPC
from benchmarks.load import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
