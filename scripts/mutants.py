#!/usr/bin/env python3
"""Puts known bugs into a copy of the code, and shows which test notices each: see tests/mutants/cli.py, and --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.mutants.cli import main

if __name__ == "__main__":
    sys.exit(main())
