"""The prompt of the interactive client: history, and completion of what is known: theory of operation.

What the completion offers has been typed before, or was in a reply: keys, and members with their addresses. It never
asks the cluster, for a key that Tab waits for is typed more quickly. Words that need quotes are not offered.

Reading a line is left to prompt_toolkit, which is imported only where it is used.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raftkv.client import ClusterMember, NodeStatus
from raftkv.repl import COMMANDS, Request, Value, to_text

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer

MAX_KEYS: Final = 10_000
"""That are remembered; the oldest give way."""


class Known:
    """What has been typed, and what the cluster has said."""

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}
        """In the order in which they were last met."""
        self._members: dict[int, str] = {}
        """Who belongs to the cluster, as far as it was last said, and where."""
        self._addresses: dict[int, str] = {}
        """The same of everybody who ever did."""

    def learn(self, request: Request, value: Value) -> None:
        """Of a command that has been carried out, with its reply; None if it failed."""
        if request.command.names_key:
            self._meet([request.words[0]])
        elif isinstance(value, list):
            self._meet([key for key in value if isinstance(key, bytes)][:MAX_KEYS])
            rows = [row for row in value if isinstance(row, NodeStatus | ClusterMember)]
            self.see(rows)
        elif value is not None and request.command.name in ("ADD", "REMOVE"):
            id, _, address = to_text(request.words[0]).partition("=")
            self._members.pop(int(id), None)
            if address:
                self._members[int(id)] = self._addresses[int(id)] = address

    def see(self, rows: Iterable[NodeStatus | ClusterMember]) -> None:
        """All members, if there are any."""
        members = {row.id: row.address for row in rows if row.id}
        self._members = members or self._members
        self._addresses |= members

    def _meet(self, keys: Iterable[bytes]) -> None:
        for key in map(to_text, keys):
            self._keys.pop(key, None)
            self._keys[key] = None
        for oldest in list(self._keys)[:-MAX_KEYS]:
            del self._keys[oldest]

    def completions(self, text: str) -> tuple[str, list[str]]:
        """The word that is being typed at the end of the text, and what it may become."""
        before, _, typed = text.lstrip().rpartition(" ")
        return typed, [word for word in self._words_after(before.strip().upper(), typed) if _can_stand_as_it_is(word)]

    def _words_after(self, command: str, typed: str) -> list[str]:
        if not command:
            return [name for name in COMMANDS if name.startswith(typed.upper())]
        usage = COMMANDS[command].usage.split() if command in COMMANDS else []
        match usage[1].strip("[]") if len(usage) > 1 else "":
            case "key" | "prefix":
                words: Iterable[str] = sorted(self._keys)
            case "id":
                words = map(str, sorted(self._members))
            case "id=address":
                words = (f"{id}={address}" for id, address in sorted(self._addresses.items()))
            case "command":
                return [name for name in COMMANDS if name.startswith(typed.upper())]
            case _:
                words = ()
        return [word for word in words if word.startswith(typed)]


def _can_stand_as_it_is(word: str) -> bool:
    try:
        return word.isprintable() and shlex.split(word) == [word]
    except ValueError:
        return False


def make_prompt(known: Known) -> PromptSession[str]:
    """A prompt with history and completion."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    class QuietHistory(FileHistory):
        """History is a comfort: where it can't be read or written, the program goes on without."""

        def load_history_strings(self) -> Iterable[str]:
            with suppress(OSError):
                yield from super().load_history_strings()

        def store_string(self, string: str) -> None:
            with suppress(OSError, UnicodeEncodeError):
                super().store_string(string)

    path = _history_file()
    history: History = InMemoryHistory() if path is None else QuietHistory(str(path))
    return PromptSession(
        history=history,
        completer=_completer(known),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
    )


def _completer(known: Known) -> Completer:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class LineCompleter(Completer):
        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            typed, words = known.completions(document.text_before_cursor)
            return (Completion(word, start_position=-len(typed)) for word in words)

    return LineCompleter()


def _history_file() -> Path | None:
    """A file that only its owner can read, since values are in it; None if there can't be one."""
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
        path = base / "raftkv" / "history"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except (OSError, RuntimeError):
        return None
    return path
