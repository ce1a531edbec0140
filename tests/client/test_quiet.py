"""What a program that uses the library gets on stderr."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT

PROGRAM = """
from raftkv import Client, Error
from tests.client.fake_cluster import FakeCluster

with FakeCluster() as cluster, Client(cluster.addresses, timeout=0.5) as client:
    client.set("key", "1")
    for member in cluster.members.values():
        member.kill()
    try:
        client.set("key", "2")
    except Error:  # whether it was on its way already is a matter of luck
        print("has failed")
"""


@pytest.mark.parametrize(("verbosity", "says"), [(None, False), ("INFO", True)])
def test_nothing_but_what_it_has_asked_grpc_for(verbosity: str | None, says: bool) -> None:
    """The members go, which gRPC remarks upon."""
    environment = {name: text for name, text in os.environ.items() if name != "GRPC_VERBOSITY"}
    if verbosity:
        environment["GRPC_VERBOSITY"] = verbosity
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "has failed\n")
    assert bool(done.stderr) == says, done.stderr
