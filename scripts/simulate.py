#!/usr/bin/env python3
"""Deterministic simulation of whole clusters: see tests/simulation/cli.py, and --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.simulation.cli import main

if __name__ == "__main__":
    sys.exit(main())
