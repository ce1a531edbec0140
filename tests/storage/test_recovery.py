"""What a start makes of files that are not as they were written: a refusal, or exactly the intact batches.

Every byte of a small directory is damaged in turn, and the log is cut at every byte.
"""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import accumulate

import pytest

from raftkv.log_storage import StorageError
from raftkv.raft.types import Entry, EntryKind, HardState, LogPosition
from raftkv.segment import FORMAT_VERSION, HEADER_BYTES, SegmentHeader, encode_frame
from tests.storage.helpers import (
    DIRECTORY,
    INCARNATION,
    append,
    assert_goes_on,
    entries,
    entry,
    log_of,
    open_storage,
    reopen_storage,
)
from tests.support.memory_disk import MemoryDisk

LOG = f"{DIRECTORY}/log-1"
BATCHES = [entries(1, 2), entries(3, 3), entries(4, 7), entries(6, 8, term=2), entries(9, 9, term=2)]


def prefixes() -> list[list[Entry]]:
    """The log after none, one, two, ... of BATCHES."""

    def take_in(log: list[Entry], batch: list[Entry]) -> list[Entry]:
        return log[: batch[0].index - 1] + batch

    nothing: list[Entry] = []
    return list(accumulate(BATCHES, take_in, initial=nothing))


def small_log(zeros: int = 0) -> tuple[MemoryDisk, list[int]]:
    """A disk with BATCHES in one segment, and so many zeros behind them, its node down; and where each batch ends, the
    header being the first."""
    files, ends = _small_log()
    files = {**files, "log-1": files["log-1"] + bytes(zeros)}
    disk = MemoryDisk()
    disk.make_directory(DIRECTORY)
    disk.sync_directory("/")
    for name, data in files.items():
        disk.overwrite(f"{DIRECTORY}/{name}", data)
    return disk, ends


@cache
def _small_log() -> tuple[dict[str, bytes], list[int]]:
    disk = MemoryDisk()
    storage = open_storage(disk)
    ends = [HEADER_BYTES]
    for batch in BATCHES:
        append(storage, batch, term=batch[-1].term, commit_index=min(5, batch[-1].index))
        ends.append(len(disk.content(LOG)))
    return disk.files(DIRECTORY), ends


def assert_refused(disk: MemoryDisk, message: str) -> None:
    """The directory is refused with one line that names the file and the mend, and nothing in it is changed."""
    before = disk.files(DIRECTORY)
    disk.operations.clear()
    with pytest.raises(StorageError, match=message) as refusal:
        open_storage(disk)
    assert re.fullmatch(r"/node\S*: [^\n]*; [^\n]+", str(refusal.value)), str(refusal.value)
    assert disk.files(DIRECTORY) == before
    changes = {"write", "truncate", "create", "replace", "remove"}
    assert not changes & {operation for operation, _ in disk.operations}
    disk.crash_process()


def assert_cut(disk: MemoryDisk, batches: int, end: int) -> None:
    """The directory opens with the first so many batches, which end there. It says what it has cut, leaves the rest if
    that is zeros alone, and goes on."""
    rest = disk.content(LOG)[end:]
    torn = len(rest.rstrip(b"\0"))
    storage = open_storage(disk)
    assert log_of(storage) == prefixes()[batches]
    assert storage.last_index() == len(prefixes()[batches])
    assert storage.commit_index <= storage.last_index()
    assert storage.notes == ([f"cut off: {torn} bytes of an unfinished batch at byte {end} of {LOG}"] if torn else [])
    assert disk.content(LOG)[end:] == (b"" if torn else rest)
    assert disk.unsynced() == []
    disk.crash_process()
    assert_goes_on(disk)


