"""A dict that grows without stopping for it: theory of operation.

A dict that has become too full copies itself, all of it in one go: for two million keys that takes 150 ms, in which
nobody else gets anywhere. So the keys are spread over many dicts by their hashes, and each of these grows by itself, in
two or three milliseconds. (Hashes differ from process to process; nothing but the order of the items depends on them.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from itertools import chain
from typing import Final

_PARTS: Final = 64
PART_MASK: Final = _PARTS - 1


class Records(MutableMapping[bytes, bytes]):
    """Changed and looked up as a dict is. Single lookups are safe from any thread."""

    __slots__ = ("parts",)

    def __init__(self, items: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.parts: Final[list[dict[bytes, bytes]]] = [{} for _ in range(_PARTS)]
        """A key is in `parts[hash(key) & PART_MASK]`, or belongs there: for who has many to look up and write."""
        self.update(items)

    def __getitem__(self, key: bytes) -> bytes:
        return self.parts[hash(key) & PART_MASK][key]

    def get(self, key: bytes) -> bytes | None:  # type: ignore[override]  # there is no other default
        return self.parts[hash(key) & PART_MASK].get(key)

    def __setitem__(self, key: bytes, record: bytes) -> None:
        self.parts[hash(key) & PART_MASK][key] = record

    def __delitem__(self, key: bytes) -> None:
        del self.parts[hash(key) & PART_MASK][key]

    def __contains__(self, key: object) -> bool:
        return key in self.parts[hash(key) & PART_MASK]

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
        parts = self.parts
        for key, record in items:
            parts[hash(key) & PART_MASK][key] = record
