"""The network between nodes, as faults see it: theory of operation.

A *link* is one direction between two nodes: what `a` sends to `b`. Each is whole, or cut, or slow, or loses packets, by
itself, so that every partition can be had, asymmetric ones included. The links are kept by a process of their own,
which all traffic between nodes passes through: `switch.py` in a sandbox, else `proxy.py`. The nemesis writes commands
to that process, one JSON object a line, and waits for the answer, so a fault is in force when its call returns.

Clients are not part of it: they reach every node at all times, cut off or not, which is what makes stale reads
possible.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Final, Protocol

Pair = tuple[int, int]
"""(from, to): node ids."""


@dataclass(frozen=True, slots=True)
class Link:
    """The state of one direction."""

    cut: bool = False
    delay: float = 0.0
    """Seconds."""
    jitter: float = 0.0
    """Seconds at most, at random, on top of `delay`. Packets may overtake each other (not in a proxy)."""
    loss: float = 0.0
    """The share of packets that is lost (a proxy loses nothing)."""


WHOLE: Final = Link()
CUT: Final = Link(cut=True)


class Network(Protocol):
    """What the nodes are connected by."""

    name: str
    loses_packets: bool

    def change(self, pairs: Iterable[Pair], link: Link) -> None:
        """Bring these links into that state."""

    def reset(self, pairs: Iterable[Pair]) -> None:
        """Break the TCP connections between these nodes, in both directions."""

    def close(self) -> None: ...


class Keeper:
    """The process that keeps the links."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, **options
        )
        self.greeting: Any = self._answer()
        """The first line that it has said."""

    def change(self, pairs: Iterable[Pair], link: Link) -> None:
        self._ask({"pairs": list(pairs), "link": asdict(link)})

    def reset(self, pairs: Iterable[Pair]) -> None:
        self._ask({"reset": list(pairs)})

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that keeps the network has ended: {self._process.args!r}")
        return json.loads(line)


class Links:
    """In the keeper's process: the state of every link, and the commands that change it."""

    def __init__(self) -> None:
        self._links: dict[Pair, Link] = {}

    def __getitem__(self, pair: Pair) -> Link:
        return self._links.get(pair, WHOLE)

    def obey(self, line: str) -> list[Pair]:
        """Carry out a command; the pairs to reset, if it is about that."""
        command = json.loads(line)
        for a, b in command.get("pairs", ()):
            self._links[a, b] = Link(**command["link"])
        return [(a, b) for a, b in command.get("reset", ())]


def say(answer: object, stream: IO[str]) -> None:
    """The keeper's answer."""
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


def all_pairs(ids: Iterable[int]) -> list[Pair]:
    return list(itertools.permutations(ids, 2))


def between(some: Iterable[int], others: Iterable[int]) -> list[Pair]:
    """The links from each of `some` to each of `others`."""
    return list(itertools.product(some, others))
