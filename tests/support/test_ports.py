"""Ports for tests: nobody else gets them, however many there are."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.support import processes
from tests.support.processes import ROOT, free_port


def test_however_many_ports_are_held_they_take_one_descriptor() -> None:
    free_port()
    descriptors = Path("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")
    before = len(list(descriptors.iterdir()))
    ports = [free_port() for _ in range(50)]
    assert len(list(descriptors.iterdir())) == before
    assert len(set(ports)) == 50


def test_another_process_does_not_get_a_port_that_is_held() -> None:
    port, free = free_port(), free_port()
    take = (
        "import sys; from tests.support import processes; print([processes._take_port(int(p)) for p in sys.argv[1:]])"
    )

    def tried() -> str:
        command = [sys.executable, "-c", take, str(port), str(free)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()

    assert tried() == "[False, False]"
    fcntl.lockf(processes._port_locks(), fcntl.LOCK_UN, 1, free)
    assert tried() == "[False, True]"
