#!/usr/bin/env python3
"""This cluster, etcd and PySyncObj under the same load: see benchmarks/cli.py, docs/performance.md, and --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
