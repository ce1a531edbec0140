"""The real disk, as far as storage relies on it, and that the one of the tests behaves the same."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from raftkv import disk as disk_module
from raftkv.disk import Disk, OsDisk
from tests.support.memory_disk import MemoryDisk


@pytest.fixture(params=["os", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param == "os":
        return OsDisk()
    memory = MemoryDisk()
    for path in [tmp_path, *tmp_path.parents][-2::-1]:
        memory.make_directory(str(path))
    return memory


def test_what_is_on_its_way_to_the_disk_is_read_and_written_as_ever(disk: Disk, tmp_path: Path) -> None:
    file = disk.create(str(tmp_path / "file"))
    file.begin_sync()
    file.write(0, b"a" * 100_000)
    file.begin_sync()
    file.write(99_999, b"b" * 100_000)
    file.begin_sync()
    assert file.size() == 199_999
    file.sync()
    file.begin_sync()
    assert file.read(99_998, 3) == b"abb"
    file.close()


@pytest.mark.parametrize("error", [OSError(errno.EINVAL, "no hints here"), AttributeError("no such function")])
def test_where_there_are_no_hints_for_the_disk_a_file_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    synced: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    monkeypatch.setattr(disk_module, "_datasync", synced.append)
    file = OsDisk().create(str(tmp_path / "file"))
    file.begin_sync()
    assert len(synced) == 1
    file.close()


def test_what_was_written_is_read_with_nothing_behind_it(disk: Disk, tmp_path: Path) -> None:
    file = disk.create(str(tmp_path / "file"))
    file.write(0, b"hello, world")
    file.write(7, b"there")
    file.sync()
    file.truncate(10)
    assert file.size() == 10
    assert file.read(7, 100) == b"the"
    assert file.read(10, 1) == b""
    file.write(12, b"!")
    assert file.read(0, 100) == b"hello, the\0\0!"
    file.close()
    opened = disk.open(str(tmp_path / "file"))
    assert opened.read(0, 5) == b"hello"
    opened.close()
    disk.create(str(tmp_path / "file")).close()
    assert disk.open(str(tmp_path / "file")).size() == 0


def test_a_file_is_shortened_by_so_many_bytes_or_what_there_is(disk: Disk, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    file = disk.create(path)
    file.write(0, b"0123456789")
    assert disk.shorten(path, 4) == 6
    assert file.read(0, 100) == b"012345"
    assert disk.shorten(path, 7) == 0
    assert file.size() == 0
    with pytest.raises(FileNotFoundError):
        disk.shorten(str(tmp_path / "missing"), 1)


def test_a_replaced_file_is_gone_and_one_that_is_open_stays_readable(disk: Disk, tmp_path: Path) -> None:
    old, new = disk.create(str(tmp_path / "old")), disk.create(str(tmp_path / "new"))
    old.write(0, b"old")
    new.write(0, b"new")
    disk.replace(str(tmp_path / "new"), str(tmp_path / "old"))
    disk.sync_directory(str(tmp_path))
    assert disk.names(str(tmp_path)) == ["old"]
    assert (old.read(0, 3), new.read(0, 3)) == (b"old", b"new")
    assert disk.open(str(tmp_path / "old")).read(0, 3) == b"new"
    disk.remove(str(tmp_path / "old"))
    disk.make_directory(str(tmp_path / "new"))
    disk.remove_directory(str(tmp_path / "new"))
    assert disk.names(str(tmp_path)) == []


ERRORS: list[tuple[type[OSError], Callable[[Disk, str], object]]] = [
    (FileNotFoundError, lambda disk, path: disk.names(f"{path}/none")),
    (FileNotFoundError, lambda disk, path: disk.open(f"{path}/none")),
    (FileNotFoundError, lambda disk, path: disk.create(f"{path}/none/file")),
    (FileNotFoundError, lambda disk, path: disk.remove(f"{path}/none")),
    (FileNotFoundError, lambda disk, path: disk.make_directory(f"{path}/none/directory")),
    (FileNotFoundError, lambda disk, path: disk.lock(f"{path}/none", shared=True)),
    (FileNotFoundError, lambda disk, path: disk.remove_directory(f"{path}/none")),
    (OSError, lambda disk, path: disk.remove_directory(path)),
    (FileExistsError, lambda disk, path: disk.make_directory(path)),
    (FileExistsError, lambda disk, path: disk.make_directory("/")),
    (NotADirectoryError, lambda disk, path: disk.names(f"{path}/file")),
    (NotADirectoryError, lambda disk, path: disk.open(f"{path}/file/x")),
    (IsADirectoryError, lambda disk, path: disk.create(path)),
]


@pytest.mark.parametrize(("error", "call"), ERRORS)
def test_errors_are_of_the_kinds_that_storage_tells_apart(
    disk: Disk, tmp_path: Path, error: type[OSError], call: Callable[[Disk, str], object]
) -> None:
    disk.create(f"{tmp_path}/file").close()
    with pytest.raises(error) as raised:
        call(disk, str(tmp_path))
    assert raised.value.filename


def test_a_lock_excludes_all_others_and_shared_ones_only_the_exclusive(disk: Disk, tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    lock = disk.lock(path)
    for shared in (False, True):
        with pytest.raises(BlockingIOError):
            disk.lock(path, shared=shared)
    lock.release()
    readers = [disk.lock(path, shared=True), disk.lock(path, shared=True)]
    with pytest.raises(BlockingIOError):
        disk.lock(path)
    for reader in readers:
        reader.release()
    disk.lock(path).release()


def test_a_write_or_read_that_the_system_does_in_parts_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 4), offset))
    file = OsDisk().create(str(tmp_path / "file"))
    file.write(0, b"hello, world")
    assert file.read(0, 12) == b"hello, world"
    assert file.read(5, 100) == b", world"
    file.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_batch_is_one_pwrite_and_one_fdatasync_of_the_system(tmp_path: Path) -> None:
    program = f"""
        from raftkv.raft.types import Entry, EntryKind, HardState
        from raftkv.storage import Storage
        storage = Storage({str(tmp_path / "node")!r}, member_id=1, members={{1: "h:1"}})
        storage.persist(HardState(1), [], 0)
        storage.persist(None, [Entry(n, 1, EntryKind.TEXT, b"BEGIN") for n in range(1, 9)], 0)
        storage.persist(None, [Entry(9, 1, EntryKind.TEXT, b"END")], 0)
    """
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-o", str(trace), "-s", "400", "-e", "trace=pwrite64,fdatasync,fsync,openat,rename"]
    command += [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
    begin = next(number for number, call in enumerate(calls) if "BEGIN" in call)
    assert [call.split("(")[0] for call in calls[begin : begin + 4]] == ["pwrite64", "fdatasync"] * 2


@pytest.mark.parametrize("held_back", [0, 4])
def test_hazard_19_a_process_out_of_file_descriptors_still_writes_down_its_vote(tmp_path: Path, held_back: int) -> None:
    """Connections have used up all others; without a reserve there is a StorageError, and the node stops."""
    program = f"""
        import os, resource
        from raftkv.disk import OS_DISK
        from raftkv.log_storage import StorageError
        from raftkv.raft.types import HardState
        from raftkv.storage import Storage

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        OS_DISK.hold_back({held_back})
        storage = Storage({str(tmp_path / "data")!r}, member_id=1, members={{1: "h:1"}})
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        try:
            for term in range(1, 20):
                storage.persist(HardState(term, voted_for=1), [], 0)
            print("written")
        except StorageError as error:
            print(error)
        for descriptor in taken:
            os.close(descriptor)
        print(len(OS_DISK._spares))
        storage.persist(HardState(30), [], 0)
        print(len(OS_DISK._spares))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if held_back:
        assert done.stdout.splitlines()[0] == "written", done.stderr
        assert done.stdout.splitlines()[-1] == str(held_back), "they are held back again"
    else:
        assert "Too many open files" in done.stdout
        assert "ulimit -n" in done.stdout
