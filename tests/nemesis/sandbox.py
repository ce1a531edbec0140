"""A run in Linux namespaces of its own: theory of operation.

The nemesis starts itself anew under `unshare`, with its own network, mounts and process ids. So it can give every node
a network interface, and a disk of its own that can be full, and none of that is to be seen from outside; and when its
first process ends, however it ends, the kernel removes everything: processes, interfaces, mounts. That takes root, or a
system where users may have namespaces and /dev/net/tun.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

_INSIDE: Final = "RAFTKV_NEMESIS_SANDBOX"
ENVIRONMENT: Final = {_INSIDE: "1"}
"""Tells a process that it runs inside."""

_PROBE: Final = "mount -t tmpfs none /run && ip link set lo up && ip netns add probe && ip tuntap add dev t0 mode tun"
"""What will be needed inside."""


def is_inside() -> bool:
    return _INSIDE in os.environ


def command(words: Sequence[str]) -> list[str]:
    """The command that runs `words` in a sandbox, given ENVIRONMENT."""
    options = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        options += ["--user", "--map-root-user"]
    return ["unshare", *options, "--", *words]


@functools.cache
def why_not() -> str:
    """Why there can be no sandbox here; empty if there can."""
    missing = [program for program in ("unshare", "nsenter", "ip", "mount") if not shutil.which(program)]
    if missing:
        return f"{missing[0]} is not installed"
    probe = subprocess.run(command(["sh", "-c", _PROBE]), capture_output=True, text=True, check=False)
    if probe.returncode:
        lines = probe.stderr.strip().splitlines() or ["no reason given"]
        return f"this system does not allow it ({lines[-1]})"
    return ""


def enter(words: Sequence[str]) -> NoReturn:
    """Run `words` in a sandbox, in this process's place."""
    sys.stdout.flush()
    os.execvpe("unshare", command(words), {**os.environ, **ENVIRONMENT})


def furnish() -> None:
    """The first thing to do inside: a /run of our own, for the names of network namespaces, and a loopback."""
    run("mount", "-t", "tmpfs", "none", "/run")
    run("ip", "link", "set", "lo", "up")


def run(*words: str) -> None:
    """Run a command that has no reason to fail here."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
