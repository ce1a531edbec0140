"""Shows a data directory to a person: `python storage.py DIR`.

Each operation is one line in the form that the client program takes. Keys, and the words of CAS, are quoted as in a
shell if they contain blanks or quotes; values are the rest of the line, and quoted only where their ends would not be
seen. A byte that can't be printed is written as in Python (`\\n`, `\\xff`), a backslash as `\\\\`.

It reads with the same code as a starting node, and changes nothing: a torn tail is told of, and stays. Of a damaged log
it shows what comes before the damage. The directory has to be that of a node that is down, since a running one's log
grows while it is read.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final, NoReturn

from raftkv.disk import OS_DISK, read_file
from raftkv.front_door import INTERRUPTED, leave_ctrl_c
from raftkv.kv_snapshot import decode
from raftkv.log_storage import Identity, StorageError
from raftkv.metadata import Metadata, decode_identity, decode_metadata
from raftkv.operations import Code, Operation, decode_batch, format_text, parse_text
from raftkv.raft.configuration import decode_configuration, describe_configuration
from raftkv.raft.types import Entry, EntryKind, HardState, SnapshotMeta
from raftkv.segmented_log import SegmentedLog
from raftkv.snapshot_file import SnapshotFile, snapshot_name
from raftkv.storage import IDENTITY, METADATA, READ_BYTES, at_rest

SHOWN_BYTES: Final = 200
"""Of a value, unless all of it is asked for."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; usage: python {self.prog} [--full] DIR\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the directory that the arguments name. Gives back the exit status: 0, 1 (can't be read), 2 (usage)."""
    parser = _Parser(prog="storage.py", description="Print a node's identity, metadata and log, in readable form.")
    parser.add_argument("directory", metavar="DIR", help="the data directory of a node that is not running")
    parser.add_argument("--full", action="store_true", help=f"show values of more than {SHOWN_BYTES} bytes in full")
    arguments = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        leave_ctrl_c()
        return _print_all(arguments.directory, arguments.full)
    except OSError as error:
        # The reader, `head` for example, has seen enough and is no news. A full disk is.
        if not isinstance(error, BrokenPipeError):
            print(f"storage.py: cannot write: {error.strerror}", file=sys.stderr)
        # The interpreter's own flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if isinstance(error, BrokenPipeError) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _print_all(directory: str, full: bool) -> int:
    """Print what can be read, and then what can't. Gives back the exit status."""
    error = None
    try:
        for line in dump(directory, full):
            print(line)
    except StorageError as e:
        error = e
    if sys.stdout is not None:  # else closed by the caller
        sys.stdout.flush()
    if error is not None:
        print(f"storage.py: {error}", file=sys.stderr)
    return 0 if error is None else 1


def dump(directory: str, full: bool = False) -> Iterator[str]:
    """The lines that show a data directory. Raises StorageError where it can't be read on."""
    with ExitStack() as opened:
        opened.enter_context(at_rest(directory))
        identity_path, metadata_path = os.path.join(directory, IDENTITY), os.path.join(directory, METADATA)
        identity = decode_identity(read_file(OS_DISK, identity_path), identity_path)
        yield from _identity_lines(identity)
        metadata = decode_metadata(read_file(OS_DISK, metadata_path), metadata_path)
        yield _metadata_line(metadata.hard_state)
        damage = None
        if metadata.snapshot:
            try:
                yield _snapshot_line(directory, metadata.snapshot)
            except StorageError as error:
                damage = error
                yield "snapshot  damaged, see below"
        log = SegmentedLog(OS_DISK, directory, identity.incarnation)
        opened.callback(log.close)
        yield from _log_lines(log, metadata, full)
        if damage:
            raise damage


def _identity_lines(identity: Identity) -> Iterator[str]:
    yield f"identity  node {identity.member_id}, incarnation {identity.incarnation.hex()}"
    yield f"          cluster {identity.cluster_id.hex() or 'not known yet'}"
    if identity.joined:
        yield f"          joined by entry {identity.joined}"
    for member, address in sorted(identity.members.items()):
        yield f"          member {member} at {address}"


