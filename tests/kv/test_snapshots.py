"""Freezing the state machine while it goes on, and its state as a snapshot."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import google_crc32c
import pytest

from raftkv import kv_snapshot
from raftkv.kv import FrozenState, StateMachine
from raftkv.kv_snapshot import decode, encode
from raftkv.log_storage import StorageError
from raftkv.raft.types import LogPosition
from raftkv.records import Layers, Records
from tests.kv.driving import (
    DONE,
    NOT_DONE,
    Driver,
    compare_and_set,
    delete,
    keys_of_one_part,
    replayed,
    set_,
    set_if_absent,
)
from tests.kv.test_model import random_log


@dataclass
class Data:
    """A snapshot in memory."""

    content: bytes
    name: str = "snapshot-7"

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def saved(state: FrozenState, configuration: bytes = b"") -> bytes:
    return b"".join(encode(state, configuration))


def restored(content: bytes) -> StateMachine:
    machine = StateMachine()
    machine.restore(decode(Data(content))[1])
    return machine


# ---- freezing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_machine_that_is_frozen_and_thawed_at_random_is_the_one_that_never_was(seed: int) -> None:
    rng = random.Random(seed)
    plain, machine = StateMachine(), StateMachine()
    keys = {b"no such key"}
    frozen: FrozenState | None = None
    digest_when_frozen = b""
    for entry in random_log(seed, entries=200):
        assert machine.apply(entry) == plain.apply(entry)
        keys |= set(plain.all_keys())
        assert machine.digest() == plain.digest()
        assert len(machine) == len(plain)
        assert sorted(machine.all_keys()) == sorted(plain.all_keys())
        assert [machine.get(key) for key in keys] == [plain.get(key) for key in keys]
        assert [machine.record(key) for key in keys] == [plain.record(key) for key in keys]
        if frozen is None and machine.can_freeze and rng.random() < 0.3:
            digest_when_frozen, frozen = machine.digest(), machine.freeze()
        elif frozen is not None and rng.random() < 0.2:
            assert restored(saved(frozen)).digest() == digest_when_frozen
            machine.thaw()
            frozen = None
        elif rng.random() < 0.5:
            machine.merge(rng.randint(0, 3))


class Untouchable(Records):
    """Records that nobody may go through as a whole."""

    def _forbidden(self, *_: object) -> Iterator[bytes]:
        raise AssertionError("all records are looked at")

    __iter__ = keys = values = items = copy = _forbidden  # type: ignore[assignment]


def test_neither_freezing_nor_thawing_goes_through_all_records() -> None:
    """With a million of them that would hold up everybody for 50 ms and more."""
    driver = Driver()
    driver.batch(*(set_(b"key-%d" % n, b"old") for n in range(1000)))
    driver.machine._records = Layers(Untouchable(driver.machine._records.items()))
    driver.machine.freeze()
    driver.batch(set_(b"key-1", b"new"), delete(b"key-2"), set_(b"another", b"new"))
    assert driver.machine.get(b"key-1") == b"new"
    assert driver.machine.get(b"key-2") is None
    assert len(driver.machine) == 1000
    driver.machine.thaw()
    driver.machine.merge(100)
    assert driver.machine.can_freeze
    assert driver.machine.get(b"key-1") == b"new"
    assert driver.machine.get(b"key-2") is None


def test_what_is_frozen_does_not_change() -> None:
    driver = Driver()
    session = driver.open_session()
    driver.batch(set_(b"a", b"1", 1), session=session)
    frozen, digest = driver.machine.freeze(), driver.machine.digest()
    driver.batch(set_(b"a", b"2", 2), delete(b"b", 3), session=session)
    driver.batch(set_(b"b", b"2"))
    driver.time_ms = 5000
    driver.change_leader(max_sessions=7)
    assert restored(saved(frozen)).digest() == digest


def test_conditions_hold_for_what_was_written_since_the_freeze() -> None:
    driver = Driver()
    driver.batch(set_(b"a", b"1"), set_(b"b", b"1"))
    driver.machine.freeze()
    assert driver.batch(delete(b"a"), delete(b"a"), set_if_absent(b"a", b"2")) == [DONE, NOT_DONE, DONE]
    assert driver.batch(compare_and_set(b"b", b"1", b"2"), compare_and_set(b"b", b"1", b"3")) == [DONE, NOT_DONE]
    record = driver.machine.record(b"a")
    assert record is not None
    assert (record.create_revision, record.version) == (4, 1), "a key that was deleted begins anew"


def test_a_second_freeze_waits_for_the_first_to_be_merged() -> None:
    driver = Driver()
    driver.machine.freeze()
    with pytest.raises(AssertionError):
        driver.machine.freeze()
    driver.batch(set_(b"a", b"1"))
    driver.machine.thaw()
    assert not driver.machine.can_freeze
    with pytest.raises(AssertionError):
        driver.machine.freeze()
    driver.machine.merge(1)
    assert driver.machine.can_freeze


@pytest.mark.parametrize("merged", range(8))
def test_writes_to_a_part_that_is_half_merged_count(merged: int) -> None:
    """Whether the key's turn has come, is still to come, or it is new."""
    keys = keys_of_one_part(10)
    driver = Driver()
    driver.batch(*(set_(key, b"1") for key in keys[:6]))
    driver.machine.freeze()
    driver.batch(*(set_(key, b"2") for key in keys[:8]), delete(keys[1]))
    driver.machine.thaw()
    driver.machine.merge(merged)
    driver.batch(*(set_(key, b"3") for key in keys[::3]), *(delete(key) for key in keys[2::3]), set_(keys[1], b"3"))
    assert driver.machine.digest() == replayed(driver.log).digest()
    driver.machine.merge(100)
    assert driver.machine.can_freeze
    assert driver.machine.digest() == replayed(driver.log).digest()


