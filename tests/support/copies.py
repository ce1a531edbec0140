"""Copies of the project for tests that run it as somebody who has just cloned it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

_NOT_IN_A_CLONE: Final = (
    ".git",
    ".venv*",
    "data",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".coverage*",
)


def copy_project(destination: Path) -> Path:
    """Copy to `destination` what a fresh clone would have: no environment, no data, no caches."""
    shutil.copytree(ROOT, destination, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_IN_A_CLONE, ".hypothesis"))
    return destination
