"""The simulated disk: what survives a crash, what fails, and what can be damaged."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from raftkv.log_storage import StorageError
from raftkv.raft.types import Entry, EntryKind, HardState
from raftkv.storage import Storage
from tests.simulation.disk import Boundary, Crashed, SimulatedDisk

A, B = b"a" * 2000, b"b" * 2000


class Machine:
    """A disk, and a process that may be told where to crash."""

    def __init__(self, seed: int = 1) -> None:
        self.crossed: list[Boundary] = []
        self.spent = 0.0
        self.crash_at: Callable[[Boundary], bool] = lambda boundary: False
        self.in_the_middle = False
        self.disk = SimulatedDisk(random.Random(seed), self._cross, self._spend)

    def _cross(self, boundary: Boundary, path: str) -> None:
        self.crossed.append(boundary)
        if self.crash_at(boundary):
            raise Crashed(boundary.value, power_lost=False, in_the_middle=self.in_the_middle)

    def _spend(self, seconds: float) -> None:
        self.spent += seconds

    def storage(self) -> Storage:
        return Storage("/data", member_id=1, members={1: "n1"}, disk=self.disk, incarnation=bytes(16))


def file_with(machine: Machine, data: bytes) -> None:
    """Make a durable file."""
    file = machine.disk.create("/file")
    file.write(0, data)
    file.sync()
    machine.disk.sync_directory("/")


def after_power_loss(seed: int, change: Callable[[Machine], None]) -> bytes:
    machine = Machine(seed)
    file_with(machine, A)
    change(machine)
    machine.disk.lose_power(random.Random(seed))
    return machine.disk.content("/file")


def test_what_is_synced_survives_everything() -> None:
    for seed in range(20):
        assert after_power_loss(seed, lambda machine: None) == A


def test_a_loss_of_power_keeps_any_of_the_sectors_that_were_not_synced() -> None:
    def overwrite(machine: Machine) -> None:
        machine.disk.open("/file", writable=True).write(0, B)

    outcomes = {after_power_loss(seed, overwrite) for seed in range(200)}
    assert len(outcomes) == 2**4  # 2000 bytes are four sectors, each old or new
    for outcome in outcomes:
        sectors = [outcome[start : start + 512] for start in range(0, 2000, 512)]
        assert all(set(sector) in ({ord("a")}, {ord("b")}) for sector in sectors)


def test_a_crash_of_the_process_keeps_the_page_cache_and_a_loss_of_power_after_it_does_not() -> None:
    machine = Machine()
    file_with(machine, A)
    machine.disk.open("/file", writable=True).write(0, B)
    machine.disk.crash_process()
    assert machine.disk.content("/file") == B
    machine.disk.lose_power()
    assert machine.disk.content("/file") == A


def test_a_new_name_can_be_lost_though_its_content_was_synced() -> None:
    found = set()
    for seed in range(20):
        machine = Machine(seed)
        machine.disk.create("/new").sync()
        machine.disk.lose_power(random.Random(seed))
        found.add("new" in machine.disk.names("/"))
    assert found == {True, False}


def test_a_rename_can_be_lost() -> None:
    found = set()
    for seed in range(20):
        machine = Machine(seed)
        file_with(machine, A)
        machine.disk.replace("/file", "/other")
        machine.disk.lose_power(random.Random(seed))
        found.add(tuple(sorted(machine.disk.names("/"))))
    assert found == {("file",), ("other",)}


def test_a_write_that_crashes_in_its_middle_leaves_a_part_of_itself_in_the_page_cache() -> None:
    lengths = set()
    for seed in range(20):
        machine = Machine(seed)
        file = machine.disk.create("/file")
        machine.crash_at, machine.in_the_middle = lambda boundary: boundary is Boundary.WRITE, True
        with pytest.raises(Crashed):
            file.write(0, B)
        content = machine.disk.content("/file")
        assert content == B[: len(content)]
        lengths.add(len(content))
    assert len(lengths) > 10


def test_every_change_is_a_boundary_and_passed_before_it_is_done() -> None:
    machine = Machine()
    machine.storage().close()
    assert set(machine.crossed) == {
        Boundary.CREATE,
        Boundary.WRITE,
        Boundary.SYNC,
        Boundary.RENAME,
        Boundary.SYNC_DIRECTORY,
    }
    machine.crash_at = lambda boundary: boundary is Boundary.RENAME
    file_with(machine, A)
    with pytest.raises(Crashed):
        machine.disk.replace("/file", "/other")
    assert "file" in machine.disk.names("/")


@pytest.mark.parametrize("operation", ["write", "sync", "read"])
def test_an_error_comes_once(operation: str) -> None:
    machine = Machine()
    file_with(machine, A)
    file = machine.disk.open("/file", writable=True)
    machine.disk.fail_next(operation)
    steps: dict[str, Callable[[], object]] = {
        "write": lambda: file.write(0, B),
        "sync": file.sync,
        "read": lambda: file.read(0, 1),
    }
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        steps[operation]()
    assert machine.disk.has_failed
    steps[operation]()


def test_after_a_sync_that_failed_the_next_one_says_it_is_well_though_it_is_not() -> None:
    machine = Machine()
    file_with(machine, A)
    file = machine.disk.open("/file", writable=True)
    file.write(0, B)
    machine.disk.fail_next("sync")
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        file.sync()
    file.sync()
    assert machine.disk.content("/file") == B
    machine.disk.lose_power()
    assert machine.disk.content("/file") != B


def test_a_full_disk_takes_what_fits_and_has_room_again_once_it_is_freed() -> None:
    machine = Machine()
    machine.storage().close()
    file = machine.disk.create("/data/file")
    machine.disk.fill_up(100)
    with pytest.raises(OSError, match="No space left") as error:
        file.write(0, A)
    assert error.value.errno == errno.ENOSPC
    assert file.size() == 100
    machine.disk.free_space()
    file.write(0, A)
    assert file.size() == len(A)


def test_a_stall_takes_time_once() -> None:
    machine = Machine()
    file = machine.disk.create("/file")
    machine.disk.stall_next_sync(3.0)
    file.sync()
    assert machine.spent == 3.0
    file.sync()
    assert machine.spent == 3.0


def test_a_flipped_bit_is_always_noticed_by_a_start_and_gone_when_the_data_is_restored() -> None:
    machine = Machine()
    storage = machine.storage()
    for index in range(1, 6):
        storage.persist(HardState(term=1), [Entry(index, 1, EntryKind.TEXT, b"SET k %d" % index)], index - 1)
    storage.close()
    for _ in range(200):
        assert machine.disk.flip_a_bit()
        assert machine.disk.is_damaged
        with pytest.raises(StorageError):
            machine.storage()
        machine.disk.crash_process()
        machine.disk.restore()
        assert not machine.disk.is_damaged
    assert machine.storage().last_index() == 5