def test_a_log_cut_at_any_byte_is_the_whole_batches_before_it() -> None:
    disk, ends = small_log()
    whole = disk.content(LOG)
    for length in range(len(whole)):
        disk, _ = small_log()
        disk.overwrite(LOG, whole[:length])
        if length < HEADER_BYTES:
            assert_refused(disk, "log-1: damaged at byte 0")
        else:
            batches = sum(end <= length for end in ends) - 1
            assert_cut(disk, batches, ends[batches])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_flipped_bit_in_any_byte_of_the_log_is_refused_or_in_the_last_batch_cut(seed: int) -> None:
    rng = random.Random(seed)
    disk, ends = small_log()
    whole = disk.content(LOG)
    for offset in range(len(whole)):
        disk, _ = small_log()
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << rng.randrange(8)
        disk.overwrite(LOG, bytes(damaged))
        batch = sum(end <= offset for end in ends) - 1
        if batch == -1:
            assert_refused(disk, "log-1: damaged at byte 0")
        elif batch < len(BATCHES) - 1:
            assert_refused(disk, f"log-1: damaged at byte {ends[batch]}: batch {batch + 1} can't be read")
        else:
            assert_cut(disk, batch, ends[batch])


@pytest.mark.parametrize("name", ["identity", "metadata"])
def test_a_flipped_bit_in_any_byte_of_the_small_files_is_refused(name: str) -> None:
    disk, _ = small_log()
    path = f"{DIRECTORY}/{name}"
    whole = disk.content(path)
    for offset in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << bit
            disk.overwrite(path, bytes(damaged))
            assert_refused(disk, f"{name}: damaged")


@pytest.mark.parametrize("name", ["identity", "metadata"])
def test_a_small_file_cut_at_any_byte_or_with_bytes_added_is_refused(name: str) -> None:
    disk, _ = small_log()
    path = f"{DIRECTORY}/{name}"
    whole = disk.content(path)
    for data in [whole[:length] for length in range(len(whole))] + [whole + b"\n", whole + whole]:
        disk.overwrite(path, data)
        assert_refused(disk, f"{name}: damaged")


@pytest.mark.parametrize("name", ["identity", "metadata", "log-1"])
def test_a_missing_file_is_refused(name: str) -> None:
    disk, _ = small_log()
    disk.drop(f"{DIRECTORY}/{name}")
    assert_refused(disk, f"{name}: (missing|No such file)")


ZEROS = 100


def test_a_tail_of_zeros_is_the_end() -> None:
    """They were written ahead; and some file systems show zeros after a crash where the length had grown and the data
    had not arrived."""
    for zeros in (1, 43, 44, 45, 4096):
        disk, ends = small_log(zeros)
        assert_cut(disk, len(BATCHES), ends[-1])


def test_a_filled_log_cut_at_any_byte_is_the_whole_batches_before_it() -> None:
    disk, ends = small_log(ZEROS)
    whole = disk.content(LOG)
    for length in range(ends[-2], len(whole)):
        disk, _ = small_log()
        disk.overwrite(LOG, whole[:length])
        batches = len(BATCHES) - (length < ends[-1])
        assert_cut(disk, batches, ends[batches])


