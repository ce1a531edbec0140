"""New data directories out of old data, while no node runs: theory of operation.

Two ways lead to a new cluster: a backup (backup.py), from which each of its members gets a directory of its own, and
the directory of a member that has outlived its cluster, of which one member is made. Either way the state that was
found becomes the snapshot of an otherwise empty directory. The cluster is a *new* one, with an id of its own, so that
members of the old one can never mix with it: they are refused, and refuse (rule 11). Client sessions are left behind
with the old cluster, whose clients know its id and talk to no other.

A directory is made under another name and renamed when all of it is durable: a crash leaves it whole or not there.

All members of a restored cluster must have been made from the same backup, with the same list of members. So half of
the cluster's id is random, and the other half says what it was made for: an id is refused with another backup or list.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from raftkv.disk import OS_DISK, disk_errors, read_file
from raftkv.kv import FrozenState, StateMachine
from raftkv.kv_snapshot import decode, encode, meta_of
from raftkv.log_storage import StorageError
from raftkv.metadata import decode_identity, decode_metadata
from raftkv.raft.configuration import encode_configuration
from raftkv.raft.types import Configuration, HardState, LogPosition
from raftkv.segmented_log import SegmentedLog
from raftkv.snapshot_file import SnapshotFile, snapshot_name
from raftkv.storage import IDENTITY, METADATA, READ_BYTES, NotAtRest, Storage, at_rest

UNFINISHED_SUFFIX: Final = ".unfinished"
"""Of a directory that is being made."""
_HALF: Final = 8
"""Bytes of a cluster's id."""


class Unusable(Exception):
    """It can't be done, and nothing has been. The text is one line: the thing, what is wrong, the mend."""


@dataclass(frozen=True, slots=True)
class Found:
    """What old data hold."""

    state: FrozenState
    fingerprint: bytes
    """The same for two backups exactly if they are the same file."""


@dataclass(frozen=True, slots=True)
class Survivor:
    """What the directory of a member holds that has outlived its cluster."""

    state: FrozenState
    """As all of its log leaves it, committed or not."""
    member_id: int
    address: str
    """Of that member, as far as it knew."""
    term: int
    last: LogPosition
    commit_index: int
    """Up to here the member itself knew entries to be committed, at least."""


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_backup(path: str) -> Found:
    """All that is in a backup. Raises Unusable for a file that is damaged, of a later version, or no backup."""
    mend = "copy it once more from where it came from, or take another backup"
    with _unusable(mend), disk_errors(path), closing(SnapshotFile.open(OS_DISK, path)) as file:
        _, state = decode(file)
        hasher = blake2b(digest_size=16)
        for offset in range(0, file.size, READ_BYTES):
            hasher.update(file.read(offset, READ_BYTES))
    return Found(state, hasher.digest())


def read_survivor(directory: str) -> Survivor:
    """All that is in a member's directory, which stays as it is. Raises Unusable."""
    with _unusable("try the directory of another member"), ExitStack() as opened:
        opened.enter_context(at_rest(directory))
        identity_path, metadata_path = os.path.join(directory, IDENTITY), os.path.join(directory, METADATA)
        identity = decode_identity(read_file(OS_DISK, identity_path), identity_path)
        metadata = decode_metadata(read_file(OS_DISK, metadata_path), metadata_path)
        machine = StateMachine()
        if metadata.snapshot is not None:
            path = os.path.join(directory, snapshot_name(metadata.snapshot.last.index))
            with closing(SnapshotFile.open(OS_DISK, path)) as file:
                machine.restore(decode(file)[1])
        log = SegmentedLog(OS_DISK, directory, identity.incarnation)
        opened.callback(log.close)
        log.recover(metadata.segments, metadata.first_segment, metadata.previous)
        last = log.index.last_index
        if last > machine.applied_index:
            for entry in log.read(machine.applied_index + 1, last, READ_BYTES):
                machine.apply(entry)
        if not machine.applied_index:
            raise Unusable(f"{directory}: its log is empty; name the directory of another member")
        commit_index = max(log.commit_index, metadata.snapshot.last.index if metadata.snapshot else 0)
    position = LogPosition(machine.applied_term, machine.applied_index)
    term = max(metadata.hard_state.term, position.term)
    address = identity.address or identity.members.get(identity.member_id, "")
    return Survivor(machine.freeze(), identity.member_id, address, term, position, commit_index)


