"""The node's clock: seconds that never jump and that go on while the machine is suspended.

A lease is a promise about real time (rule: durations only). The wall clock jumps, and CLOCK_MONOTONIC stands still
during a suspend on Linux, which would let a leader wake up inside a lease that the others saw end long ago.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since some fixed moment."""
    return time.clock_gettime(_CLOCK)
