"""The load itself: what is asked of a system, in what order, with which keys. etcd_load.go does the same in Go.

An operation has a number. Operation `i` of a round writes the key `<prefix><i, ten digits>`, so every key is written
once and it is known afterwards which ones must be there. Reads go to keys that were written before the round.
"""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 16
PREFIX_BYTES: Final = 6
READ_KEYS: Final = 10_000
PUTS_IN_TRANSACTION: Final = 64

WORKS: Final = ("set", "get", "mix", "set_txn64")


@dataclass(frozen=True, slots=True)
class Order:
    """What a load generator is to do. It travels as JSON on its command line."""

    system: str
    api: str
    work: str
    """One of WORKS; "check" reads what `acknowledged` names and compares."""
    addresses: list[str]
    in_flight: int = 1
    """Of an open loop: how many callers there are at most."""
    connections: int = 1
    """Go only."""
    value_bytes: int = 100
    prefix: str = "bench_"
    read_prefix: str = "r00100"
    read_keys: int = READ_KEYS
    max_ops: int = 1_000_000
    warm_up_s: float = 0.3
    seconds: float = 2.0
    rate: float = 0.0
    """Operations a second, begun at their intended times; 0: a closed loop."""
    record: str = ""
    """The file for the times, see `Record`."""
    acknowledged: list[str] = field(default_factory=list)
    """Work "check": the records of the writes that must be there."""

    def __post_init__(self) -> None:
        assert len(self.prefix) == len(self.read_prefix) == PREFIX_BYTES

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        return cls(**json.loads(text))


def key(prefix: str, i: int) -> bytes:
    return b"%s%010d" % (prefix.encode(), i)


def value(prefix: str, size: int) -> bytes:
    return (prefix.encode() * (size // len(prefix) + 1))[:size]


def read_prefix(size: int) -> str:
    """Of the keys that are there to be read, with values of this size."""
    return f"r{size:05d}"


def is_read(i: int) -> bool:
    """Of a 50/50 mix: whether operation `i` reads. Looks random, and is the same in every run and both languages."""
    return (i * 2654435761 >> 16) & 1 == 1


def reads_in(work: str, i: int) -> bool:
    """Whether operation `i` of this kind of work is a read."""
    return work == "get" or (work == "mix" and is_read(i))


def read_index(i: int, count: int) -> int:
    """The number of the key that operation `i` reads."""
    return i * 7919 % count


@dataclass(slots=True)
class Record:
    """When each operation began and when it was answered (0: it was not), in seconds of the generator's clock."""

    starts: array[float]
    ends: array[float]

    @classmethod
    def empty(cls, count: int) -> Record:
        return cls(array("d", bytes(8 * count)), array("d", bytes(8 * count)))

    def write(self, path: Path, count: int) -> None:
        """The first `count` operations: all starts, then all ends, little-endian."""
        path.write_bytes(self.starts[:count].tobytes() + self.ends[:count].tobytes())

    @classmethod
    def read(cls, path: Path) -> Record:
        data = path.read_bytes()
        starts, ends = array("d"), array("d")
        starts.frombytes(data[: len(data) // 2])
        ends.frombytes(data[len(data) // 2 :])
        return cls(starts, ends)

    def acknowledged(self) -> list[int]:
        """The numbers of the operations that were answered."""
        return [i for i, end in enumerate(self.ends) if end]

    def count_answered(self, since: float, until: float) -> int:
        """How many operations were answered in that time."""
        return sum(since <= end <= until for end in self.ends if end)

    def latencies_ms(self, since: float, until: float) -> list[float]:
        """Of the operations that were answered in that time, in the order of their numbers.

        For closed loops: what has not ended when the time has is one operation for each caller, however long it takes,
        and as many that had begun before the time are counted for it.
        """
        pairs = zip(self.starts, self.ends, strict=True)
        return [(end - start) * 1000 for start, end in pairs if since <= end <= until and end]

    def latencies_of_intended_ms(self, since: float, until: float) -> list[float]:
        """Of the operations that were to begin in that time, whenever they were answered; infinite for those that never
        were. For open loops: a stall that outlasts the time would take all that it has held up out of the figure."""
        pairs = zip(self.starts, self.ends, strict=True)
        return [(end - start) * 1000 if end else math.inf for start, end in pairs if since <= start <= until]
