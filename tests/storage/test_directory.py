"""Whose directory it is, and who may open it."""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from raftkv.log_storage import StorageError
from raftkv.raft.types import Entry, EntryKind, HardState
from raftkv.storage import FILL_BYTES, Storage
from tests.storage.helpers import DIRECTORY, INCARNATION, MEMBERS, append, entries, log_of, open_storage, reopen_storage
from tests.support.memory_disk import MemoryDisk


def open_files(path: Path, **options: Any) -> Storage:
    return Storage(path, **{"member_id": 1, "members": MEMBERS, **options})


def refusal(path: Path, **options: Any) -> str:
    """The one line with which the directory is refused; nothing in it is changed."""
    before = {name.name: name.read_bytes() for name in path.iterdir()} if path.is_dir() else {}
    with pytest.raises(StorageError) as error:
        open_files(path, **options)
    assert before == ({name.name: name.read_bytes() for name in path.iterdir()} if path.is_dir() else {})
    assert re.fullmatch(rf"{re.escape(str(path))}\S*: [^\n]+; [^\n]+", str(error.value))
    return str(error.value).removeprefix(str(path))


def test_a_directory_is_made_for_its_owner_only_with_those_above_it(tmp_path: Path) -> None:
    open_files(tmp_path / "data" / "node-1").close()
    assert (tmp_path / "data" / "node-1").stat().st_mode & 0o777 == 0o700
    assert {name.stat().st_mode & 0o777 for name in (tmp_path / "data" / "node-1").iterdir()} == {0o600}


def test_an_empty_directory_is_taken_even_one_that_is_a_file_systems_root(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    open_files(tmp_path).close()
    open_files(tmp_path).close()


def test_a_relative_path_stays_the_same_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_files(Path("node"))
    monkeypatch.chdir("/")
    append(storage, entries(1, 3))
    storage.close()
    assert log_of(open_files(tmp_path / "node")) == entries(1, 3)


def test_each_new_directory_has_a_random_incarnation_of_its_own(tmp_path: Path) -> None:
    incarnations = {open_files(tmp_path / str(n)).identity.incarnation for n in range(3)}
    assert len(incarnations) == 3
    assert {len(incarnation) for incarnation in incarnations} == {16}


def test_an_incarnation_can_be_given_for_a_new_directory_only() -> None:
    disk = MemoryDisk()
    assert open_storage(disk).identity.incarnation == INCARNATION
    assert reopen_storage(disk, incarnation=bytes(16)).identity.incarnation == INCARNATION


def test_another_members_directory_is_refused(tmp_path: Path) -> None:
    open_files(tmp_path).close()
    message = ": belongs to node 1, not to node 2; give this node a directory of its own, or start that one"
    assert refusal(tmp_path, member_id=2) == message


@pytest.mark.parametrize("members", [{1: "127.0.0.1:50051"}, {**MEMBERS, 3: "h:1"}, {**MEMBERS, 4: "h:1"}])
def test_a_directory_of_a_cluster_with_other_addresses_is_refused(tmp_path: Path, members: dict[int, str]) -> None:
    open_files(tmp_path).close()
    shown = "1=127.0.0.1:50051 2=127.0.0.1:50052 3=127.0.0.1:50053"
    assert f"a cluster with other addresses ({shown})" in refusal(tmp_path, members=members)


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    message = ": holds 'thesis.tex', but no identity of a node; name an empty directory, or start this node from a copy"
    assert refusal(tmp_path).startswith(message)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file") == ": Not a directory; name a directory"
    assert refusal(tmp_path / "file" / "node").endswith(": Not a directory; name a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_can_not_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir(0o500)
    assert "Permission denied; let the user who runs the node own the directory" in refusal(tmp_path / "node")
    tmp_path.chmod(0o500)
    assert "Permission denied; let the user who runs the node make directories there" in refusal(tmp_path / "other")


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EPERM, errno.EACCES])
def test_a_place_that_takes_no_directory_is_not_mistaken_for_a_lost_disk(error: int) -> None:
    """Such as /proc, which says that there is no such directory."""
    disk = MemoryDisk()

    def before(operation: str, path: str) -> None:
        if operation == "make_directory":
            raise OSError(error, os.strerror(error), path)

    disk.before = before
    mend = "let the user who runs the node make directories there, or name another one with --data-dir"
    with pytest.raises(StorageError) as refused:
        open_storage(disk)
    assert str(refused.value) == f"/node: {os.strerror(error)}; {mend}"


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (errno.EACCES, "Permission denied; let the user who runs the node own the directory and what is in it"),
        (errno.EROFS, "Read-only file system; mount the file system for writing"),
        (errno.EMFILE, "Too many open files; raise the limit of open files (ulimit -n), then start the node again"),
        (errno.EIO, "Input/output error; check the disk (the kernel's log says more), then start the node again"),
    ],
)
@pytest.mark.parametrize("operation", ["lock", "create", "replace"])
def test_an_error_of_the_system_names_the_file_and_the_mend(operation: str, error: int, mend: str) -> None:
    disk = MemoryDisk()
    open_storage(disk)
    disk.crash_process()
    before = disk.files(DIRECTORY)

    def fail(now: str, path: str) -> None:
        if now == operation:
            raise OSError(error, os.strerror(error), path)

    disk.before = fail
    with pytest.raises(StorageError) as refused:
        open_storage(disk)
    assert re.fullmatch(rf"/node/\S+: {re.escape(mend)}", str(refused.value))
    assert {name: disk.files(DIRECTORY)[name] for name in before} == before