def test_a_filled_log_whose_last_batch_is_written_up_to_any_byte_is_the_whole_batches_before_it() -> None:
    disk, ends = small_log(ZEROS)
    whole = disk.content(LOG)
    for written in range(ends[-2], ends[-1] + 1):
        data = whole[:written] + bytes(len(whole) - written)
        disk.overwrite(LOG, data)
        batches = len(BATCHES) - (data != whole)
        assert_cut(disk, batches, ends[batches])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_flipped_bit_in_any_byte_of_a_filled_log_is_refused_or_behind_the_last_batches_cut(seed: int) -> None:
    rng = random.Random(seed)
    disk, ends = small_log(ZEROS)
    whole = disk.content(LOG)
    for offset in range(HEADER_BYTES, len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << rng.randrange(8)
        disk.overwrite(LOG, bytes(damaged))
        batch = sum(end <= offset for end in ends) - 1
        if batch < len(BATCHES) - 1:
            assert_refused(disk, f"log-1: damaged at byte {ends[batch]}: batch {batch + 1} can't be read")
        else:
            assert_cut(disk, batch, ends[batch])


def test_zeros_before_a_later_batch_are_damage() -> None:
    disk, ends = small_log()
    whole = disk.content(LOG)
    disk.overwrite(LOG, whole[: ends[1]] + bytes(ends[2] - ends[1]) + whole[ends[2] :])
    assert_refused(disk, f"damaged at byte {ends[1]}: batch 2 can't be read, and batch 3 follows at byte {ends[2]}")


def test_the_header_of_a_later_batch_alone_shows_that_the_one_before_it_is_damaged() -> None:
    """The last but one is damaged, and the last torn: it had been begun, so the one before it had been durable."""
    disk, ends = small_log()
    whole = bytearray(disk.content(LOG)[:-5])
    whole[ends[3] + 60] ^= 1
    disk.overwrite(LOG, bytes(whole))
    assert_refused(disk, f"damaged at byte {ends[3]}: batch 4 can't be read, and batch 5 follows at byte {ends[4]}")


def test_a_torn_tail_of_random_bytes_is_cut() -> None:
    rng = random.Random(1)
    for length in (1, 10, 100, 10_000):
        disk, ends = small_log()
        disk.overwrite(LOG, disk.content(LOG) + rng.randbytes(length))
        assert_cut(disk, len(BATCHES), ends[-1])


def test_a_copy_of_the_log_inside_a_torn_value_is_not_taken_for_later_batches() -> None:
    """A client may store anything, the bytes of a log among them."""
    disk, ends = small_log()
    copy = disk.content(LOG)
    storage = open_storage(disk)
    append(storage, [entry(10, 2, copy * 3)])
    disk.lose_power()
    disk.overwrite(LOG, disk.content(LOG)[:-1])
    assert_cut(disk, len(BATCHES), ends[-1])


def test_a_frame_that_lies_where_it_was_not_written_never_validates() -> None:
    segment = SegmentHeader(1, INCARNATION, 1, LogPosition(0, 0))
    others = [
        SegmentHeader(2, INCARNATION, 1, LogPosition(0, 0)),
        SegmentHeader(1, bytes(16), 1, LogPosition(0, 0)),
    ]
    disk, ends = small_log()
    frames = [encode_frame(other, ends[-1], 6, 5, entries(10, 11, term=2))[1] for other in others]
    frames += [encode_frame(segment, offset, 6, 5, entries(10, 11, term=2))[1] for offset in (ends[-1] - 1, ends[0])]
    for frame in frames:
        disk, _ = small_log()
        disk.overwrite(LOG, disk.content(LOG) + frame)
        assert_cut(disk, len(BATCHES), ends[-1])


def impossible(batch: int, first: int) -> MemoryDisk:
    """A disk whose log ends with a frame that is valid by itself."""
    disk, ends = small_log()
    segment = SegmentHeader(1, INCARNATION, 1, LogPosition(0, 0))
    frame = encode_frame(segment, ends[-1], batch, 5, entries(first, first, term=2))[1]
    disk.overwrite(LOG, disk.content(LOG) + frame)
    return disk


def test_a_gap_in_the_batches_is_refused() -> None:
    _, ends = small_log()
    assert_refused(impossible(batch=7, first=10), f"damaged at byte {ends[-1]}: batch 7 where 6 belongs")


def test_a_repeated_batch_is_refused() -> None:
    _, ends = small_log()
    assert_refused(impossible(batch=5, first=10), f"damaged at byte {ends[-1]}: batch 5 where 6 belongs")


def test_a_gap_in_the_indexes_is_refused() -> None:
    _, ends = small_log()
    assert_refused(impossible(batch=6, first=11), f"damaged at byte {ends[-1]}: entry 11 does not follow 9")


def test_a_batch_that_replaces_committed_entries_is_refused() -> None:
    _, ends = small_log()
    assert_refused(impossible(batch=6, first=5), f"damaged at byte {ends[-1]}: entry 5 does not follow 9")


def test_metadata_of_an_earlier_term_than_the_log_is_refused() -> None:
    disk, _ = small_log()
    old = MemoryDisk()
    open_storage(old)
    disk.overwrite(f"{DIRECTORY}/metadata", old.content(f"{DIRECTORY}/metadata"))
    assert_refused(disk, "metadata: says term 0, though the log has entries of term 2")


# Several segments


def segmented() -> MemoryDisk:
    """A disk with a segment for each of BATCHES, its node down."""
    disk = MemoryDisk()
    storage = open_storage(disk, segment_bytes=HEADER_BYTES + 1)
    for batch in BATCHES:
        append(storage, batch, term=batch[-1].term, commit_index=min(5, batch[-1].index))
    disk.lose_power()
    return disk


def test_segments_are_read_one_after_the_other() -> None:
    disk = segmented()
    assert {name for name in disk.files(DIRECTORY) if name.startswith("log")} == {f"log-{n}" for n in range(1, 6)}
    assert log_of(open_storage(disk)) == prefixes()[-1]
    disk.crash_process()
    assert_goes_on(disk, segment_bytes=HEADER_BYTES + 1)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_any_missing_segment_is_refused_even_the_last_one(number: int) -> None:
    disk = segmented()
    disk.drop(f"{DIRECTORY}/log-{number}")
    assert_refused(disk, f"log-{number}: missing")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_earlier_segment_that_is_torn_is_refused(number: int) -> None:
    path = f"{DIRECTORY}/log-{number}"
    for change in (-1, -20, 1):
        disk = segmented()
        data = disk.content(path)
        disk.overwrite(path, data[:change] if change < 0 else data + b"\1")
        end = HEADER_BYTES if change < 0 else len(data)
        what = f"damaged at byte {end}: batch {number + (change > 0)} can't be read, and another segment follows"
        assert_refused(disk, what)


def test_an_earlier_segment_may_end_with_zeros_but_not_with_anything_behind_them() -> None:
    disk = segmented()
    path = f"{DIRECTORY}/log-2"
    data = disk.content(path)
    disk.overwrite(path, data + bytes(ZEROS))
    assert log_of(open_storage(disk)) == prefixes()[-1]
    disk.crash_process()
    disk.overwrite(path, data + bytes(ZEROS) + b"\1")
    assert_refused(disk, f"damaged at byte {len(data)}: batch 3 can't be read, and another segment follows")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_earlier_segment_that_lost_its_batch_is_refused(number: int) -> None:
    disk = segmented()
    disk.overwrite(f"{DIRECTORY}/log-{number}", disk.content(f"{DIRECTORY}/log-{number}")[:HEADER_BYTES])
    assert_refused(disk, f"log-{number + 1}: damaged at byte 0: it does not continue")


def test_two_segments_exchanged_are_refused() -> None:
    disk = segmented()
    second, third = disk.content(f"{DIRECTORY}/log-2"), disk.content(f"{DIRECTORY}/log-3")
    disk.overwrite(f"{DIRECTORY}/log-2", third)
    disk.overwrite(f"{DIRECTORY}/log-3", second)
    assert_refused(disk, "log-2: damaged at byte 0: it does not continue")


def test_a_segment_of_another_directory_is_refused() -> None:
    disk = segmented()
    other = MemoryDisk()
    storage = open_storage(other, incarnation=b"o" * 16)
    append(storage, *BATCHES[:3])
    disk.overwrite(LOG, other.content(LOG))
    assert_refused(disk, "log-1: damaged at byte 0: a segment of another directory's log")


def test_the_last_segment_may_be_torn() -> None:
    disk = segmented()
    path = f"{DIRECTORY}/log-5"
    disk.overwrite(path, disk.content(path)[:-1])
    assert log_of(open_storage(disk)) == prefixes()[4]
    disk.crash_process()
    assert_goes_on(disk)


# Other versions


def test_a_segment_of_a_newer_format_is_refused_as_such() -> None:
    disk = MemoryDisk()
    open_storage(disk)
    newer = FORMAT_VERSION + 1
    disk.overwrite(LOG, SegmentHeader(1, INCARNATION, 1, LogPosition(0, 0), newer).encode())
    disk.crash_process()
    what = rf"format {newer}, known here is {FORMAT_VERSION}"
    assert_refused(disk, rf"log-1: written by another version \({what}\); run that version")


def test_a_segment_of_the_older_format_is_read_and_not_written_to() -> None:
    """Its readers would not understand a configuration."""
    disk = MemoryDisk()
    open_storage(disk)
    disk.overwrite(LOG, SegmentHeader(1, INCARNATION, 1, LogPosition(0, 0), version=1).encode())
    disk.crash_process()
    storage = open_storage(disk)
    entry = Entry(1, 1, EntryKind.CONFIGURATION, b"as a newer version has it")

    storage.persist(HardState(1), [entry], 0)

    assert disk.content(LOG) == SegmentHeader(1, INCARNATION, 1, LogPosition(0, 0), version=1).encode()
    assert log_of(storage) == [entry]
    disk.crash_process()
    assert open_storage(disk).configurations() == [entry]


@pytest.mark.parametrize("name", ["identity", "metadata"])
def test_a_small_file_of_a_newer_format_is_refused_as_such(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, newer = MemoryDisk(), MemoryDisk()
    open_storage(disk)
    with monkeypatch.context() as patch:
        patch.setattr("raftkv.metadata.FORMAT_VERSION", 3)
        open_storage(newer)
    disk.overwrite(f"{DIRECTORY}/{name}", newer.content(f"{DIRECTORY}/{name}"))
    disk.crash_process()
    assert_refused(disk, rf"{name}: written by another version \('raftkv {name} 3', known here are formats 1 to 2\)")


# Random histories


def random_history(rng: random.Random, disk: MemoryDisk) -> list[list[Entry]]:
    """Write a random log; what it was after each batch, and before the first."""
    storage = open_storage(disk, segment_bytes=rng.choice([100, 1000, 10**6]), fill_bytes=rng.choice([0, 200, 2000]))
    history: list[list[Entry]] = [[]]
    for term in range(1, rng.randint(3, 15)):
        first = rng.randint(storage.commit_index + 1, storage.last_index() + 1)
        batch = [
            Entry(first + n, term, rng.choice(list(EntryKind)), rng.randbytes(rng.choice([0, 7, 700])), term)
            for n in range(rng.randint(1, 5))
        ]
        storage.persist(HardState(term), batch, max(storage.commit_index, first - 3))
        history.append(log_of(storage))
    return history


def log_or_refusal(disk: MemoryDisk) -> list[Entry] | StorageError:
    try:
        return log_of(reopen_storage(disk))
    except StorageError as refusal:
        return refusal


@pytest.mark.parametrize("seed", range(20))
def test_a_random_log_damaged_at_random_is_refused_or_some_batches_of_its_history(seed: int) -> None:
    """Replay a failure with: pytest tests/storage/test_recovery.py -k "damaged_at_random and SEED"."""
    rng = random.Random(seed)
    disk = MemoryDisk()
    history = random_history(rng, disk)
    segments = sorted(name for name in disk.files(DIRECTORY) if name.startswith("log"))
    for _ in range(40):
        path = f"{DIRECTORY}/{rng.choice(segments)}"
        whole = disk.content(path)
        start, length = rng.randrange(len(whole)), rng.choice([1, 10, 512])
        damage = rng.choice([b"", bytes(length), rng.randbytes(length)])
        disk.overwrite(path, whole[:start] + damage + whole[start + length :])
        outcome = log_or_refusal(disk)
        assert isinstance(outcome, StorageError) or outcome in history
        disk.overwrite(path, whole)
    assert log_or_refusal(disk) == history[-1]


def test_a_recovered_storage_reads_what_a_closed_one_wrote() -> None:
    disk, _ = small_log()
    storage = open_storage(disk)
    storage.close()
    assert log_of(open_storage(disk)) == prefixes()[-1]
    storage = reopen_storage(disk)
    assert list(storage.replay()) == prefixes()[-1][:5]