@contextmanager
def _unusable(mend: str) -> Iterator[None]:
    """Raise a StorageError of the block with another mend: its own speaks of a node that is to start."""
    try:
        yield
    except NotAtRest as error:
        raise Unusable(str(error)) from None
    except StorageError as error:
        raise Unusable(f"{str(error).partition('; ')[0]}; {mend}") from None


# ---- the new cluster's id --------------------------------------------------------------------------------------------


def new_cluster_id(fingerprint: bytes, members: Mapping[int, str]) -> bytes:
    """A random id for the cluster that these members make of that backup."""
    half = os.urandom(_HALF)
    return half + _seal(half, fingerprint, members)


def check_cluster_id(cluster_id: bytes, fingerprint: bytes, members: Mapping[int, str]) -> None:
    """Raise Unusable unless the id was made for these members and that backup."""
    if cluster_id[_HALF:] != _seal(cluster_id[:_HALF], fingerprint, members):
        raise Unusable(
            f"the cluster id {cluster_id.hex()} was made for another backup or for another list of members; "
            "all members of a cluster are restored from copies of the same file, with the same addresses"
        )


def _seal(half: bytes, fingerprint: bytes, members: Mapping[int, str]) -> bytes:
    text = "\n".join(f"{member}={address}" for member, address in sorted(members.items()))
    return blake2b(half + fingerprint + text.encode(), digest_size=_HALF).digest()


# ---- writing ---------------------------------------------------------------------------------------------------------


def check_directory(directory: str) -> None:
    """Raise Unusable unless a new directory can have this name: there is none, or an empty one."""
    try:
        names = OS_DISK.names(directory)
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise Unusable(f"{directory}: {error.strerror}; name a new directory") from None
    if names:
        raise Unusable(f"{directory}: is not empty, it holds {min(names)!r}; name a new directory")
    outer = os.path.dirname(os.path.abspath(directory))
    while outer != os.path.dirname(outer):
        if all(os.path.lexists(os.path.join(outer, name)) for name in (IDENTITY, METADATA)):
            raise Unusable(f"{directory}: lies within the data directory of a node, {outer}; name another directory")
        outer = os.path.dirname(outer)
    if os.path.lexists(directory + UNFINISHED_SUFFIX):
        raise Unusable(f"{directory + UNFINISHED_SUFFIX}: left over from a restore that did not end; remove it")


def make_directory(
    directory: str, state: FrozenState, term: int, member_id: int, members: Mapping[int, str], cluster_id: bytes
) -> None:
    """Make the data directory of a member of a new cluster, which begins with that state. Raises Unusable."""
    directory = os.path.abspath(directory)
    check_directory(directory)
    settings = replace(state.settings, cluster_id=cluster_id)
    state = replace(state, cluster_id=cluster_id, settings=settings, sessions=[])
    with _unusable("then run this command again"):
        _write(directory + UNFINISHED_SUFFIX, state, term, member_id, members, cluster_id)
        with disk_errors(directory):
            if os.path.isdir(directory):
                os.rmdir(directory)
            OS_DISK.replace(directory + UNFINISHED_SUFFIX, directory)
            OS_DISK.sync_directory(os.path.dirname(directory))


def _write(
    directory: str, state: FrozenState, term: int, member_id: int, members: Mapping[int, str], cluster_id: bytes
) -> None:
    configuration = Configuration(frozenset(members), addresses=tuple(sorted(members.items())))
    meta = meta_of(state, encode_configuration(configuration))
    with closing(Storage(directory, member_id=member_id, members=members)) as storage:
        storage.persist(HardState(term), [], 0)
        writer = storage.begin_snapshot()
        for piece in encode(state, meta.configuration):
            writer.write(piece)
        writer.finish()
        storage.install_snapshot(meta, writer)
        storage.remember_cluster(cluster_id)
