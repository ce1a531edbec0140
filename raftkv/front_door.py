"""What may happen to a program before its own code runs: theory of operation.

Imported first by the front doors, the programs that somebody starts in a clone, and by the installed commands. Two
things may happen while the rest is imported, which takes some 0.2 s, and neither is worth a traceback:

* a package is missing, since the Python is not that of .venv: one line says so;
* Ctrl-C. The program ends at once, without a word: it has done nothing yet. Its own code says when it takes over
  (`leave_ctrl_c`).

Importing a front door as a module changes nothing: its importer gets the ModuleNotFoundError, and has its own ideas of
Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final

PACKAGES: Final = frozenset({"grpc", "google", "google_crc32c", "prompt_toolkit", "rich"})
"""What `pip install .` brings."""
ROOT: Final = Path(__file__).resolve().parent.parent
FRONT_DOORS: Final = [ROOT / name for name in ("client.py", "raft_node.py", "storage.py")]
INTERRUPTED: Final = 130
"""The exit status that a shell gives to Ctrl-C."""


def explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """For `sys.excepthook`: one line for a package that is not installed; the exit status is 1 as always."""
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if missing.partition(".")[0] not in PACKAGES:
        sys.__excepthook__(kind, error, traceback)
        return
    program = Path(sys.argv[0]).name
    mend = f"run .venv/bin/python {program}, or scripts/start_cluster.sh, which makes .venv"
    print(f"{program}: the package {missing} is not installed for {sys.executable}: {mend}", file=sys.stderr)


def _end_on_ctrl_c() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if a shell wants it to be ignored
        signal.signal(signal.SIGINT, _end)


def _end_on_signals() -> None:
    """Of a node, which either signal stops, and to which that is success."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end_well)


def _end(*_: Any) -> None:
    os._exit(INTERRUPTED)


def _end_well(*_: Any) -> None:
    os._exit(0)


def leave_ctrl_c() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, as ever."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def client() -> int:
    """The installed command `raftkv`."""
    _end_on_ctrl_c()
    from raftkv.repl import main

    return main()


def node() -> int:
    """The installed command `raftkv-node`."""
    _end_on_signals()
    from raftkv.node_program import main

    return main()


_program = Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve()
if _program in FRONT_DOORS:
    sys.excepthook = explain
    (_end_on_signals if _program.name == "raft_node.py" else _end_on_ctrl_c)()
