"""Configurations: who belongs to the cluster, as of each entry of the log (dissertation, 4.1): theory of operation.

A CONFIGURATION entry holds a whole configuration. A member uses the latest one in its log, committed or not, from the
moment it is appended; if the entry is replaced, the one before it counts again. `Configurations` is that history, kept
by the log together with the entries (log.py). The configuration before the first entry held comes from elsewhere: from
the command line of a founding member, from a snapshot, or it is empty, as for a member that has just joined.

One member is changed at a time, so that any majority of a configuration meets any majority of the next. `changed` makes
the next configuration from the present one. That two changes never overlap is up to the leader (membership.py).

The text form of a configuration, for the log, the wire and snapshots, is a line a member, by id:

    raftkv configuration 1
    1 voter 0 10.0.0.1:50051
    4 learner 57 10.0.0.4:50051
    5 voter 31/9f86d081884c7d659a2feaa0c55ad015 10.0.0.5:50051

the id, what it is, the index of the entry that brought it in (0: a founding member), the incarnation of the disk for
which it has been given its vote, if it has, and its address, which the algorithm never looks at. An entry that can't be
decoded changes nothing, on any member: if it stopped one, it would stop them all, at every start (hazard 54).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from raftkv.raft.types import Configuration, Entry, EntryKind

_TITLE: Final = "raftkv configuration 1"
_MAX_NUMBER: Final = 1 << 62


class MalformedConfiguration(ValueError):
    """Bytes that are no configuration."""


def encode_configuration(configuration: Configuration) -> bytes:
    """The text form, as bytes."""
    addresses, joined, disks = dict(configuration.addresses), dict(configuration.joined), dict(configuration.disks)
    lines = [
        f"{member} {'voter' if member in configuration.voters else 'learner'} "
        f"{joined.get(member, 0)}{'/' + disks[member].hex() if member in disks else ''} {addresses.get(member, '')}"
        for member in sorted(configuration.members)
    ]
    return "\n".join([_TITLE, *lines]).encode()


def decode_configuration(data: bytes) -> Configuration:
    """What `encode_configuration` was given. Raises MalformedConfiguration for anything else."""
    try:
        title, *lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise MalformedConfiguration("not UTF-8") from None
    if title != _TITLE:
        raise MalformedConfiguration(f"it begins with {title[:40]!r}")
    found: dict[str, set[int]] = {"voter": set(), "learner": set()}
    addresses: list[tuple[int, str]] = []
    joined: list[tuple[int, int]] = []
    disks: list[tuple[int, bytes]] = []
    last = 0
    for line in lines:
        number, kind, since, address = [*line.split(" ", 3), "", "", ""][:4]
        since, _, disk = since.partition("/")
        member = _number(number)
        if kind not in found or member <= last:
            raise MalformedConfiguration(f"no member, or not in order: {line[:80]!r}")
        found[kind].add(member)
        if address:
            addresses.append((member, address))
        if _number(since):
            joined.append((member, _number(since)))
        if disk:
            disks.append((member, _disk(disk)))
        last = member
    return Configuration(
        frozenset(found["voter"]), frozenset(found["learner"]), tuple(addresses), tuple(joined), tuple(disks)
    )


def describe_configuration(configuration: Configuration) -> str:
    """A configuration in one line, for people: `1=10.0.0.1:50051 2=10.0.0.2:50051 (learner)`."""
    addresses = dict(configuration.addresses)
    words = []
    for member in sorted(configuration.members):
        address = f"={addresses[member]}" if member in addresses else ""
        words.append(f"{member}{address}{' (learner)' if member in configuration.learners else ''}")
    return " ".join(words) or "nobody"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _MAX_NUMBER):
        raise MalformedConfiguration(f"no number: {text[:40]!r}")
    return int(text)


def _disk(text: str) -> bytes:
    try:
        disk = bytes.fromhex(text)
    except ValueError:
        disk = b""
    if disk.hex() != text:
        raise MalformedConfiguration(f"no incarnation of a disk: {text[:40]!r}")
    return disk


# ---- changes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Add:
    """A new member, first as a learner; or another address of one that is there."""

    member: int
    address: str

    def __str__(self) -> str:
        return f"member {self.member} is at {self.address}"


@dataclass(frozen=True, slots=True)
class Promote:
    """A learner becomes a voter, as long as it has this disk."""

    member: int
    disk: bytes = b""

    def __str__(self) -> str:
        return f"member {self.member} has caught up and gets a vote"


@dataclass(frozen=True, slots=True)
class Remove:
    """A member leaves."""

    member: int

    def __str__(self) -> str:
        return f"member {self.member} is removed"


Change = Add | Promote | Remove


class ChangeRefused(Exception):
    """The configuration is not to be changed like this. Nothing has been done. The text is for people."""

    def __init__(self, reason: str, try_again: bool = False) -> None:
        super().__init__(reason)
        self.try_again = try_again
        """The reason will pass by itself."""


def changed(configuration: Configuration, change: Change, index: int) -> Configuration:
    """The configuration after a change, whose entry will be at `index`; an equal one if it is so already.

    Raises ChangeRefused for a change that makes no sense.
    """
    member = change.member
    match change:
        case Add(_, address):
            return _added(configuration, member, address, index)
        case Promote(_, disk):
            if member not in configuration.learners:
                raise ChangeRefused(f"member {member} is no learner")
            return replace(
                configuration,
                voters=configuration.voters | {member},
                learners=configuration.learners - {member},
                disks=tuple(sorted([*configuration.disks, *([(member, disk)] if disk else [])])),
            )
        case Remove():
            if member not in configuration.members:
                raise ChangeRefused(f"there is no member {member}")
            if configuration.voters == {member}:
                raise ChangeRefused(f"member {member} is the last one with a vote")
            return Configuration(
                configuration.voters - {member},
                configuration.learners - {member},
                tuple(pair for pair in configuration.addresses if pair[0] != member),
                tuple(pair for pair in configuration.joined if pair[0] != member),
                tuple(pair for pair in configuration.disks if pair[0] != member),
            )


def _added(configuration: Configuration, member: int, address: str, index: int) -> Configuration:
    for other, taken in configuration.addresses:
        if taken == address and other != member:
            raise ChangeRefused(f"address {address} is member {other}'s")
    addresses = tuple(sorted({**dict(configuration.addresses), member: address}.items()))
    if member in configuration.members:
        return replace(configuration, addresses=addresses)
    return replace(
        configuration,
        learners=configuration.learners | {member},
        addresses=addresses,
        joined=tuple(sorted([*configuration.joined, (member, index)])),
    )


# ---- the history -----------------------------------------------------------------------------------------------------


class Configurations:
    """The configurations of a log, by the index of their entries."""

    def __init__(self, base: Configuration, base_index: int = 0) -> None:
        """`base`: the configuration as of entry `base_index`, the one before the first that the log holds."""
        self._indexes = [base_index]
        self._configurations = [base]

    @property
    def latest(self) -> Configuration:
        """The one to be used."""
        return self._configurations[-1]

    @property
    def latest_index(self) -> int:
        """The index of its entry; of the base, that of the entry as of which it was so."""
        return self._indexes[-1]

    @property
    def previous(self) -> Configuration:
        """The one before the latest; the base itself if there is no other."""
        return self._configurations[-2 if len(self._configurations) > 1 else -1]

    def at(self, index: int) -> Configuration:
        """The configuration as of the entry at `index`, which is not below the base's."""
        return self._configurations[max(0, bisect_right(self._indexes, index) - 1)]

    def count_after(self, index: int) -> int:
        """How many entries behind `index` hold a configuration."""
        return len(self._indexes) - max(1, bisect_right(self._indexes, index))

    def take_in(self, entries: Iterable[Entry]) -> None:
        """These have been appended to the log."""
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                try:
                    configuration = decode_configuration(entry.payload)
                except MalformedConfiguration:
                    continue
                self._indexes.append(entry.index)
                self._configurations.append(configuration)

    def truncate(self, first: int) -> None:
        """The entries from `first` on are no longer in the log."""
        kept = max(1, bisect_right(self._indexes, first - 1))
        del self._indexes[kept:], self._configurations[kept:]

    def compact(self, index: int) -> None:
        """Forget what was before the configuration as of the entry at `index`."""
        forgotten = bisect_right(self._indexes, index) - 1
        if forgotten > 0:
            del self._indexes[:forgotten], self._configurations[:forgotten]
