"""A node that has to stop does so even if it can't say why (hazards 13, 18 and 51)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from raftkv.log_storage import StorageError
from raftkv.node_program import _Executioner
_Executioner("node 1")({error})
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file on a disk that is full")
@pytest.mark.parametrize("error", ["StorageError('log-1: no space')", "RuntimeError('a bug')"])
def test_a_node_stops_though_its_log_is_on_the_full_disk(error: str) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", PROGRAM.format(error=error)], stderr=full, timeout=30)
    assert ended.returncode == 1
