"""strace on a running process: what it asks of its disk, and a disk that is slow or fails: theory of operation.

strace stands between a process and the kernel. It writes down the calls that are asked for, with the moment and the
file each was for; and it can *inject*: have a call wait before it is carried out (`delay`), or fail instead (`error`).
It attaches to a process that runs already, and leaves it as it was when it is told to stop.

While attached, every call of the process costs more (by some 50 us), not only those that are traced.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.support.processes import wait_until

SYNCS: Final = ("fdatasync", "fsync")
WRITES: Final = ("write", "pwrite64", "writev", "pwritev", "pwritev2")


@functools.cache
def why_not() -> str:
    """Why strace can't be used here; empty if it can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    probe = ["strace", "-f", "-o", os.devnull, "-e", "inject=fdatasync:delay_enter=1", sys.executable, "-c", ""]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"strace does not work here: {done.stderr.strip()}" if done.returncode else ""


def delay(seconds: float, calls: Sequence[str] = SYNCS) -> str:
    """These calls wait so long before they are carried out."""
    return f"inject={','.join(calls)}:delay_enter={int(seconds * 1e6)}"


def error(name: str, calls: Sequence[str]) -> str:
    """These calls fail with the error of that name (`EIO`) and do nothing."""
    return f"inject={','.join(calls)}:error={name}"


class Strace:
    """strace at work on the process `pid` and all its threads. A context manager: at its end strace lets go."""

    def __init__(
        self, pid: int, output: Path, *expressions: str, trace: Sequence[str] = SYNCS, options: Sequence[str] = ()
    ) -> None:
        """Returns once it is attached. `output` gets the calls in `trace`; `options` are further words for strace."""
        self.output = output
        self._messages = output.with_suffix(".strace-messages")
        words = ["strace", "-f", "-ttt", "-T", "-y", "-s", "400", "-o", str(output), "-e", f"trace={','.join(trace)}"]
        words += options
        for expression in expressions:
            words += ["-e", expression]
        with self._messages.open("wb") as messages:
            self._process = subprocess.Popen(
                [*words, "-p", str(pid)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                start_new_session=True,  # a Ctrl-C is for the tests
            )
        wait_until(lambda: "attached" in self._messages.read_text() or self._is_over(), "strace attaches")
        assert not self._is_over(), f"strace does not attach: {self._messages.read_text().strip()}"

    def _is_over(self) -> bool:
        return self._process.poll() is not None

    def detach(self) -> None:
        """Let go of the process, which goes on as before."""
        if not self._is_over():
            self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def __enter__(self) -> Strace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def calls(self) -> Iterator[SystemCall]:
        """What has been traced so far, in the order in which the calls ended."""
        return parse_trace(self.output.read_text(errors="replace"))


@dataclass(frozen=True, slots=True)
class SystemCall:
    name: str
    began: float
    """Seconds, as `time.time()` counts them."""
    ended: float
    text: str
    """Arguments and result, as strace shows them: `7</tmp/node-1/log-1>) = 0`."""

    @property
    def path(self) -> str:
        """The file that its first argument, a descriptor, stands for."""
        match = re.match(r"\d+<([^>]*)>", self.text)
        return match[1] if match else ""

    @property
    def failed(self) -> bool:
        return " = -1 " in self.text


_LINE: Final = re.compile(r"(?P<thread>\d+) +(?P<time>\d+\.\d+) (?P<rest>.*)")
_RESUMED: Final = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL: Final = re.compile(r"(\w+)\((.*)")
_DURATION: Final = re.compile(r" <(\d+\.\d+)>$")
_UNFINISHED: Final = " <unfinished ...>"


def parse_trace(text: str) -> Iterator[SystemCall]:
    """The calls in the output of `strace -f -ttt -T -y`; a call that had not ended yet is left out."""
    under_way: dict[str, tuple[float, str]] = {}
    for line in text.splitlines():
        if not (match := _LINE.match(line)):
            continue
        thread, when, rest = match["thread"], float(match["time"]), match["rest"]
        if rest.endswith(_UNFINISHED):
            under_way[thread] = when, rest.removesuffix(_UNFINISHED)
            continue
        if (resumed := _RESUMED.match(rest)) and thread in under_way:
            when, begun = under_way.pop(thread)
            rest = begun + resumed[2]
        call, duration = _CALL.match(rest), _DURATION.search(rest)
        if call and duration:
            yield SystemCall(call[1], when, when + float(duration[1]), call[2])