# ---- the file --------------------------------------------------------------------------------------------------------


def some_state() -> FrozenState:
    driver = Driver()
    one, two = driver.open_session(), driver.open_session()
    driver.batch(*(set_(b"key-%d" % n, bytes(n), n + 1) for n in range(4)), session=one)
    driver.batch(set_(b"k", b"v" * 40, 1), delete(b"missing", 2), session=two)
    driver.time_ms = 600
    driver.batch(set_(b"key-2", b"again", 5), session=one, lowest_unanswered=3)
    return driver.machine.freeze()


@pytest.mark.parametrize("seed", range(20))
def test_a_snapshot_holds_the_whole_state(seed: int) -> None:
    log = random_log(seed, entries=150)
    machine = replayed(log[:100])
    copy = restored(saved(machine.freeze()))
    assert copy.digest() == machine.digest()
    assert len(copy) == len(machine)
    for entry in log[100:]:
        assert copy.apply(entry) == machine.apply(entry)
        assert copy.digest() == machine.digest()


def test_a_snapshot_of_nothing_is_one_too() -> None:
    assert restored(saved(StateMachine().freeze())).digest() == StateMachine().digest()


def test_hazard_35_sessions_and_configuration_are_in_the_snapshot() -> None:
    """The snapshot leaves out the configuration or the client sessions. Retry a write after an install."""
    driver = Driver()
    session = driver.open_session()
    assert driver.batch(set_if_absent(b"lock", b"mine", 1), session=session) == [DONE]
    meta, state = decode(Data(saved(driver.machine.freeze(), b"who is in it")))
    assert meta.configuration == b"who is in it"
    driver.machine = StateMachine()
    driver.machine.restore(state)
    assert driver.batch(set_if_absent(b"lock", b"mine", 1), session=session) == [DONE], "answered as it was then"
    assert driver.machine.revision == 1


def test_a_snapshot_says_what_it_stands_for() -> None:
    state = some_state()
    meta, _ = decode(Data(saved(state)))
    assert meta.last == LogPosition(state.applied_term, state.applied_index)
    assert meta.time_ms == 600


def test_a_snapshot_comes_in_pieces_of_bounded_size() -> None:
    driver = Driver()
    driver.batch(*(set_(b"key-%d" % n, b"x" * 100) for n in range(5000)))
    driver.batch(*(set_(b"large-%d" % n, b"x" * 200_000) for n in range(5)))
    pieces = list(encode(driver.machine.freeze(), b""))
    assert len(pieces) > 5
    assert max(map(len, pieces)) < (256 << 10) + 200_000 + 1000


