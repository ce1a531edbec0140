"""Imported first by the scripts that a person may interrupt: Ctrl-C while they are still being loaded ends them at once
and without a traceback. They have done nothing yet. Afterwards they say `from_now_on_raise`.

A copy in small of raftkv/front_door.py, since these scripts run where nothing is installed.
"""

from __future__ import annotations

import os
import signal
from typing import Any


def _end(*_: Any) -> None:
    os._exit(130)


def from_now_on_raise() -> None:
    """Ctrl-C is a KeyboardInterrupt, as ever."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if a shell wants it to be ignored
    signal.signal(signal.SIGINT, _end)
