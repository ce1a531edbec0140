"""A cluster that is backed up while it works, and what is made of the backup or of the last member that is left."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raftkv import Client
from raftkv.admin import CONFIRMATION
from tests.processes.conftest import MakeCluster
from tests.support.copies import ROOT
from tests.support.processes import Cluster, run, wait_until


def admin(*arguments: object) -> str:
    """Run the program, which must succeed: what it prints."""
    command = [sys.executable, "-m", "raftkv.admin", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def restore(backup: Path, cluster: Cluster) -> None:
    """Make the directories of all of its nodes."""
    cluster_id = ""
    for node in cluster.nodes:
        given = ["--cluster-id", cluster_id] if cluster_id else []
        output = admin("restore", backup, node.id, *cluster.addresses, "--data-dir", node.data_dir, *given)
        cluster_id = output.partition("new cluster ")[2][:32]


def test_a_cluster_that_is_restored_holds_what_was_acknowledged_before_the_backup(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    backup = tmp_path / "backup"
    with cluster.client() as client:
        for future in [client.set_async(f"before-{n}", str(n)) for n in range(1000)]:
            future.result()
        meanwhile = [client.set_async(f"meanwhile-{n}", str(n)) for n in range(1000)]
        command = [sys.executable, str(ROOT / "client.py"), cluster.addresses[0], "-c", f"BACKUP {backup}"]
        done = run(command, tmp_path)
        for future in meanwhile:
            future.result()
    assert done.status == 0, done.stderr
    assert done.stdout.startswith("OK: ")
    assert done.stderr == "", "progress is for terminals"
    cluster.kill()
    restored: Cluster = make_cluster(size=3)
    restore(backup, restored)
    restored.start()
    with restored.client() as client:
        keys = client.keys()
        assert [key for key in keys if key.startswith(b"before")] == sorted(b"before-%d" % n for n in range(1000))
        client.set("after", "wards")
        restored.leader().kill()
        assert client.get("after") == b"wards"
        assert client.get("before-7") == b"7"


def test_a_member_of_the_old_cluster_can_not_come_into_the_new_one_nor_the_new_one_take_it_over(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    old: Cluster = make_cluster(size=3)
    old.start()
    with old.client() as client:
        client.set("key", "value")
    old.wait_caught_up()
    old.kill()
    new: Cluster = make_cluster(addresses=[old.addresses[0]])
    admin("force-new-cluster", old[1].data_dir, "--data-dir", new[1].data_dir, CONFIRMATION)
    new.start()
    with Client(new.addresses) as client:
        assert client.get("key") == b"value"
        client.set("key", "new")
        # The two others are started after all, where they always were.
        old.start([old[2], old[3]])
        wait_until(lambda: "refuse" in old[2].log + old[3].log, "an old member is told")
        client.add_member(2, old[2].address)
        wait_until(lambda: "belongs to another cluster" in new[1].log, "the old member refuses the new cluster")
        client.set("key", "newer")
        with Client(old.addresses[1:]) as other:
            assert other.get("key") == b"value", "they go on as the old cluster"
            other.set("key", "old")
        assert client.get("key") == b"newer"
        # Without its old directory the member may join.
        client.remove_member(2)
        old.kill()
        client.add_member(2, old[2].address)
        shutil.rmtree(old[2].data_dir)
        old[2].joins = True
        old.nodes[0] = new[1]
        old[2].start()
        old.wait_voter(client, old[2])
        assert client.get("key") == b"newer"


@pytest.mark.parametrize("name", ["backup", "a backup with blanks"])
def test_a_backup_may_have_any_name(make_cluster: MakeCluster, tmp_path: Path, name: str) -> None:
    cluster: Cluster = make_cluster(size=1)
    cluster.start()
    command = [sys.executable, str(ROOT / "client.py"), cluster.addresses[0], "-c", f"BACKUP '{tmp_path / name}'"]
    assert run(command, tmp_path).status == 0
    assert (tmp_path / name).exists()
    refused = run(command, tmp_path)
    assert (refused.status, refused.stdout.startswith("ERROR INVALID_ARGUMENT: ")) == (1, True)
