"""New data directories out of a backup, or out of what a member has left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raftkv.admin import CONFIRMATION, main
from raftkv.kv import StateMachine
from raftkv.kv_snapshot import decode, encode
from raftkv.node import recover
from raftkv.operations import Batch, encode_batch
from raftkv.raft.configuration import decode_configuration
from raftkv.raft.types import EntryKind, HardState
from raftkv.snapshots import load_snapshot
from raftkv.storage import Storage, read_identity
from tests.kv.driving import SETTINGS, Driver, set_

MEMBERS = {1: "127.0.0.1:50051", 2: "127.0.0.1:50052", 3: "127.0.0.1:50053"}
NEW_MEMBERS = {1: "127.0.0.1:60051", 2: "127.0.0.1:60052", 3: "127.0.0.1:60053"}
ADDRESSES = [*NEW_MEMBERS.values()]
SAMPLES = Path(__file__).parent / "samples"


class Admin:
    """The program, run in a directory of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def done(self, *arguments: str) -> str:
        status = main(arguments)
        captured = self._capsys.readouterr()
        assert (status, captured.err) == (0, "")
        return captured.out

    def refused(self, *arguments: str, status: int = 1) -> str:
        assert main(arguments) == status
        captured = self._capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("python -m raftkv.admin: ")
        return captured.err


