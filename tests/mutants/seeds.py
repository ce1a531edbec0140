"""Runs seeds of the simulator until one finds a violation: `python -m tests.mutants.seeds 17 1-100`.

Prints the seed and what was violated, and ends with status 1; with 0 if all is well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from tests.simulation.simulation import simulate


def main(words: Sequence[str]) -> int:
    """The program. Gives back the exit status."""
    for seed in _seeds(words):
        try:
            violation = simulate(seed).violation
        except Exception as error:  # what the bug has broken may be the simulator's view of it
            violation = f"{type(error).__name__}: {error}"
        if violation:
            print(f"seed {seed}: {violation.splitlines()[0]}")
            return 1
    return 0


def _seeds(words: Sequence[str]) -> Iterator[int]:
    for word in words:
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
