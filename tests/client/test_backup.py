"""`Client.backup` against members that do not send what they should: what is left, and what is said."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import google_crc32c
import grpc
import pytest

from raftkv.async_client import AsyncClient
from raftkv.backup_file import BackupInfo
from raftkv.client import Client, Error, NotApplied
from raftkv.disk import disk_errors
from raftkv.kv_snapshot import encode
from raftkv.snapshot_file import SnapshotFile
from raftkv.wire.raft_pb2 import BackupReply
from tests.client.fake_cluster import Context, FakeCluster, FakeMember


def content(cluster: FakeCluster) -> bytes:
    """Of a snapshot of the fake's state."""
    with cluster.lock:
        state = cluster.machine.freeze()
        data = b"".join(encode(state, b""))
        cluster.machine.thaw()
        cluster.machine.merge(1000)
    return data


def pieces(data: bytes, length: int = 100) -> Iterator[BackupReply]:
    yield BackupReply()
    yield BackupReply(size=len(data))
    for offset in range(0, len(data), length):
        piece = data[offset : offset + length]
        yield BackupReply(offset=offset, data=piece, data_checksum=google_crc32c.value(piece))


def failure(client: Client, path: Path) -> Error:
    with pytest.raises(NotApplied) as caught:
        client.backup(path)
    assert "no backup was made" in str(caught.value)
    assert not any(path.parent.iterdir()), "nothing is left"
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup"


def test_the_file_is_what_was_sent_and_progress_is_told(cluster: FakeCluster, client: Client, path: Path) -> None:
    client.set("key", "value")
    data = content(cluster)
    cluster.next_backup = lambda member, context: pieces(data)
    told: list[tuple[int, int]] = []
    made = client.backup(path, lambda done, size: told.append((done, size)))
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert (made.size, made.keys, made.cluster_id) == (len(data), 1, b"c" * 16)
    assert made.last_index == cluster.machine.applied_index
    assert (told[0], told[-1]) == ((0, 0), (len(data), len(data)))
    assert [p.name for p in path.parent.iterdir()] == ["backup"]


def test_another_leader_is_asked_if_the_first_can_not_even_begin(
    cluster: FakeCluster, client: Client, path: Path
) -> None:
    data = content(cluster)

    def only_two(member: FakeMember, context: Context) -> Iterator[BackupReply]:
        if member.id == 1:
            cluster.elect(2)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "does not lead")
        yield from pieces(data)

    cluster.next_backup = only_two
    client.backup(path)
    assert (cluster.members[1].backups, cluster.members[2].backups) == (1, 1)


def test_a_leader_that_breaks_off_leaves_nothing(cluster: FakeCluster, client: Client, path: Path) -> None:
    data = content(cluster)

    def break_off(member: FakeMember, context: Context) -> Iterator[BackupReply]:
        for reply in pieces(data):
            yield reply
            if reply.offset:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    cluster.next_backup = break_off
    assert failure(client, path).code == "UNAVAILABLE"


@pytest.mark.parametrize(("missing", "says"), [(1, "only "), (2, "what came at byte "), (3, "what came at byte ")])
def test_a_piece_that_is_missing_is_noticed_at_once(
    cluster: FakeCluster, client: Client, path: Path, missing: int, says: str
) -> None:
    replies = [*pieces(content(cluster))]
    del replies[-missing]
    cluster.next_backup = lambda member, context: iter(replies)
    error = failure(client, path)
    assert error.code == "DATA_LOSS"
    assert str(error).startswith(says)


def test_a_bit_that_flips_on_the_way_is_noticed(cluster: FakeCluster, client: Client, path: Path) -> None:
    replies = [*pieces(content(cluster))]
    replies[2].data = bytes([replies[2].data[0] ^ 1]) + replies[2].data[1:]
    cluster.next_backup = lambda member, context: iter(replies)
    assert "at byte 0 is damaged" in str(failure(client, path))


def test_a_snapshot_that_was_damaged_before_it_was_sent_is_no_backup(
    cluster: FakeCluster, client: Client, path: Path
) -> None:
    data = bytearray(content(cluster))
    data[-3] ^= 1
    cluster.next_backup = lambda member, context: pieces(bytes(data))
    error = failure(client, path)
    assert error.code == "DATA_LOSS"
    assert "damaged at byte" in str(error)


def test_what_follows_the_end_of_a_snapshot_is_no_part_of_a_backup(
    cluster: FakeCluster, client: Client, path: Path
) -> None:
    data = content(cluster)
    cluster.next_backup = lambda member, context: pieces(data + b"more")
    error = failure(client, path)
    assert error.code == "DATA_LOSS"
    assert f"damaged at byte {len(data)}: the snapshot ends here, and 4 bytes follow" in str(error)