def _metadata_line(state: HardState) -> str:
    vote = f"voted for node {state.voted_for}" if state.voted_for else "no vote"
    return f"metadata  term {state.term}, {vote}, longest promise {state.longest_promise_ms} ms"


def _snapshot_line(directory: str, snapshot: SnapshotMeta) -> str:
    last, name = snapshot.last, snapshot_name(snapshot.last.index)
    file = SnapshotFile.open(OS_DISK, os.path.join(directory, name))
    try:
        _, state = decode(file)
    finally:
        file.close()
    content = f"keys: {len(state.records)}, sessions: {len(state.sessions)}, bytes: {file.size}"
    return f"snapshot  {name}, up to entry {last.index} of term {last.term}; {content}"


def _log_lines(log: SegmentedLog, metadata: Metadata, full: bool) -> Iterator[str]:
    damage = None
    try:
        log.recover(metadata.segments, metadata.first_segment, metadata.previous)
    except StorageError as error:
        damage = error
    first, last = log.index.previous.index + 1, log.index.last_index
    size = f"entries: {last - first + 1}, batches: {log.index.batches}, segments: {log.segments}"
    yield f"log       {size}, committed at least up to: {log.commit_index}"
    if log.torn_tail:
        yield f"          {log.torn_tail}, which the node will cut off when it starts"
    yield ""
    yield f"{'INDEX':>10} {'TERM':>8}  OPERATION"
    for entry in log.read(first, last, READ_BYTES):
        for operation in describe(entry, full):
            yield f"{entry.index:>10} {entry.term:>8}  {operation}"
    if damage:
        raise damage


def describe(entry: Entry, full: bool = False) -> list[str]:
    """The entry's operations, each as one line of printable text."""
    try:
        if entry.kind is EntryKind.NO_OP:
            return ["NO-OP"]
        if entry.kind is EntryKind.CONFIGURATION:
            return [f"CONFIGURATION {_printable(describe_configuration(decode_configuration(entry.payload)).encode())}"]
        if entry.kind is EntryKind.TEXT:
            return [_line(parse_text(entry.payload.decode()), full)]
        operations = decode_batch(entry.payload).operations
        return [_line(operation, full) for operation in operations] or ["(a batch without operations)"]
    except ValueError as error:  # Malformed, or not UTF-8
        return [f"({len(entry.payload)} bytes that mean nothing: {_printable(str(error).encode())})"]


def _line(operation: Operation, full: bool) -> str:
    is_quoted = _is_odd_word if operation.code is Code.COMPARE_AND_SET else _has_odd_ends
    value, expected = (_value(data, is_quoted, full).encode() for data in (operation.value, operation.expected))
    key = _quoted(_printable(operation.key), _is_odd_word).encode()
    return format_text(operation._replace(key=key, value=value, expected=expected))


def _value(data: bytes, is_quoted: Callable[[str], bool], full: bool) -> str:
    if full or len(data) <= SHOWN_BYTES:
        return _quoted(_printable(data), is_quoted)
    # Not in the middle of a character, which has at most four bytes.
    end = next((i for i in range(SHOWN_BYTES, SHOWN_BYTES - 4, -1) if data[i] & 0xC0 != 0x80), SHOWN_BYTES)
    return f"{_quoted(_printable(data[:end]), is_quoted)}… ({len(data)} bytes)"


def _quoted(text: str, is_quoted: Callable[[str], bool]) -> str:
    return shlex.quote(text) if is_quoted(text) else text


def _is_odd_word(text: str) -> bool:
    """Whether the text, as it stands, is not one word of a line."""
    return not text or any(c in text for c in " '\"")


def _has_odd_ends(text: str) -> bool:
    """Whether the text, as the rest of a line, would seem to begin or end elsewhere."""
    return text != text.strip(" ") or text[:1] in ("", "'", '"')


def _printable(data: bytes) -> str:
    """UTF-8 as it is, apart from backslashes and what can't be printed."""
    text = data.decode(errors="surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return repr(character.encode(errors="surrogateescape"))[2:-1]