def test_a_directory_above_that_may_not_be_read_is_no_obstacle() -> None:
    disk = MemoryDisk()

    def before(operation: str, path: str) -> None:
        if (operation, path) == ("sync_directory", "/"):
            raise PermissionError(errno.EACCES, "Permission denied", path)

    disk.before = before
    open_storage(disk)


def test_a_directory_in_use_is_refused_also_within_one_process(tmp_path: Path) -> None:
    storage = open_files(tmp_path)
    message = ": in use by another process; stop that one first, or give this node a directory of its own"
    assert refusal(tmp_path) == message
    storage.close()
    open_files(tmp_path).close()


def test_a_directory_in_use_by_another_process_is_refused_until_that_is_killed(tmp_path: Path) -> None:
    holder = f"""
        import sys
        from raftkv.storage import FILL_BYTES, Storage
        storage = Storage({str(tmp_path)!r}, member_id=1, members={MEMBERS!r})
        print("holds it", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(holder)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds it\n"
        assert ": in use by another process" in refusal(tmp_path)
        process.kill()
        process.wait()
    open_files(tmp_path).close()


def test_a_refused_directory_is_not_kept_locked(tmp_path: Path) -> None:
    open_files(tmp_path).close()
    refusal(tmp_path, member_id=2)
    open_files(tmp_path).close()


def test_after_close_every_call_is_refused_and_a_second_close_is_nothing(tmp_path: Path) -> None:
    storage = open_files(tmp_path)
    append(storage, entries(1, 3))
    storage.close()
    storage.close()
    for call in (lambda: storage.entries(1, 3, 9), lambda: storage.persist(HardState(2), [], 0), storage.replay):
        with pytest.raises(StorageError, match="closed"):
            call()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_no_file_stays_open_after_close(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    storage = open_files(tmp_path, segment_bytes=1, cache_bytes=0)
    append(storage, *(entries(n, n) for n in range(1, 9)), commit_index=1)
    for first in (1, 5, 8, 2):
        storage.entries(first, 8, 1000)
    storage.close()
    refusal(tmp_path, member_id=2)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_a_crash_left_of_a_replaced_file_is_removed() -> None:
    disk = MemoryDisk()
    append(open_storage(disk), entries(1, 3))
    for name in ("metadata.tmp", "identity.tmp", "log-2.tmp"):
        disk.overwrite(f"{DIRECTORY}/{name}", b"half of")
    reopen_storage(disk)
    assert set(disk.names(DIRECTORY)) == {"lock", "identity", "metadata", "log-1"}
    assert disk.unsynced() == []


@pytest.mark.parametrize("left", ["metadata", "log-1"])
def test_a_used_directory_that_has_lost_its_identity_is_refused(left: str) -> None:
    disk = MemoryDisk()
    open_storage(disk).persist(HardState(1, 1), entries(1, 1), 0)
    disk.crash_process()
    for name in {"identity", "metadata", "log-1"} - {left}:
        disk.drop(f"{DIRECTORY}/{name}")
    with pytest.raises(StorageError, match=rf"^/node/identity: missing, though {left} has been used; start this node "):
        open_storage(disk)
    assert set(disk.files(DIRECTORY)) == {"lock", left}


def test_only_a_segment_that_is_read_is_open_besides_the_one_that_is_written(tmp_path: Path) -> None:
    """A log of many segments must not eat up the process's file descriptors."""
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=1, cache_bytes=0)
    append(storage, *(entries(n, n) for n in range(1, 30)))
    disk.operations.clear()
    for first in range(1, 30):
        assert storage.entries(first, 29, 0) == entries(first, first)
    opened, closed = ([now for now, _ in disk.operations].count(what) for what in ("open", "close"))
    assert opened > 20
    assert opened - closed == 1


def test_a_new_log_is_written_as_the_format_says(tmp_path: Path) -> None:
    """Byte for byte: whoever changes the format by accident can't read what others have written."""
    storage = Storage(tmp_path / "data", member_id=1, members={1: "one:1"}, incarnation=b"i" * 16)
    storage.persist(HardState(3, 1), [Entry(1, 3, EntryKind.TEXT, b"SET k v", time_ms=5)], 0)
    storage.close()
    written = (tmp_path / "data" / "log-1").read_bytes()
    header = struct.pack("<8sIQ16sQQQ", b"RAFTLOG\n", 2, 1, b"i" * 16, 1, 0, 0)
    body = struct.pack("<QQIB", 3, 5, 7, 1) + b"SET k v"
    fields = struct.pack("<IIIQQQ", google_crc32c.value(body), len(body), 1, 1, 0, 1)
    place = google_crc32c.value(struct.pack("<Q16sQ", 1, b"i" * 16, len(header) + 4))
    frame = struct.pack("<4sI", b"\xf5RKV", google_crc32c.extend(place, fields)) + fields + body
    whole = header + struct.pack("<I", google_crc32c.value(header)) + frame
    assert written == whole.ljust(FILL_BYTES, b"\0")
