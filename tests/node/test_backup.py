"""Backups of whole nodes that go on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.backup import MAX_BACKUPS
from raftkv.backup_file import BackupInfo
from raftkv.client import Client
from raftkv.disk import OS_DISK
from raftkv.kv import StateMachine
from raftkv.kv_snapshot import decode
from raftkv.snapshot_file import SnapshotFile
from raftkv.wire import raft_pb2 as wire
from tests.node.fakes import fake_node
from tests.node.members import STEADY, Members
from tests.support.processes import wait_until


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path / "cluster", 3, STEADY)
    yield members
    members.close()
    assert not any(members.failures.values())


def restored(path: Path) -> StateMachine:
    machine = StateMachine()
    machine.restore(decode(SnapshotFile.open(OS_DISK, str(path)))[1])
    return machine


def test_a_backup_holds_every_write_that_was_acknowledged_before_while_others_go_on(
    members: Members, tmp_path: Path
) -> None:
    members.start()
    leader = members.elect(1)
    stop = threading.Event()
    acknowledged: list[int] = [0]

    def go_on() -> None:
        with Client(members.addresses.values()) as writer:
            while not stop.is_set():
                writer.set("count", str(acknowledged[0] + 1))
                acknowledged[0] += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    with Client(members.addresses.values()) as client:
        for round in range(3):
            enough = acknowledged[0] + 20
            wait_until(partial(lambda enough: acknowledged[0] > enough, enough), "writes go on")
            before = acknowledged[0]
            made = client.backup(tmp_path / f"backup-{round}")
            machine = restored(tmp_path / f"backup-{round}")
            assert before <= int(machine.get(b"count") or 0)
            assert (made.last_index, made.keys) == (machine.applied_index, 1)
            assert made.cluster_id == leader.membership.cluster_id
    stop.set()
    thread.join()
    members.wait_until_equal()


def test_a_cluster_without_writes_gives_the_same_backup_twice(members: Members, tmp_path: Path) -> None:
    members.start()
    members.elect(1)
    with Client(members.addresses.values()) as client:
        client.set("key", "value")
        first, second = (client.backup(tmp_path / name) for name in ("one", "two"))
    assert isinstance(first, BackupInfo)
    assert first == second
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_member_that_does_not_lead_refuses(members: Members) -> None:
    members.start()
    members.elect(1)
    with grpc.insecure_channel(members.addresses[2]) as channel:
        call: Any = channel.unary_stream(
            "/RaftNode/Backup", wire.BackupRequest.SerializeToString, wire.BackupReply.FromString
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(call(wire.BackupRequest(), timeout=10))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_there_are_few_at_a_time_and_one_whose_client_has_gone_makes_room() -> None:
    """What they wait for never comes here."""
    with fake_node() as node:
        begin: Any = node.channel.unary_stream(
            "/RaftNode/Backup", wire.BackupRequest.SerializeToString, wire.BackupReply.FromString
        )
        calls = [begin(wire.BackupRequest(), timeout=30) for _ in range(MAX_BACKUPS)]
        assert [next(call) for call in calls] == [wire.BackupReply()] * MAX_BACKUPS, "a sign of life"
        with pytest.raises(grpc.RpcError) as caught:
            next(begin(wire.BackupRequest(), timeout=30))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        calls[0].cancel()

        def begins() -> bool:
            try:
                return next(begin(wire.BackupRequest(), timeout=30)) is not None
            except grpc.RpcError:
                return False

        wait_until(begins, "there is room")
        assert not node.bugs
