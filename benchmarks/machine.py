"""What the kernel knows of processes and disks (Linux), and what a reader has to know of the machine."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

_PROCESS_CLOCK: Final = 2
"""What the kernel calls CPUCLOCK_SCHED: time on a processor, of all threads, also those that have ended."""
_IN_MEMORY: Final = ("tmpfs", "ramfs")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, its own and the kernel's for it; 0 if it is gone.

    By the kernel's clock of the process (clock_getcpuclockid, which Python does not have), in nanoseconds:
    /proc/PID/stat counts in ticks of 10 ms, more than a process needs for a round of ten operations."""
    try:
        return time.clock_gettime((~pid << 3) | _PROCESS_CLOCK)
    except OSError:
        return 0.0


def memory_mb(pid: int) -> float:
    """Resident memory of a process in megabytes (10^6)."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def file_system(path: Path) -> str:
    """The type of the file system that a directory is on; "" if that can't be told."""
    best, kind = "", ""
    try:
        mounts = Path("/proc/mounts").read_text()
    except OSError:
        return ""
    for line in mounts.splitlines():
        mounted_at, this_kind = line.split()[1:3]
        if path.resolve().is_relative_to(mounted_at) and len(mounted_at) >= len(best):
            best, kind = mounted_at, this_kind
    return kind


def is_in_memory(path: Path) -> bool:
    """Whether the directory has no disk behind it, so that an fsync costs nothing."""
    return file_system(path) in _IN_MEMORY


def disk_flushes(path: Path) -> int | None:
    """How often the disk below a directory has been told to make its cache durable, by anybody, since it was started;
    None where the kernel does not say."""
    device = path.stat().st_dev
    try:
        lines = Path("/proc/diskstats").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)) and len(fields) > 18:
            return int(fields[18])
    return None


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time of some processes, by the names they have in the rows, and flushes of the disk."""

    cpu: dict[str, float]
    flushes: int | None

    @classmethod
    def of(cls, pids: dict[str, int], directory: Path) -> Usage:
        return cls({name: cpu_seconds(pid) for name, pid in pids.items()}, disk_flushes(directory))


def description(directory: Path) -> str:
    """One line for the head of a report."""
    model = "processor unknown"
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = found[1].strip() if found else model
    except OSError:
        pass
    grpcio = metadata.version("grpcio")
    return (
        f"{os.cpu_count()} cores ({model}), {file_system(directory) or 'unknown'} file system, "
        f"Linux {platform.release()}, Python {platform.python_version()}, grpcio {grpcio}"
    )
