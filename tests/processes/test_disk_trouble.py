"""Disks that are too slow to lead with, or full: what docs/operations.md tells a person to expect (hazards 17, 18)."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv import Error
from tests.processes.conftest import MakeCluster
from tests.support import strace
from tests.support.processes import Cluster, unexpected_in, wait_until
from tests.support.rolling import Writers

needs_strace = pytest.mark.skipif(bool(strace.why_not()), reason=strace.why_not() or "strace is there")


@needs_strace
@pytest.mark.parametrize("seconds", [0.7, 30.0], ids=["slow", "stuck"])
def test_leadership_moves_away_from_a_disk_that_is_too_slow(
    make_cluster: MakeCluster, tmp_path: Path, seconds: float
) -> None:
    """Each sync takes longer than an election timeout (0.5 s), or does not end at all. Either the others notice, or the
    leader itself; the cluster is as quick as ever then. Two election timeouts are enough on a machine that has nothing
    else to do (tests/raft/test_hazards.py); here it may have."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader = cluster.leader()
    with Writers(cluster.addresses) as noticed:
        with strace.Strace(leader.pid, tmp_path / "trace", strace.delay(seconds)):
            began = time.monotonic()
            wait_until(lambda: cluster.find_leader() not in (None, leader), "another node leads", 10)
            moved = time.monotonic() - began
            written = len(noticed.acknowledged_at)
            wait_until(lambda: len(noticed.acknowledged_at) > written + 20, "writes go through again", 10)
        leader.kill()  # strace would wait for the call that hangs
        leader.start()
    assert not noticed.failed
    assert moved < 5.0
    cluster.wait_caught_up()
    assert not any(unexpected_in(node.whole_log) for node in cluster.nodes)


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own, in memory; skips the test where that may not be mounted."""
    directory.mkdir(mode=0o700, parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"mode=700,size={megabytes}m", "raftkv-test", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs to mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_hazard_18_a_node_whose_disk_is_full_stops_and_starts_again_once_there_is_space(
    make_cluster: MakeCluster,
) -> None:
    cluster: Cluster = make_cluster(size=3)
    victim = cluster[1]
    acknowledged = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(small_disk(victim.data_dir, megabytes=4))
        cluster.start()
        client = stack.enter_context(cluster.client())
        if cluster.leader() is not victim:  # the leader's disk is the one that matters most
            wait_until(lambda: _made_to_lead(cluster, victim.id), f"{victim} leads")
        for i in range(100):
            if not victim.is_running:
                break
            client.set(f"k{i}", b"v" * 100_000)
            acknowledged.append(f"k{i}")
        finished = victim.wait()
        assert finished.status == 1
        last = finished.stderr.splitlines()[-1]
        assert str(victim.data_dir) in last
        assert "No space left on device; free some space, then start the node again" in last
        assert not unexpected_in(finished.stderr)

        client.set("during", "v")
        victim.start(wait=False)  # in vain or not, it must do no harm
        wait_until(lambda: not victim.is_running or "ready on" in victim.output, "it has ended, or is ready")
        victim.kill()
        subprocess.run(["mount", "-o", "remount,size=256m", str(victim.data_dir)], check=True)
        victim.start()
        cluster.wait_caught_up()
        cluster.kill()
        cluster.start()
        cluster.wait_caught_up()
        assert len(acknowledged) > 10
        assert set(client.keys()) >= {b"during", *(key.encode() for key in acknowledged)}
        cluster.kill()
    assert not any(unexpected_in(node.whole_log) for node in cluster.nodes)


def _made_to_lead(cluster: Cluster, target: int) -> bool:
    with cluster.client() as client, contextlib.suppress(Error):
        return client.transfer_leadership(target) == target
    return False
