"""The format of the log's segment files: theory of operation.

    segment  header | frame | frame | ...
    header   magic 8s | version u32 | number u64 | incarnation 16s | first batch u64 |
             previous index u64 | previous term u64 | crc u32
    frame    magic 4s | header crc u32 | body crc u32 | body length u32 | entries u32 |
             batch u64 | commit index u64 | first index u64 | body
    body     (term u64 | log time u64 | payload length u32 | kind u8) for each entry | their payloads, one after another

All integers little-endian, all checksums CRC32C.

A frame is a batch: the entries that one call of `persist` made durable together. Batches are counted through the whole
log, so that a missing one is noticed. The checksum of a frame's header covers the body's checksum, and also the
incarnation of the directory, the segment's number and the frame's offset, none of which are in the frame: a frame
that lies where it was not written (of a recycled segment, of another member's file, inside a client's value) is none.

A batch is written only after the one before it is durable. So an unreadable frame can be the trace of a crash only at
the very end: a valid header of any *later* batch behind it says that it had been durable, and is damaged now. The
header alone says so, hence its own checksum; it also keeps the search short, whatever clients have stored.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from google_crc32c import extend as extend_checksum
from google_crc32c import value as checksum_of

from raftkv.log_storage import RESTORE, StorageError
from raftkv.raft.types import Entry, EntryKind, LogPosition

FORMAT_VERSION: Final = 2
"""Also of the kinds of entries: a new kind is a new version. Version 2 brought EntryKind.CONFIGURATION."""
READABLE_VERSIONS: Final = (1, 2)
_SEGMENT_MAGIC: Final = b"RAFTLOG\n"
_SEGMENT: Final = struct.Struct("<8sIQ16sQQQ")
_CHECKSUM: Final = struct.Struct("<I")
HEADER_BYTES: Final = _SEGMENT.size + _CHECKSUM.size

_FRAME_MAGIC: Final = b"\xf5RKV"
_FRAME_START: Final = struct.Struct("<4sI")
_FRAME: Final = struct.Struct("<IIIQQQ")
_START_BYTES: Final = _FRAME_START.size
_FRAME_BYTES: Final = _START_BYTES + _FRAME.size
_ENTRY: Final = struct.Struct("<QQIB")
_ENTRY_BYTES: Final = _ENTRY.size
_KIND_AT: Final = _ENTRY_BYTES - 1
_PLACE: Final = struct.Struct("<Q16sQ")
_CONFIGURATION: Final = int(EntryKind.CONFIGURATION)
_KINDS: Final = {int(kind): kind for kind in EntryKind}


def damaged(path: str, offset: int, what: str) -> StorageError:
    """The error that says where a file is not what was written."""
    return StorageError(f"{path}: damaged at byte {offset}: {what}; {RESTORE}")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    number: int
    """Segments are counted from 1."""
    incarnation: bytes
    """Of the directory that the segment belongs to."""
    first_batch: int
    previous: LogPosition
    """Of the last entry before this segment."""
    version: int = field(default=FORMAT_VERSION, compare=False)
    """Of the format that the file says it has."""

    def encode(self) -> bytes:
        header = _SEGMENT.pack(
            _SEGMENT_MAGIC,
            self.version,
            self.number,
            self.incarnation,
            self.first_batch,
            self.previous.index,
            self.previous.term,
        )
        return header + _CHECKSUM.pack(checksum_of(header))


def decode_segment_header(data: bytes, path: str) -> SegmentHeader:
    """What a segment's file begins with. Raises StorageError, which names the file."""
    header, checksum = data[: _SEGMENT.size], data[_SEGMENT.size : HEADER_BYTES]
    if checksum != _CHECKSUM.pack(checksum_of(header)):
        raise damaged(path, 0, "this is not the header of a segment")
    magic, version, number, incarnation, first_batch, index, term = _SEGMENT.unpack(header)
    if magic != _SEGMENT_MAGIC or version not in READABLE_VERSIONS:
        raise StorageError(
            f"{path}: written by another version (format {version}, known here is {FORMAT_VERSION}); run that version"
        )
    return SegmentHeader(number, incarnation, first_batch, LogPosition(term, index), version)


