"""The log in its files, `log-1`, `log-2`, ...: theory of operation.

A segment is appended to until it is full; then a new one is begun, and the old one never changes again. The format is
that of segment.py. What this module owns is the order of things on the disk:

* A batch is one write and one sync, and is written only after the batch before it is durable.
* A segment comes into being whole: its header is written and synced under a temporary name, then renamed, then the
  directory is synced; only then a batch is written to it.
* A batch that reaches beyond the end of its file takes zeros along, in the same write, for those after it to be written
  over: a sync that has no new length to make durable costs little more than half. Nothing but zeros behind the last
  batch is the end of the log, nothing unfinished.

Hence a crash can have left at most one batch unfinished, at the end of the last segment. `recover` reads everything
and tells such a torn tail from damage, changing nothing; `mend` cuts it. What recovery read may only be in the page
cache, for example because the sync of the last start failed: so `mend` writes the last batch anew, in its place, and
syncs it; or the whole of a segment that holds none yet. All that is before it had been synced with success earlier.

Once a snapshot stands for the front of the log, whole segments are forgotten: from then on the log begins with segment
`first_segment`, and with the entry after `previous`. A batch there may have replaced entries of a segment before it,
so `previous` can lie before what the segment's own header calls the previous entry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from raftkv.disk import Disk, File, disk_error, disk_errors, read_file, replace_file
from raftkv.log_index import LogIndex, Place
from raftkv.log_storage import RESTORE, StorageError
from raftkv.raft.types import ORIGIN, Entry, EntryKind, LogPosition
from raftkv.segment import (
    FORMAT_VERSION,
    HEADER_BYTES,
    FrameHeader,
    SegmentHeader,
    configurations_of,
    damaged,
    decode_entries,
    decode_frame,
    decode_segment_header,
    encode_frame,
    find_later_batch,
    terms_of,
)

_LARGEST_WITH_FILL: Final = 1 << 14
"""Bytes. A larger batch is not followed by zeros: beside what it writes itself, a new length costs little, and the
zeros would double what a busy log writes (a thousand writes in flight: 100,000/s without them, 64,000/s with them)."""

_NAME: Final = re.compile(r"log-([1-9][0-9]*)")


def segment_name(number: int) -> str:
    return f"log-{number}"


def segment_numbers(names: Iterable[str]) -> list[int]:
    """The numbers of the segments among the names of a directory, ascending."""
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


class SegmentedLog:
    """The segment files of one directory. Every method raises StorageError when the disk fails or holds damage."""

    def __init__(self, disk: Disk, directory: str, incarnation: bytes, fill_bytes: int = 0) -> None:
        """Files grow by `fill_bytes` at a time, as far as that is more than what a batch needs; 0: by batches alone."""
        self._disk = disk
        self._directory = directory
        self._incarnation = incarnation
        self._fill_bytes = fill_bytes
        self.index = LogIndex()
        self.first_segment = 1
        self.commit_index = 0
        """As remembered with the last batch."""
        self.torn_tail = ""
        """After `recover`: what a person should read of an unfinished batch; empty if there is none."""
        self._segments: list[SegmentHeader] = []
        self._last_batch = 0
        self._end = 0
        """Where the next batch goes, in the last segment."""
        self._filled = 0
        """Where that segment's file ends; from `_end` on there are zeros."""
        self._last_frame = b""
        """What lies just before it: kept between `recover` and `mend`."""
        self._writer: File | None = None
        self._reader: tuple[int, File] | None = None

    @property
    def segments(self) -> int:
        """How many there are."""
        return len(self._segments)

    @property
    def last_segment(self) -> int:
        """Its number; first_segment - 1 if there is none."""
        return self.first_segment + len(self._segments) - 1

    @property
    def is_last_empty(self) -> bool:
        """After `recover`: whether there is a last segment, and no batch in it."""
        return bool(self._segments) and not self._last_frame

    def path(self, number: int) -> str:
        return os.path.join(self._directory, segment_name(number))

    # Recovery

    def recover(self, at_least: int, first_segment: int = 1, previous: LogPosition = ORIGIN) -> None:
        """Read all segments from the first one on, up to number `at_least`, and further ones if there are any. The log
        begins after `previous`. Changes nothing in them.

        When it raises, what came before the damage is in the index.
        """
        self.first_segment = first_segment
        self._begin_after(previous)
        with disk_errors(self._directory):
            numbers = segment_numbers(self._disk.names(self._directory))
        for number in range(first_segment, max([at_least, *numbers]) + 1):
            if number not in numbers:
                raise StorageError(f"{self.path(number)}: missing; {RESTORE}")
            self._recover_segment(number, is_last=number == numbers[-1])
        if self.index.batches and not self.index.first_segment:
            what = f"entries after {previous.index}, which had been replaced, are the first ones again"
            raise damaged(self.path(first_segment), HEADER_BYTES, what)

    def _begin_after(self, previous: LogPosition) -> None:
        self.index = LogIndex(previous)
        self.commit_index = previous.index  # or it could not have been forgotten

    def _recover_segment(self, number: int, is_last: bool) -> None:
        path = self.path(number)
        data = read_file(self._disk, path)
        segment = decode_segment_header(data, path)
        if segment.incarnation != self._incarnation:
            raise damaged(path, 0, "a segment of another directory's log")
        if not self._segments:
            self._last_batch = segment.first_batch - 1
            self._bridge(segment.previous)
        if segment != self._next_segment():
            raise damaged(path, 0, "it does not continue the segment before it")
        self._segments.append(segment)
        self._end, self._last_frame = HEADER_BYTES, b""
        last_offset = self._end
        while (frame := decode_frame(data, segment, self._end, self._end)) is not None:
            last_offset = self._end
            self._recover_frame(path, *frame)
        self._last_frame = data[last_offset : self._end]
        self._filled = len(data)
        unfinished = len(data[self._end :].rstrip(b"\0"))
        if unfinished:
            self._refuse_damage(path, data, is_last)
            self._filled = self._end
            self.torn_tail = f"{unfinished} bytes of an unfinished batch at byte {self._end} of {path}"

    def _bridge(self, previous: LogPosition) -> None:
        """Fill the place up to the entry that the first segment was begun after: with entries of a forgotten segment
        that have been replaced later, since they come after the last one that counts there."""
        first, last = self.index.last_index + 1, previous.index
        if first <= last:
            self.index.append(Place(0, 0, 0, first, last), [previous.term] * (last - first + 1))

    def _recover_frame(self, path: str, header: FrameHeader, body: bytes) -> None:
        if header.batch != self._last_batch + 1:
            raise damaged(path, self._end, f"batch {header.batch} where {self._last_batch + 1} belongs")
        if not self.commit_index < header.first_index <= self.index.last_index + 1:
            raise damaged(path, self._end, f"entry {header.first_index} does not follow {self.index.last_index}")
        self._take_in(header, terms_of(header, body), configurations_of(header, body))

    def _refuse_damage(self, path: str, data: bytes, is_last: bool) -> None:
        """Raise, unless what lies behind the last whole batch can be what a crash has left of the next one."""
        batch = self._last_batch + 1
        if not is_last:
            raise damaged(path, self._end, f"batch {batch} can't be read, and another segment follows")
        later = find_later_batch(data, self._segments[-1], self._end, batch)
        if later is not None:
            what = f"batch {batch} can't be read, and batch {later[0]} follows at byte {later[1]}"
            raise damaged(path, self._end, what)

    def mend(self) -> None:
        """After `recover`: cut the torn tail, and see to it that what was read is on the disk, not only in memory."""
        path = self.path(self.last_segment)
        if not self._last_frame:
            self._writer = replace_file(self._disk, path, self._segments[-1].encode())
            self._filled = HEADER_BYTES
            return
        with disk_errors(path):
            self._writer = self._disk.open(path, writable=True)
            if self.torn_tail:
                self._writer.truncate(self._end)
            self._writer.write(self._end - len(self._last_frame), self._last_frame)
            self._writer.sync()
            self._disk.sync_directory(self._directory)
        self._last_frame = b""

    # Writing

    def is_full(self, segment_bytes: int) -> bool:
        """Whether the last segment has grown to so many bytes; or is of an older format, whose readers would not
        understand what is appended now."""
        return self._end >= segment_bytes or self._segments[-1].version < FORMAT_VERSION

    def start_segment(self) -> None:
        """Go on in a new segment."""
        segment = self._next_segment()
        writer = replace_file(self._disk, self.path(segment.number), segment.encode())
        self.close()
        self._writer = writer
        self._segments.append(segment)
        self._end = self._filled = HEADER_BYTES

    def append(self, entries: Sequence[Entry], commit_index: int) -> None:
        """Make a batch durable: consecutive entries, of which the first may take the place of one in the log."""
        assert self._writer is not None, "an open log"
        segment = self._segments[-1]
        header, frame = encode_frame(segment, self._end, self._last_batch + 1, commit_index, entries)
        filled = max(self._filled, self._end + len(frame))
        if filled > self._filled and self._fill_bytes and len(frame) <= _LARGEST_WITH_FILL:
            filled += -filled % self._fill_bytes
            frame += bytes(filled - self._end - len(frame))
        try:
            self._writer.write(self._end, frame)
            self._writer.sync()
        except OSError as error:
            raise disk_error(error, self.path(segment.number)) from error
        self._filled = filled
        configurations = [entry.index for entry in entries if entry.kind is EntryKind.CONFIGURATION]
        self._take_in(header, [entry.term for entry in entries], configurations)

    def _take_in(self, header: FrameHeader, terms: Iterable[int], configurations: Iterable[int]) -> None:
        frame_bytes, commit_index = header.frame_bytes, header.commit_index
        place = Place(self.last_segment, self._end, frame_bytes, header.first_index, header.last_index)
        self.index.append(place, terms, configurations)
        if commit_index > self.commit_index:
            self.commit_index = commit_index
        self._last_batch = header.batch
        self._end += frame_bytes

    def _next_segment(self) -> SegmentHeader:
        previous = LogPosition(self.index.last_term, self.index.last_index)
        return SegmentHeader(self.last_segment + 1, self._incarnation, self._last_batch + 1, previous)

    # Forgetting

    def forget(self, keep_from: int) -> int:
        """Forget whole segments that hold nothing from `keep_from` on. Gives back the number of the first one left.
        The files stay, for those to remove who know when."""
        self.index.forget(keep_from)
        return self._drop_segments_before(self.index.first_segment or self.last_segment)

    def begin_anew(self, previous: LogPosition) -> int:
        """Forget all there is; the next segment begins after `previous`. Gives back its number."""
        self._begin_after(previous)
        return self._drop_segments_before(self.last_segment + 1)

    def _drop_segments_before(self, number: int) -> int:
        del self._segments[: number - self.first_segment]
        self.first_segment = number
        if self._reader is not None and self._reader[0] < number:
            self._close_reader()
        return number

    # Reading

    def read(self, first: int, last: int, chunk_bytes: int) -> Iterator[Entry]:
        """The entries first..last, read about `chunk_bytes` at a time. The log must not change meanwhile."""
        for chunk in _chunks(self.index.places(first, last), chunk_bytes):
            number, start = chunk[0].segment, chunk[0].offset
            with disk_errors(self.path(number)):
                data = self._open(number).read(start, chunk[-1].end - start)
            segment = self._segments[number - self.first_segment]
            for place in chunk:
                frame = decode_frame(data, segment, place.offset, place.offset - start)
                if frame is None:
                    raise damaged(self.path(number), place.offset, f"entry {place.first} can't be read any more")
                skipped = place.first - frame[0].first_index
                yield from decode_entries(*frame)[skipped : skipped + place.last - place.first + 1]

    def _open(self, number: int) -> File:
        if number == self.last_segment and self._writer is not None:
            return self._writer
        if self._reader is None or self._reader[0] != number:
            reader = self._disk.open(self.path(number))
            self._close_reader()
            self._reader = number, reader
        return self._reader[1]

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader[1].close()
            self._reader = None

    def close(self) -> None:
        """Close the files."""
        self._close_reader()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _chunks(places: Iterable[Place], chunk_bytes: int) -> Iterator[list[Place]]:
    """Group places that one read can fetch: next to each other, and together not above `chunk_bytes` if several."""
    chunk: list[Place] = []
    segment = start = end = 0
    """Of the chunk, in which segment and from where to where."""
    for place in places:
        adjoins = place.offset == end and place.segment == segment
        end = place.offset + place.frame_bytes
        if not adjoins or end - start > chunk_bytes:
            if chunk:
                yield chunk
            chunk, segment, start = [], place.segment, place.offset
        chunk.append(place)
    if chunk:
        yield chunk