def test_a_leader_that_falls_silent_is_given_up_after_the_timeout(cluster: FakeCluster, path: Path) -> None:
    data = content(cluster)

    def fall_silent(member: FakeMember, context: Context) -> Iterator[BackupReply]:
        yield next(pieces(data))
        cluster.released.wait(30)

    cluster.next_backup = fall_silent
    with Client(cluster.addresses, timeout=0.5) as client:
        error = failure(client, path)
    assert error.code == "DEADLINE_EXCEEDED"
    assert "nothing has come for 0.5 s" in str(error)


def test_closing_the_client_ends_it(cluster: FakeCluster, client: Client, path: Path) -> None:
    begun = threading.Event()

    def wait(member: FakeMember, context: Context) -> Iterator[BackupReply]:
        yield BackupReply()
        begun.set()
        cluster.released.wait(30)

    cluster.next_backup = wait

    def close() -> None:
        begun.wait(10)
        client.close()

    closer = threading.Thread(target=close)
    closer.start()
    assert failure(client, path).code == "CANCELLED"
    closer.join()


def test_no_leader_is_no_backup(cluster: FakeCluster, path: Path) -> None:
    cluster.elect(0)
    with Client(cluster.addresses, timeout=0.3) as client, pytest.raises(NotApplied) as caught:
        client.backup(path)
    assert caught.value.code == "UNAVAILABLE"
    assert str(caught.value).endswith("none leads (gave up after 0.3 s); no backup was made")
    assert not any(path.parent.iterdir())


def test_a_file_that_exists_is_left_alone(client: Client, path: Path) -> None:
    path.write_text("the only copy")
    with pytest.raises(ValueError, match="exists already"):
        client.backup(path)
    assert path.read_text() == "the only copy"


def test_a_place_that_can_not_be_written_to_is_named(client: Client, path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ValueError, match=f"{directory} is no directory: make it") as caught:
            client.backup(directory / "backup")
        assert isinstance(caught.value, NotApplied)
        assert caught.value.code == "INVALID_ARGUMENT", "nothing is lost"
    Path(f"{path}.part").mkdir()
    with pytest.raises(NotApplied, match=r"\.part: Is a directory; no backup was made") as refused:
        client.backup(path)
    assert refused.value.code == "FAILED_PRECONDITION", "nor is anything damaged"


def test_a_disk_that_is_full_is_not_taken_for_damage(
    cluster: FakeCluster, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(file: object, data: bytes) -> NoReturn:
        with disk_errors(str(path)):
            raise OSError(errno.ENOSPC, "No space left on device")

    data = content(cluster)
    cluster.next_backup = lambda member, context: pieces(data)
    monkeypatch.setattr(SnapshotFile, "write", no_room)
    error = failure(client, path)
    assert error.code == "FAILED_PRECONDITION"
    assert "No space left on device" in str(error)


def test_a_path_of_another_type_is_refused(client: Client) -> None:
    with pytest.raises(TypeError, match="path must be str or a path, not int"):
        client.backup(7)  # type: ignore[arg-type]


# ---- asyncio ---------------------------------------------------------------------------------------------------------


def test_asyncio_makes_the_same_file_and_the_loop_is_told_of_the_progress(cluster: FakeCluster, path: Path) -> None:
    data = content(cluster)
    cluster.next_backup = lambda member, context: pieces(data)
    told: list[tuple[int, int]] = []

    async def run() -> BackupInfo:
        here = threading.get_ident()

        def progress(done: int, size: int) -> None:
            assert threading.get_ident() == here
            told.append((done, size))

        async with AsyncClient(cluster.addresses) as client:
            return await client.backup(path, progress)

    assert asyncio.run(run()).size == len(data)
    assert path.read_bytes() == data
    assert (told[0], told[-1]) == ((0, 0), (len(data), len(data)))


def test_a_task_that_is_cancelled_leaves_no_backup(cluster: FakeCluster, path: Path) -> None:
    data, cancelled = content(cluster), threading.Event()

    def wait(member: FakeMember, context: Context) -> Iterator[BackupReply]:
        first, *rest = pieces(data)
        yield first
        cancelled.wait(30)
        yield from rest

    cluster.next_backup = wait

    async def run() -> None:
        begun = asyncio.Event()
        async with AsyncClient(cluster.addresses) as client:
            task = asyncio.create_task(client.backup(path, lambda done, size: begun.set()))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            cancelled.set()

    asyncio.run(run())  # ends when its threads have
    assert not any(path.parent.iterdir())