class FrameHeader(NamedTuple):
    """As it stands in the file, but for its own checksum. A tuple, since a start makes two for each batch of the log: a
    frozen dataclass takes three times as long."""

    body_checksum: int
    body_bytes: int
    entries: int
    """How many; at least one."""
    batch: int
    commit_index: int
    first_index: int

    @property
    def last_index(self) -> int:
        return self.first_index + self.entries - 1

    @property
    def frame_bytes(self) -> int:
        return _FRAME_BYTES + self.body_bytes


def _place_checksum(segment: SegmentHeader, offset: int) -> int:
    checksum: int = checksum_of(_PLACE.pack(segment.number, segment.incarnation, offset))
    return checksum


def encode_frame(
    segment: SegmentHeader, offset: int, batch: int, commit_index: int, entries: Sequence[Entry]
) -> tuple[FrameHeader, bytes]:
    """The frame of a batch that is to lie at `offset` of that segment. `entries` are consecutive."""
    table = [_ENTRY.pack(entry.term, entry.time_ms, len(entry.payload), entry.kind) for entry in entries]
    body = b"".join(table + [entry.payload for entry in entries])
    header = FrameHeader(checksum_of(body), len(body), len(entries), batch, commit_index, entries[0].index)
    fields = _FRAME.pack(*header)
    checksum = extend_checksum(_place_checksum(segment, offset), fields)
    return header, b"".join([_FRAME_START.pack(_FRAME_MAGIC, checksum), fields, body])


def decode_frame_header(data: bytes, segment: SegmentHeader, offset: int, at: int) -> FrameHeader | None:
    """The header at `data[at:]`, which was read from `offset` of that segment; None if there is no valid one."""
    start, fields = data[at : (fields_at := at + _START_BYTES)], data[fields_at : at + _FRAME_BYTES]
    checksum = extend_checksum(_place_checksum(segment, offset), fields)
    if start != _FRAME_START.pack(_FRAME_MAGIC, checksum) or len(fields) < _FRAME.size:
        return None
    return FrameHeader._make(_FRAME.unpack(fields))


def decode_frame(data: bytes, segment: SegmentHeader, offset: int, at: int) -> tuple[FrameHeader, bytes] | None:
    """Header and body of the frame at `data[at:]`, which was read from `offset` of that segment; None if it is not
    there, or not whole."""
    header = decode_frame_header(data, segment, offset, at)
    if header is None:
        return None
    body_checksum, body_bytes = header[:2]
    body = data[(body_at := at + _FRAME_BYTES) : body_at + body_bytes]
    if len(body) != body_bytes or checksum_of(body) != body_checksum:
        return None
    return header, body


def find_later_batch(data: bytes, segment: SegmentHeader, after: int, batch: int) -> tuple[int, int] | None:
    """Look for the header of a batch later than `batch` behind offset `after` of a whole segment's `data`.

    Gives back the batch and its offset, or None.
    """
    offset = data.find(_FRAME_MAGIC, after + 1)
    while offset != -1:
        header = decode_frame_header(data, segment, offset, offset)
        if header is not None and header.batch > batch:
            return header.batch, offset
        offset = data.find(_FRAME_MAGIC, offset + 1)
    return None


def terms_of(header: FrameHeader, body: bytes) -> list[int]:
    """The terms of a frame's entries."""
    return [term for term, _, _, _ in _ENTRY.iter_unpack(body[: header.entries * _ENTRY_BYTES])]


def configurations_of(header: FrameHeader, body: bytes) -> list[int]:
    """The indexes of those of a frame's entries that are configurations."""
    kinds = body[_KIND_AT : header.entries * _ENTRY_BYTES : _ENTRY_BYTES]
    if _CONFIGURATION not in kinds:
        return []
    return [index for index, kind in enumerate(kinds, header.first_index) if kind == _CONFIGURATION]


def decode_entries(header: FrameHeader, body: bytes) -> list[Entry]:
    """The entries of a frame."""
    end = header.entries * _ENTRY_BYTES
    table = _ENTRY.iter_unpack(body[:end])
    return [
        Entry(index, term, _KINDS[kind], body[end : (end := end + length)], time_ms)
        for index, (term, time_ms, length, kind) in enumerate(table, header.first_index)
    ]
