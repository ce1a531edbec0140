"""A program on a terminal, as a person sees it: type, and wait for what appears."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""So that Ctrl-C reaches the program: the terminal has to be its controlling terminal."""

_CONTROL_SEQUENCES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>])|\x07")

CTRL_C, CTRL_D, TAB, UP, ENTER = "\x03", "\x04", "\t", "\x1b[A", "\r"


class Terminal:
    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: str) -> None:
        self._fd, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=directory,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "120", **environment},
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""
        """All that has appeared, without colours and movements."""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode("utf-8", "surrogateescape"))

    def expect(self, text: str, seconds: float = 20) -> str:
        """Wait until the text appears after what was expected before. What stands between."""
        deadline = time.monotonic() + seconds
        while text not in self.shown[self._seen :]:
            remaining = deadline - time.monotonic()
            if remaining < 0 or not self._read(remaining):
                raise AssertionError(f"no {text!r} in {self.shown[self._seen :]!r}")
        end = self.shown.index(text, self._seen)
        between = self.shown[self._seen : end]
        self._seen = end + len(text)
        return between

    def wait(self, seconds: float = 20) -> int:
        """The exit status."""
        deadline = time.monotonic() + seconds
        while self._read(max(0.0, deadline - time.monotonic())):
            pass
        return self._process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        """Take what appears within the time. False: nothing did, or the program has ended."""
        poll = select.poll()  # not select: among many tests the descriptor may be above 1024
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return False  # how Linux says that nobody has the other end open
        self.shown = _CONTROL_SEQUENCES.sub("", self.shown + data.decode(errors="replace"))
        return bool(data)
