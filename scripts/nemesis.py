#!/usr/bin/env python3
"""Faults on the real processes of a cluster under load, and then the verdict. tests/nemesis/ does it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.nemesis.nemesis import main

if __name__ == "__main__":
    sys.exit(main())