@pytest.mark.parametrize("size", [0, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 1 << 20, (1 << 20) + 1])
def test_hazard_15_values_of_any_size_come_back(size: int) -> None:
    """A large entry corrupts a follower's log. Largest size, one less, one more; restart."""
    driver = Driver()
    driver.batch(set_(b"before", b"1"), set_(b"large", b"x" * size), set_(b"after", b"2"))
    copy = restored(saved(driver.machine.freeze()))
    assert [copy.get(key) for key in (b"before", b"large", b"after")] == [b"1", b"x" * size, b"2"]
    assert copy.digest() == driver.machine.digest()


def test_a_flipped_bit_anywhere_is_refused() -> None:
    content = saved(some_state(), b"configuration")
    for offset in range(len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << offset % 8
        with pytest.raises(StorageError, match=r"^snapshot-7: damaged at byte \d+: [^\n]*$"):
            decode(Data(bytes(damaged)))


def test_a_snapshot_cut_anywhere_or_with_something_added_is_refused() -> None:
    content = saved(some_state(), b"configuration")
    for length in range(len(content)):
        with pytest.raises(StorageError, match=r"^snapshot-7: damaged at byte \d+: [^\n]*$"):
            decode(Data(content[:length]))
    for added in (b"\0", content[-40:], bytes(100)):
        with pytest.raises(StorageError, match="damaged"):
            decode(Data(content + added))


def test_a_piece_that_is_missing_doubled_or_elsewhere_is_refused() -> None:
    driver = Driver()
    driver.batch(*(set_(b"key-%04d" % n, b"x" * 100) for n in range(1700)))
    start, header, *rest = encode(driver.machine.freeze(), b"")
    one, two, three, trailer = rest
    assert len(one) == len(two)
    for pieces in (
        (header, two, one, three, trailer),
        (header, one, one, three, trailer),
        (header, one, three, trailer),
        (one, two, three, trailer),
        (header, one, two, three),
        (header, trailer),
        (header, header, one, two, three, trailer),
    ):
        with pytest.raises(StorageError, match="damaged"):
            decode(Data(start + b"".join(pieces)))


def test_a_snapshot_of_a_newer_format_is_refused_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_snapshot, "FORMAT_VERSION", 2)
    content = saved(some_state())
    monkeypatch.undo()
    with pytest.raises(StorageError, match=r"snapshot-7: written by another version \(format 2, known here is 1\)"):
        decode(Data(content))


def test_frames_that_are_whole_and_mean_nothing_are_refused() -> None:
    start = next(encode(StateMachine().freeze(), b""))

    def framed(*frames: tuple[int, bytes]) -> bytes:
        content = start
        for kind, body in frames:
            checksum = google_crc32c.extend(google_crc32c.value(struct.pack("<BQ", kind, len(content))), body)
            content += struct.pack("<BII", kind, len(body), checksum) + body
        return content

    header = b"".join(encode(StateMachine().freeze(), b""))[len(start) + 9 :].partition(b"}")[0] + b"}"
    trailer = b'{"records": 0, "sessions": 0}'
    assert restored(framed((1, header), (4, trailer))).digest() == StateMachine().digest()
    for frames in (
        [(1, b"no JSON"), (4, trailer)],
        [(1, b"{}"), (4, trailer)],
        [(1, header), (4, b'{"records": 1, "sessions": 0}')],
        [(1, header), (2, b"\x01\0\0\0"), (4, trailer)],
        [(1, header), (2, struct.pack("<3I", 1, 1, 1) + b"xyz"), (4, trailer)],
        [(1, header), (3, b"too short for one"), (4, trailer)],
        [(1, header), (3, struct.pack("<QQQI", 1, 1, 1, 2) + struct.pack("<QBQ", 1, 0, 0)), (4, trailer)],
        [(1, header), (3, struct.pack("<QQQI", 1, 1, 1, 1) + struct.pack("<QBQ", 1, 99, 0)), (4, trailer)],
        [(1, header), (9, b"")],
        [],
    ):
        with pytest.raises(StorageError, match="damaged"):
            decode(Data(framed(*frames)))
