"""Imported first by the front doors: one that is run by a Python without the dependencies says so in one line.

A front door is a program that somebody starts in a clone, perhaps without having activated .venv. Importing one as a
module changes nothing: its importer gets the ModuleNotFoundError.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Final

PACKAGES: Final = frozenset({"grpc", "google", "google_crc32c", "prompt_toolkit", "rich"})
"""What `pip install .` brings."""
ROOT: Final = Path(__file__).resolve().parent.parent
FRONT_DOORS: Final = [ROOT / name for name in ("client.py", "raft_node.py", "storage.py")]


def explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """For `sys.excepthook`: one line for a package that is not installed; the exit status is 1 as always."""
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if missing.partition(".")[0] not in PACKAGES:
        sys.__excepthook__(kind, error, traceback)
        return
    program = Path(sys.argv[0]).name
    mend = f"run .venv/bin/python {program}, or scripts/start_cluster.sh, which makes .venv"
    print(f"{program}: the package {missing} is not installed for {sys.executable}: {mend}", file=sys.stderr)


if Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve() in FRONT_DOORS:
    sys.excepthook = explain
