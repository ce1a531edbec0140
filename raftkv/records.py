"""The dict of all records: theory of operation.

It grows without stopping for it, and pictures of it can be taken while it changes.

A dict that has become too full copies itself, all of it in one go: for two million keys that takes 150 ms, in which
nobody else gets anywhere. So the keys are spread over many dicts, the parts, and each of these grows by itself, in a
millisecond. Parts of one size would still do so all at the same time. So they get more and more of the keys, from the
first to the last, which gets twice as many: a dict doubles, and by the time that there are twice as many keys all have,
a few at a time. Which part a key is in depends on its hash: that says a slot, and a part has more or fewer of these.
(Hashes differ from process to process; nothing but the order of the items depends on them.)

A snapshot is saved while the machine goes on, and a million keys are not copied in a moment. So `Layers.freeze` sets
all records aside, unchanged from then on, and what is written goes into small dicts in front of them, one a part, with
an empty record for a key that was deleted. After `thaw` these are merged into the records, a part after the other and
some keys at a time, by loops in C. What is written to a part meanwhile goes into both of its dicts. Who looks from
elsewhere misses nothing: a part's small dict is what counts until the records have all that is in it; then it is given
up, and never changed after that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, MutableMapping
from itertools import chain
from typing import Final

_PARTS: Final = 256
_SLOT_BITS: Final = 12
SLOT_SHIFT: Final = sys.hash_info.width - _SLOT_BITS
"""The highest bits of a hash say which slot. Not the lowest, with which a dict begins to look: they would be equal for
many keys of a part, which then got into each other's way. Hashes have a sign, so these bits say -2048 to 2047, and each
of that is a place of a list of 4096."""
_STARTS: Final = [round((2 ** (part / _PARTS) - 1) * 2**_SLOT_BITS) for part in range(_PARTS + 1)]
"""The first slot of each part, and the end of them: the parts have 11 to 22 slots."""
_DELETED: Final = b""
"""In a layer on top, in the place of a record."""


class Records(MutableMapping[bytes, bytes]):
    """Changed and looked up as a dict is. Single lookups are safe from any thread."""

    __slots__ = ("parts", "slots")

    def __init__(self, items: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.parts: Final[list[dict[bytes, bytes]]] = [{} for _ in range(_PARTS)]
        self.slots: Final = _in_slots(self.parts)
        """A key is in `slots[hash(key) >> SLOT_SHIFT]`, or belongs there: for who has many to look up and write."""
        self.update(items)

    def __getitem__(self, key: bytes) -> bytes:
        return self.slots[hash(key) >> SLOT_SHIFT][key]

    def get(self, key: bytes) -> bytes | None:  # type: ignore[override]  # there is no other default
        return self.slots[hash(key) >> SLOT_SHIFT].get(key)

    def __setitem__(self, key: bytes, record: bytes) -> None:
        self.slots[hash(key) >> SLOT_SHIFT][key] = record

    def __delitem__(self, key: bytes) -> None:
        del self.slots[hash(key) >> SLOT_SHIFT][key]

    def __contains__(self, key: object) -> bool:
        return key in self.slots[hash(key) >> SLOT_SHIFT]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self.parts)

    def items(self) -> Iterator[tuple[bytes, bytes]]:  # type: ignore[override]  # a third of what a view's would take
        return chain.from_iterable(part.items() for part in self.parts)

    def values(self) -> Iterator[bytes]:  # type: ignore[override]
        """In the order of the keys."""
        return chain.from_iterable(map(dict.values, self.parts))

    def update(self, items: Iterable[tuple[bytes, bytes]]) -> None:  # type: ignore[override]
        slots = self.slots
        for key, record in items:
            slots[hash(key) >> SLOT_SHIFT][key] = record


def _in_slots(parts: list[dict[bytes, bytes]]) -> list[dict[bytes, bytes]]:
    """Each part as often as it has slots."""
    return [parts[n] for n in range(_PARTS) for _ in range(_STARTS[n], _STARTS[n + 1])]


class Layers:
    """Records, with others on top of them while a picture is taken. `get` is safe from any thread; all else is done by
    one at a time."""

    __slots__ = ("_is_frozen", "_merged", "_unmerged", "below", "half_merged", "on_top")

    def __init__(self, records: Records) -> None:
        self.below = records
        self.on_top = list(records.slots)
        """By slot: where a key is written, and looked for first: the part itself, but for those that are not merged."""
        self.half_merged: dict[bytes, bytes] | None = None
        """Of `on_top`, what is being merged: a record that is written there is to be written below as well."""
        self._unmerged: list[bytes] = []
        """Its keys that are still to be merged."""
        self._is_frozen = False
        self._merged = _PARTS
        """So many parts, from the first on, have nothing on top of them."""

    def get(self, key: bytes) -> bytes | None:
        """The key's record, None if there is none."""
        slot = hash(key) >> SLOT_SHIFT
        record = self.on_top[slot].get(key)
        if record is None:
            record = self.below.slots[slot].get(key)
        return record or None

    def delete(self, key: bytes) -> None:
        """Remove the record of a key that has one."""
        slot = hash(key) >> SLOT_SHIFT
        on_top, below = self.on_top[slot], self.below.slots[slot]
        if on_top is below:
            del below[key]
            return
        on_top[key] = _DELETED
        if on_top is self.half_merged:
            below.pop(key, None)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their records."""
        for below, start in zip(self.below.parts, _STARTS, strict=False):
            on_top = self.on_top[start]
            both = below if on_top is below else {**below, **on_top}
            yield from ((key, record) for key, record in both.items() if record)

    def keys(self) -> tuple[bytes, ...]:
        return tuple(self.below) if self.is_merged else tuple(key for key, _ in self.items())

    @property
    def is_merged(self) -> bool:
        """Whether nothing is on top, so that `freeze` is possible."""
        return self._merged == _PARTS

    def freeze(self) -> Records:
        """The records as they are now, which will not change until `thaw`."""
        assert self.is_merged, "frozen once at a time"
        self.on_top = _in_slots([{} for _ in range(_PARTS)])
        self._is_frozen, self._merged = True, 0
        return self.below

    def thaw(self) -> None:
        """Nobody looks at the picture any more."""
        self._is_frozen = False
        self.merge(0)

    def merge(self, count: int) -> None:
        """After `thaw`: bring so many keys that are on top down into the records."""
        while not self._is_frozen and not self.is_merged:
            start, end = _STARTS[self._merged : self._merged + 2]
            on_top, below = self.on_top[start], self.below.slots[start]
            if self.half_merged is None:
                self.half_merged, self._unmerged = on_top, list(on_top)
            if self._unmerged and count <= 0:
                return
            some = self._unmerged[-count:]  # if count is 0, there are none
            del self._unmerged[-count:]
            count -= len(some)
            self._bring_down(some, on_top, below)
            if not self._unmerged:
                self.on_top[start:end] = [below] * (end - start)
                self._merged += 1
                self.half_merged = None

    @staticmethod
    def _bring_down(keys: list[bytes], on_top: dict[bytes, bytes], below: dict[bytes, bytes]) -> None:
        records = list(map(on_top.__getitem__, keys))
        below.update(zip(keys, records, strict=True))
        if not all(records):
            for key, record in zip(keys, records, strict=True):
                if not record:
                    del below[key]
