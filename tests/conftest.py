"""What all tests share."""

from __future__ import annotations

import signal

import hypothesis
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in what a shell starts in the background: the programs that tests start, and press Ctrl-C in, would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The machine that runs the tests may be slow or busy: how long an example takes says nothing. A failure prints the line
# that replays it.
hypothesis.settings.register_profile("raftkv", deadline=None, print_blob=True)
hypothesis.settings.load_profile("raftkv")

_LONGEST = (
    *("tests/test_scripts.py", "tests/nemesis/test_nemesis.py", "tests/simulation/test_simulation.py"),
    *("tests/mutants/", "tests/processes/", "tests/test_packaging.py", "tests/benchmarks/", "tests/simulation/"),
)
"""Begun first, so that of two that run files in turn none is left alone with a long one in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((n for n, prefix in enumerate(_LONGEST) if item.nodeid.startswith(prefix)), len(_LONGEST))

    items.sort(key=rank)
