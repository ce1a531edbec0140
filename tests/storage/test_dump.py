"""`python storage.py DIR`, run as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raftkv import operations
from raftkv.dump import describe
from raftkv.kv import StateMachine
from raftkv.kv_snapshot import encode, meta_of
from raftkv.operations import Batch, Code, Operation
from raftkv.raft.types import Entry, EntryKind, HardState
from raftkv.storage import Storage
from tests.storage.helpers import MEMBERS, append, entries, save_snapshot

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the program."""
    command = [sys.executable, str(ROOT / "storage.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8", timeout=60)
    return done.returncode, done.stdout, done.stderr


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    return {name.name: (name.read_bytes(), name.stat().st_mtime_ns) for name in path.iterdir()}


def text(index: int, payload: bytes, term: int = 1) -> Entry:
    return Entry(index, term, EntryKind.TEXT, payload)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The directory of a node that is down."""
    storage = Storage(tmp_path / "node", member_id=1, members=MEMBERS, incarnation=b"i" * 16)
    storage.remember_cluster(b"c" * 16)
    batch = [Operation(Code.SET, b"k 1", b"v\n1"), Operation(Code.DELETE, b"\xff"), Operation(Code.OPEN_SESSION)]
    log = [Entry(1, 1, EntryKind.NO_OP, b"settings"), text(2, b"SET greeting hello, world")]
    log.append(Entry(3, 1, EntryKind.BATCH, operations.encode_batch(Batch(batch))))
    storage.persist(HardState(1, voted_for=1), log, 1)
    log = [Entry(4, 2, EntryKind.BATCH, b"\x00garbage"), text(5, "SET ключ värde\x1b[31m".encode(), 2)]
    log += [text(6, b"SET \xff", 2), text(7, b"SING a song", 2), Entry(8, 2, EntryKind.NO_OP)]
    log.append(Entry(9, 2, EntryKind.BATCH, operations.encode_batch(Batch([]))))
    storage.persist(HardState(2, voted_for=3, longest_promise_ms=1500), log, 2)
    storage.persist(HardState(3), [text(8, b"CAS k old new", 3)], 2)
    storage.close()
    return tmp_path / "node"


SHOWN = """\
identity  node 1, incarnation 69696969696969696969696969696969
          cluster 63636363636363636363636363636363
          member 1 at 127.0.0.1:50051
          member 2 at 127.0.0.1:50052
          member 3 at 127.0.0.1:50053
metadata  term 3, no vote, longest promise 0 ms
log       entries: 8, batches: 3, segments: 1, committed at least up to: 2

     INDEX     TERM  OPERATION
         1        1  NO-OP
         2        1  SET greeting hello, world
         3        1  SET 'k 1' v\\n1
         3        1  DEL \\xff
         3        1  OPEN-SESSION
"""


def test_a_directory_is_shown_with_a_line_for_each_operation(node: Path) -> None:
    before = contents(node)
    status, out, err = run(node)
    assert (status, err) == (0, "")
    assert out.startswith(SHOWN)
    rest = out.removeprefix(SHOWN).splitlines()
    assert [line.split()[:2] for line in rest] == [["4", "2"], ["5", "2"], ["6", "2"], ["7", "2"], ["8", "3"]]
    assert "(8 bytes that mean nothing: " in rest[0]
    assert rest[1].endswith("SET ключ värde\\x1b[31m")
    assert "(5 bytes that mean nothing: " in rest[2]
    assert "(11 bytes that mean nothing: unknown command 'SING')" in rest[3]
    assert rest[4].endswith("  CAS k old new")
    assert contents(node) == before


def test_an_empty_batch_and_an_unknown_cluster_are_shown_as_such(tmp_path: Path) -> None:
    storage = Storage(tmp_path, member_id=1, members=MEMBERS)
    empty = Entry(1, 1, EntryKind.BATCH, operations.encode_batch(Batch([])))
    storage.persist(HardState(1, voted_for=2), [empty], 0)
    storage.close()
    status, out, _ = run(tmp_path)
    assert status == 0
    assert "cluster not known yet" in out
    assert "term 1, voted for node 2" in out
    assert out.endswith("1        1  (a batch without operations)\n")


@pytest.mark.parametrize(
    ("operation", "line"),
    [
        (Operation(Code.SET, b"k", b'it\'s "fine"'), 'SET k it\'s "fine"'),
        (Operation(Code.SET, b"k", b""), "SET k ''"),
        (Operation(Code.SET, b"k", b" v "), "SET k ' v '"),
        (Operation(Code.SET, b"k", b"'v'"), "SET k ''\"'\"'v'\"'\"''"),
        (Operation(Code.SET, b"k", b"\\n"), r"SET k \\n"),
        (Operation(Code.SET, b"k", b"\n"), r"SET k \n"),
        (Operation(Code.SET, b"k", b"\x85\xff"), r"SET k \x85\xff"),
        (Operation(Code.SET, b"k", "\x85ÿ".encode()), r"SET k \xc2\x85ÿ"),
        (Operation(Code.SET_IF_ABSENT, b"a key", b"a value"), "SETNX 'a key' a value"),
        (Operation(Code.DELETE, b""), "DEL ''"),
        (Operation(Code.DELETE, b"it's"), "DEL 'it'\"'\"'s'"),
        (Operation(Code.COMPARE_AND_SET, b"k", b"new", b"hello, world"), "CAS k 'hello, world' new"),
        (Operation(Code.COMPARE_AND_SET, b"k", b"", b"old"), "CAS k old ''"),
    ],
    ids=str,
)
def test_no_two_operations_look_the_same(operation: Operation, line: str) -> None:
    entry = Entry(1, 1, EntryKind.BATCH, operations.encode_batch(Batch([operation])))
    assert describe(entry) == [line]


def test_a_long_value_is_cut_unless_all_of_it_is_asked_for(tmp_path: Path) -> None:
    long = "ж" * 2**19
    storage = Storage(tmp_path, member_id=1, members=MEMBERS)
    storage.persist(HardState(1), [text(1, b"SET k " + b"v" * 200), text(2, f"SET k v{long}".encode())], 0)
    storage.close()
    first, second = run(tmp_path)[1].splitlines()[-2:]
    assert first.endswith("  SET k " + "v" * 200)
    assert second.endswith("  SET k v" + "ж" * 99 + "… (1048577 bytes)")
    assert run("--full", tmp_path)[1].endswith(f"  SET k v{long}\n")


def test_a_torn_tail_is_told_of_and_not_cut(node: Path) -> None:
    filled = (node / "log-1").read_bytes()
    whole = filled.rstrip(b"\0")
    end = len(whole)
    (node / "log-1").write_bytes((whole + b"xyz").ljust(len(filled), b"\0"))
    before = contents(node)
    status, out, err = run(node)
    assert (status, err) == (0, "")
    assert f"3 bytes of an unfinished batch at byte {end} of {node}/log-1, which the node will cut off" in out
    assert contents(node) == before


def test_of_a_damaged_log_the_part_before_the_damage_is_shown(node: Path) -> None:
    data = bytearray((node / "log-1").read_bytes())
    data[data.index(b"garbage")] ^= 1
    (node / "log-1").write_bytes(data)
    before = contents(node)
    status, out, err = run(node)
    assert status == 1
    assert out.splitlines()[-1].endswith("OPEN-SESSION")
    assert err.startswith(f"storage.py: {node}/log-1: damaged at byte ")
    assert err.count("\n") == 1
    assert contents(node) == before


@pytest.mark.parametrize("name", ["identity", "metadata"])
def test_a_damaged_small_file_is_named(node: Path, name: str) -> None:
    (node / name).write_bytes((node / name).read_bytes()[:-1])
    status, _, err = run(node)
    assert status == 1
    assert err.startswith(f"storage.py: {node}/{name}: damaged")
    assert err.count("\n") == 1


def test_the_directory_of_a_running_node_is_refused(node: Path) -> None:
    storage = Storage(node, member_id=1, members=MEMBERS)
    assert run(node) == (1, "", f"storage.py: {node}: its node is running; stop it first\n")
    storage.close()
    assert run(node)[0] == 0


def test_a_directory_without_its_lock_file_is_shown(node: Path) -> None:
    (node / "lock").unlink()
    before = contents(node)
    assert run(node)[0] == 0
    assert contents(node) == before


@pytest.mark.parametrize(
    ("directory", "message"),
    [("nowhere", "there is no such directory"), ("", "holds no identity of a node"), ("file", "Not a directory")],
)
def test_what_is_no_data_directory_is_refused_with_one_line(tmp_path: Path, directory: str, message: str) -> None:
    (tmp_path / "file").touch()
    status, out, err = run(tmp_path / directory)
    assert (status, out) == (1, "")
    assert err.startswith(f"storage.py: {tmp_path / directory}: {message}; name a")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--what", "a"]])
def test_wrong_usage_is_told_in_one_line_with_status_2(arguments: list[str]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("storage.py: ")
    assert err.endswith("; usage: python storage.py [--full] DIR\n")
    assert err.count("\n") == 1


def test_help_is_given() -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert "DIR" in out


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    storage = Storage(tmp_path, member_id=1, members=MEMBERS)
    storage.persist(HardState(1), entries(1, 20_000), 0)
    storage.close()
    command = [sys.executable, str(ROOT / "storage.py"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"identity  node 1")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_what_can_not_be_written_is_one_line_and_status_1(node: Path) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, str(ROOT / "storage.py"), str(node)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"storage.py: cannot write: No space left on device\n")


def test_without_standard_output_only_the_status_and_what_is_wrong_are_left(node: Path) -> None:
    for directory, status, lines in (node, 0, 0), (node / "nothing", 1, 1):
        command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, str(ROOT / "storage.py"), str(directory)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stderr.count(b"\n")) == (status, lines), done.stderr


def test_the_front_door_gives_the_class(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import storage; print(storage.Storage.__module__)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "raftkv.storage\n"


def test_a_snapshot_is_shown_with_the_log_after_it(tmp_path: Path) -> None:
    make_compacted(tmp_path / "node")
    status, out, err = run(tmp_path / "node")
    assert (status, err) == (0, "")
    assert "snapshot  snapshot-8, up to entry 8 of term 1; keys: 8, sessions: 0, bytes: " in out
    assert "log       entries: 1, batches: 1, segments: 1, committed at least up to: 8\n" in out
    assert out.rstrip().endswith("         9        1  SET key-9 value-of-term-1")


def test_of_a_damaged_snapshot_the_log_is_shown_all_the_same(tmp_path: Path) -> None:
    make_compacted(tmp_path / "node")
    snapshot = tmp_path / "node" / "snapshot-8"
    snapshot.write_bytes(snapshot.read_bytes()[:-1])
    status, out, err = run(tmp_path / "node")
    assert status == 1
    assert "snapshot  damaged, see below" in out
    assert "SET key-9 value-of-term-1" in out
    assert "snapshot-8: damaged at byte " in err


def make_compacted(directory: Path) -> None:
    """A directory whose log begins with entry 9."""
    storage = Storage(directory, member_id=1, members=MEMBERS, segment_bytes=1)
    machine = StateMachine()
    for entry in entries(1, 9):
        append(storage, [entry], commit_index=8)
        if entry.index <= 8:
            machine.apply(entry)
    state = machine.freeze()
    meta = meta_of(state, b"")
    storage.adopt_snapshot(meta, save_snapshot(storage, b"".join(encode(state, b""))), 9)
    storage.close()
