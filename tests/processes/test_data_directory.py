"""What a node makes of a data directory that it finds: hazards 9, 11 and 18, and rule 11 of the design (identity)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.conftest import MakeCluster
from tests.processes.test_bad_arguments import assert_one_line
from tests.support.processes import ROOT, Cluster, Finished, Node, free_addresses


def refused(node: Node) -> Finished:
    """Start the node and wait for it to give up."""
    node.start(wait=False)
    return node.wait()


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def used(make_cluster: MakeCluster) -> Cluster:
    """A cluster of one, stopped, with something in its log: a batch for each write."""
    cluster: Cluster = make_cluster(size=1)
    cluster.start()
    with cluster.client() as client:
        for i in range(50):
            client.set(f"key-{i}", f"value {i} " + 20 * "x")
    cluster.kill()
    return cluster


def test_a_segment_is_as_large_as_it_is_set(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1, settings={"SEGMENT_BYTES": 4096})
    cluster.start()
    with cluster.client() as client:
        for i in range(5):
            client.set(f"key-{i}", 3000 * "x")
    assert {"log-1", "log-2", "log-3"} <= set(os.listdir(cluster[1].data_dir))


def largest_log_file(node: Node) -> Path:
    files = [path for path in node.data_dir.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.read_bytes().rstrip(b"\0").__len__())


def written_bytes(path: Path) -> int:
    """Up to the last byte that is not zero: a segment may be filled with zeros ahead of the writing."""
    return len(path.read_bytes().rstrip(b"\0"))


def test_the_directory_of_another_member_is_refused(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=2)
    cluster.start()
    cluster.leader()
    cluster.kill()
    before = contents(cluster[1].data_dir)
    cluster[2].data_dir = cluster[1].data_dir
    assert_one_line(refused(cluster[2]), 1, str(cluster[1].data_dir), "node 1")
    assert contents(cluster[1].data_dir) == before


def test_the_directory_of_another_cluster_is_refused(used: Cluster, make_cluster: MakeCluster) -> None:
    other: Cluster = make_cluster(addresses=free_addresses(1))
    before = contents(used[1].data_dir)
    other[1].data_dir = used[1].data_dir
    assert_one_line(refused(other[1]), 1, str(used[1].data_dir), used[1].address)
    assert contents(used[1].data_dir) == before


def test_a_directory_that_another_process_uses_is_refused(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1)
    cluster.start()
    second: Cluster = make_cluster(size=1)  # the address is checked too, so it needs one of its own
    second[1].data_dir = cluster[1].data_dir
    assert_one_line(refused(second[1]), 1, str(cluster[1].data_dir), "in use")
    with cluster.client() as client:
        client.set("k", "the first one goes on")


def test_a_file_in_the_directorys_place_is_refused(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1)
    cluster[1].data_dir.write_text("something else")
    assert_one_line(refused(cluster[1]), 1, str(cluster[1].data_dir))
    assert cluster[1].data_dir.read_text() == "something else"


def test_a_directory_that_can_not_be_written_is_refused(used: Cluster) -> None:
    node = used[1]
    if os.geteuid() != 0:
        node.data_dir.chmod(0o500)
        for path in node.data_dir.rglob("*"):
            path.chmod(0o400)
        assert_one_line(refused(node), 1, str(node.data_dir))
        return
    # Permissions do not bind root; an immutable directory does, where the file system knows such a thing.
    mark = ["chattr", "+i", str(node.data_dir), *map(str, node.data_dir.rglob("*"))]
    if not shutil.which("chattr") or subprocess.run(mark, capture_output=True, check=False).returncode:
        pytest.skip("root may write everywhere, and this file system has no immutable files")
    try:
        finished = refused(node)
    finally:
        subprocess.run([mark[0], "-i", *mark[2:]], check=True)
    assert_one_line(finished, 1, str(node.data_dir))


def test_a_log_torn_at_its_end_is_cut_with_a_word_and_the_node_serves(used: Cluster) -> None:
    """As a crash in the middle of the last write leaves it. That write was never acknowledged, so it may be lost."""
    node = used[1]
    log = largest_log_file(node)
    end = written_bytes(log)
    with log.open("r+b") as file:
        file.truncate(end - 3)
    used.start()
    assert log.name in node.log, "it says what it has cut"
    with used.client() as client:
        assert len(client.keys()) >= 49
        client.set("after", "the cut")
    used.kill()
    used.start()
    with used.client() as client:
        assert client.get("after") == b"the cut"
        assert client.get("key-48") == f"value 48 {20 * 'x'}".encode()


def test_a_log_damaged_in_its_middle_is_refused_with_file_and_offset(used: Cluster) -> None:
    """What was acknowledged is lost there, so the node may not go on as if nothing were."""
    node = used[1]
    log = largest_log_file(node)
    with log.open("r+b") as file:
        at = log.read_bytes().index(b"value 25")
        file.seek(at)
        file.write(b"V")
    before = contents(node.data_dir)
    finished = refused(node)
    assert_one_line(finished, 1, str(log))
    offsets = [int(word) for word in "".join(c if c.isdigit() else " " for c in finished.stderr).split()]
    assert any(at - 200 < offset <= at for offset in offsets), f"no offset near {at} in {finished.stderr!r}"
    assert contents(node.data_dir) == before


def test_damage_in_the_metadata_is_refused_with_the_file(used: Cluster) -> None:
    node = used[1]
    others = [path for path in node.data_dir.rglob("*") if path.is_file() and path != largest_log_file(node)]
    damaged = [path for path in others if path.stat().st_size]
    assert damaged
    for path in damaged:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
        assert_one_line(refused(node), 1, str(path))
        path.write_bytes(whole)
    used.start()


def test_the_dump_reads_the_directory_of_a_node_that_is_down(used: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "storage.py"), str(used[1].data_dir)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "SET key-0 value 0" in done.stdout
    assert "NO-OP" in done.stdout