@pytest.fixture
def admin(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Admin:
    monkeypatch.chdir(tmp_path)
    return Admin(capsys)


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.time_ms = 5000
    session = driver.open_session()
    for n in range(10):
        driver.batch(set_(b"key-%d" % n, b"v" * n, sequence=n + 1), session=session, lowest_unanswered=n + 1)
    return driver


@pytest.fixture
def backup(driver: Driver, tmp_path: Path) -> Path:
    path = tmp_path / "backup"
    path.write_bytes(b"".join(encode(driver.machine.freeze(), b"")))
    driver.machine.thaw()
    driver.machine.merge(100)
    return path


def survivor(directory: Path, driver: Driver, commit_index: int) -> None:
    """The directory of member 2, which has all of the log."""
    storage = Storage(directory, member_id=2, members=MEMBERS)
    storage.persist(HardState(7, voted_for=3, longest_promise_ms=900), driver.log[:-1], commit_index)
    storage.persist(None, driver.log[-1:], commit_index)
    storage.remember_cluster(SETTINGS.cluster_id)
    storage.close()


def opened(directory: Path | str, member_id: int, members: dict[int, str]) -> tuple[Storage, StateMachine]:
    storage = Storage(directory, member_id=member_id, members=members)
    machine = recover(storage, lambda done, total: None)
    storage.close()
    return storage, machine


def records_of(machine: StateMachine) -> dict[bytes, object]:
    return {key: machine.record(key) for key in machine.all_keys()}


def cluster_id_in(output: str) -> str:
    return output.partition("new cluster ")[2][:32]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# ---- restore ---------------------------------------------------------------------------------------------------------


def test_every_member_begins_with_the_state_of_the_backup_in_a_cluster_of_its_own(
    admin: Admin, backup: Path, driver: Driver
) -> None:
    cluster_id = cluster_id_in(admin.done("restore", "backup", "1", *ADDRESSES))
    for member in (2, 3):
        admin.done("restore", "backup", str(member), *ADDRESSES, "--cluster-id", cluster_id)
    digests = set()
    incarnations = set()
    for member in NEW_MEMBERS:
        storage, machine = opened(f"data/node-{member}", member, NEW_MEMBERS)
        assert records_of(machine) == records_of(driver.machine)
        assert machine.revision == driver.machine.revision
        assert machine.cluster_id == storage.identity.cluster_id == bytes.fromhex(cluster_id) != SETTINGS.cluster_id
        assert storage.hard_state == HardState(driver.term)
        assert storage.last_index() == storage.previous().index == driver.machine.applied_index
        assert storage.snapshot is not None
        assert storage.snapshot.time_ms == 5000, "log time goes on from there"
        configuration = decode_configuration(storage.snapshot.configuration)
        assert (configuration.voters, dict(configuration.addresses)) == (frozenset(NEW_MEMBERS), NEW_MEMBERS)
        digests.add(machine.digest())
        incarnations.add(storage.identity.incarnation)
    assert len(digests) == 1
    assert len(incarnations) == 3


def test_the_sessions_of_the_old_cluster_end(admin: Admin, backup: Path, driver: Driver) -> None:
    admin.done("restore", "backup", "1", *ADDRESSES)
    restored = Driver()
    restored.machine = opened("data/node-1", 1, NEW_MEMBERS)[1]
    restored.log = list(driver.log)
    [session] = driver.machine._sessions
    repeated = encode_batch(Batch([set_(b"key-9", b"again", sequence=10)], session, 10))
    [result] = restored.apply(EntryKind.BATCH, repeated)
    assert result.status.name == "SESSION_UNKNOWN"


def test_the_commands_for_the_other_members_are_printed_and_work_as_they_stand(admin: Admin, backup: Path) -> None:
    output = admin.done("restore", "backup", "1", *ADDRESSES)
    commands = [line.split() for line in output.splitlines() if line.startswith("  python -m raftkv.admin restore")]
    assert [words[5] for words in commands] == ["2", "3"]
    for words in commands:
        assert "python raft_node.py " + words[5] in admin.done(*words[3:])


def test_members_of_different_backups_or_lists_do_not_come_together(admin: Admin, backup: Path, driver: Driver) -> None:
    cluster_id = cluster_id_in(admin.done("restore", "backup", "1", *ADDRESSES))
    driver.batch(set_(b"more", b""))
    Path("later").write_bytes(b"".join(encode(driver.machine.freeze(), b"")))
    others = ADDRESSES[:2]
    for arguments in (["later", "2", *ADDRESSES], ["backup", "2", *others]):
        error = admin.refused("restore", *arguments, "--cluster-id", cluster_id)
        assert "made for another backup or for another list of members" in error
    assert not Path("data/node-2").exists()


def test_a_directory_that_is_not_empty_is_left_alone(admin: Admin, backup: Path) -> None:
    Path("mine").mkdir()
    Path("mine/letters").write_text("dear")
    error = admin.refused("restore", "backup", "1", *ADDRESSES, "--data-dir", "mine")
    assert "mine: is not empty, it holds 'letters'" in error
    assert contents(Path("mine")) == {"letters": b"dear"}
    Path("mine/letters").unlink()
    admin.done("restore", "backup", "1", *ADDRESSES, "--data-dir", "mine")
    assert Path("mine").stat().st_mode & 0o777 == 0o700


def test_a_restore_that_was_cut_off_has_made_nothing_and_is_named(admin: Admin, backup: Path) -> None:
    Path("data/node-1.unfinished").mkdir(parents=True)
    error = admin.refused("restore", "backup", "1", *ADDRESSES)
    assert "data/node-1.unfinished: left over from a restore that did not end; remove it" in error
    assert not Path("data/node-1").exists()


def test_a_restore_that_fails_has_made_nothing(admin: Admin, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "remember_cluster", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        main(["restore", "backup", "1", *ADDRESSES])
    assert [path.name for path in Path("data").iterdir()] == ["node-1.unfinished"]


@pytest.mark.parametrize("seed", range(30))
def test_a_backup_with_a_damaged_byte_is_refused_with_the_place(admin: Admin, backup: Path, seed: int) -> None:
    data = bytearray(backup.read_bytes())
    data[seed * len(data) // 30] ^= 1 << seed % 8
    backup.write_bytes(data)
    error = admin.refused("restore", "backup", "1", *ADDRESSES)
    assert "backup: damaged at byte " in error
    assert "start this node" not in error, "there is none"
    assert not Path("data").exists()


@pytest.mark.parametrize("cut", [0, 1, 100, 1000])
def test_a_backup_that_is_cut_off_is_refused(admin: Admin, backup: Path, cut: int) -> None:
    data = backup.read_bytes()
    backup.write_bytes(data[: len(data) - 1 - cut if cut else 0])
    assert "backup: damaged at byte " in admin.refused("restore", "backup", "1", *ADDRESSES)


def test_a_backup_with_something_behind_its_end_is_refused_and_not_called_cut_off(admin: Admin, backup: Path) -> None:
    size = backup.stat().st_size
    for more in (b"x", b"twelve bytes", backup.read_bytes()):
        with backup.open("r+b") as file:
            file.truncate(size)
            file.seek(size)
            file.write(more)
        error = admin.refused("restore", "backup", "1", *ADDRESSES)
        assert f"backup: damaged at byte {size}: the snapshot ends here, and {len(more)} bytes follow; " in error


def test_a_backup_of_a_later_version_is_refused_by_name(
    admin: Admin, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftkv.kv_snapshot.FORMAT_VERSION", 0)
    error = admin.refused("restore", "backup", "1", *ADDRESSES)
    assert "backup: written by another version" in error


def test_what_is_no_backup_is_refused(admin: Admin, tmp_path: Path) -> None:
    assert "missing: No such file" in admin.refused("restore", "missing", "1", *ADDRESSES)
    assert ": Is a directory" in admin.refused("restore", ".", "1", *ADDRESSES)
    Path("text").write_text("SET k v\n" * 100)
    assert "text: damaged at byte 0: this is not a snapshot" in admin.refused("restore", "text", "1", *ADDRESSES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["restore"], "BACKUP"),
        (["restore", "backup", "4", *ADDRESSES], "node 4 is not one of the members"),
        (["restore", "backup", "x", *ADDRESSES], "'x' is not a whole number"),
        (["restore", "backup", "1", "nowhere"], "'nowhere' is not of the form"),
        (["restore", "backup", "1", *ADDRESSES, "--cluster-id", "12"], "'12' is not a cluster id"),
        (["force-new-cluster", "old"], "--data-dir"),
        (["explode"], "explode"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(admin: Admin, arguments: list[str], says: str) -> None:
    assert says in admin.refused(*arguments, status=2)


# ---- force-new-cluster -----------------------------------------------------------------------------------------------


def test_nothing_is_done_without_the_word_that_says_what_may_be_lost(
    admin: Admin, driver: Driver, tmp_path: Path
) -> None:
    survivor(tmp_path / "old", driver, commit_index=5)
    before = contents(tmp_path / "old")
    error = admin.refused("force-new-cluster", "old", "--data-dir", "new")
    last = driver.log[-1].index
    assert f"old: ends with entry {last} of term 1" in error
    assert f"entries 6 to {last} may never have been acknowledged and are kept all the same" in error
    assert "is lost for good" in error
    assert CONFIRMATION in error
    assert not Path("new").exists()
    assert contents(tmp_path / "old") == before


def test_one_member_is_made_of_all_that_the_directory_holds_and_that_stays_as_it_is(
    admin: Admin, driver: Driver, tmp_path: Path
) -> None:
    survivor(tmp_path / "old", driver, commit_index=5)
    before = contents(tmp_path / "old")
    output = admin.done("force-new-cluster", "old", "--data-dir", "new", CONFIRMATION)
    assert contents(tmp_path / "old") == before
    assert "python raft_node.py 2 2=127.0.0.1:50052 --data-dir new" in output
    storage, machine = opened("new", 2, {2: MEMBERS[2]})
    assert records_of(machine) == records_of(driver.machine)
    assert storage.identity.cluster_id == machine.cluster_id == bytes.fromhex(cluster_id_in(output))
    assert machine.cluster_id != SETTINGS.cluster_id
    assert storage.hard_state == HardState(7)
    assert storage.commit_index == driver.log[-1].index
    assert storage.snapshot is not None
    assert decode_configuration(storage.snapshot.configuration).voters == frozenset([2])
    old = Storage(tmp_path / "old", member_id=2, members=MEMBERS)
    assert old.identity.incarnation != storage.identity.incarnation
    old.close()


def test_it_can_have_another_address(admin: Admin, driver: Driver, tmp_path: Path) -> None:
    survivor(tmp_path / "old", driver, commit_index=5)
    admin.done("force-new-cluster", "old", "--data-dir", "new", "--address", "127.0.0.1:7000", CONFIRMATION)
    opened("new", 2, {2: "127.0.0.1:7000"})


def test_a_survivor_with_a_snapshot_gives_that_and_the_log_after_it(
    admin: Admin, driver: Driver, tmp_path: Path
) -> None:
    state = driver.machine.freeze()
    driver.machine.thaw()
    last = driver.log[-1].position
    old = Storage(tmp_path / "old", member_id=2, members=MEMBERS)
    old.persist(HardState(1), driver.log, last.index)
    writer = old.begin_snapshot()
    for piece in encode(state, b""):
        writer.write(piece)
    writer.finish()
    meta, _ = decode(writer)
    old.adopt_snapshot(meta, writer, last.index + 1)
    driver.batch(set_(b"after", b"wards"))
    old.persist(None, driver.log[-1:], last.index)
    load_snapshot(old, StateMachine())
    old.close()
    admin.done("force-new-cluster", "old", "--data-dir", "new", CONFIRMATION)
    assert opened("new", 2, {2: MEMBERS[2]})[1].get(b"after") == b"wards"


@pytest.mark.parametrize("version", [path.name for path in sorted(SAMPLES.iterdir())])
def test_a_directory_of_an_earlier_version_will_do(admin: Admin, tmp_path: Path, version: str) -> None:
    shutil.copytree(SAMPLES / version, tmp_path / "old")
    identity = read_identity("old")
    assert identity is not None
    member = identity.member_id
    address = identity.address or MEMBERS[member]
    said = admin.done("force-new-cluster", "old", "--data-dir", "new", CONFIRMATION)
    assert f"raft_node.py {member} {member}={address}" in said
    assert opened("new", member, {member: address})[1].get(b"greeting") is not None


def test_a_member_that_has_moved_is_there_where_it_was_last(admin: Admin, driver: Driver, tmp_path: Path) -> None:
    survivor(tmp_path / "old", driver, commit_index=5)
    old = Storage(tmp_path / "old", member_id=2, members=MEMBERS)
    old.remember_address("elsewhere:2")
    old.close()
    admin.done("force-new-cluster", "old", "--data-dir", "new", CONFIRMATION)
    assert opened("new", 2, {2: "elsewhere:2"})


def test_nothing_is_made_within_the_directory_of_a_node(
    admin: Admin, backup: Path, driver: Driver, tmp_path: Path
) -> None:
    survivor(tmp_path / "old", driver, commit_index=5)
    before = contents(tmp_path / "old")
    within = f"lies within the data directory of a node, {tmp_path / 'old'}; name another directory"
    for name in ("old/new", "old/deep/new"):
        assert within in admin.refused("force-new-cluster", "old", "--data-dir", name, CONFIRMATION)
        assert within in admin.refused("restore", "backup", "1", *ADDRESSES, "--data-dir", name)
    assert contents(tmp_path / "old") == before


def test_a_directory_in_use_or_damaged_or_empty_is_refused(admin: Admin, driver: Driver, tmp_path: Path) -> None:
    survivor(tmp_path / "old", driver, commit_index=5)
    running = Storage(tmp_path / "old", member_id=2, members=MEMBERS)
    words = ["--data-dir", "new", CONFIRMATION]
    assert "old: its node is running; stop it first" in admin.refused("force-new-cluster", "old", *words)
    running.close()
    log = tmp_path / "old" / "log-1"
    data = bytearray(log.read_bytes())
    data[200] ^= 1
    log.write_bytes(data)
    error = admin.refused("force-new-cluster", "old", *words)
    assert "log-1: damaged at byte " in error
    assert "try the directory of another member" in error
    Storage(tmp_path / "fresh", member_id=2, members=MEMBERS).close()
    assert "fresh: its log is empty" in admin.refused("force-new-cluster", "fresh", *words)
    (tmp_path / "none").mkdir()
    assert "none: holds no identity of a node" in admin.refused("force-new-cluster", "none", *words)
    assert "missing: there is no such directory; name a node" in admin.refused("force-new-cluster", "missing", *words)
    assert not Path("new").exists()
