"""The program `client.py`: commands from a person at a prompt, or from a program, to the cluster: theory of operation.

A line goes through three steps: `parse` makes a `Request` of it, `_answer` carries it out with the client library, and
a `_Replier` writes the reply, as text or as JSON. What differs between a terminal, a pipe and `-c` is only where lines
come from. Everything travels as bytes: what is not UTF-8 becomes a surrogate on the way in (PEP 383) and the same byte
again on the way out.

The prompt, with history and completion, is in prompt.py. Drawing a table is left to rich. Both are imported only where
they are used: a script that calls `client.py -c` a hundred times does not wait for them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, NoReturn, TextIO, TypeVar

from raftkv import __version__
from raftkv.client import Client, ClusterMember, Error, NodeStatus, NotApplied, OutcomeUnknown
from raftkv.front_door import INTERRUPTED, leave_ctrl_c

T = TypeVar("T")
Value = str | bytes | None | bool | list[bytes] | list[NodeStatus] | list[ClusterMember]
"""What a command answers. "OK" and help are str, keys and values bytes."""

_LAST_WORD_S: Final = 1.0
"""How long a call that was given up may take to say what is certain about it. Nearly always it does so at once."""


@dataclass(frozen=True, slots=True)
class Command:
    usage: str
    does: str
    run: Callable[..., Value]
    """Called with the client and the words as bytes."""
    words: tuple[int, int]
    """How many words may follow the command, at least and at most."""
    last_is_raw: bool = False
    """The last word is the rest of the line as it stands, unless it begins with a quote."""
    changes: bool = False
    """It writes: broken off without a word, its outcome is unknown."""

    @property
    def name(self) -> str:
        return self.usage.split()[0]

    @property
    def names_key(self) -> bool:
        """Its first word is a key."""
        return self.usage.split()[1:2] == ["key"]


def _set(client: Client, key: bytes, value: bytes) -> str:
    client.set(key, value)
    return "OK"


def _transfer(client: Client, target: bytes = b"") -> str:
    if target and not (target.isdigit() and int(target)):
        raise Mistake(f"expected TRANSFER [id], where the id is a member's as in STATUS, not {_shown(target)}")
    return f"node {client.transfer_leadership(int(target) if target else None)} leads"


def _add(client: Client, member: bytes) -> str:
    id, separator, address = to_text(member).partition("=")
    if not separator:
        raise Mistake("expected ADD id=address")
    client.add_member(_member_id(id), address)
    return "OK"


def _remove(client: Client, member: bytes) -> str:
    client.remove_member(_member_id(to_text(member)))
    return "OK"


def _member_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Mistake(f"{_shown(_to_bytes(text))} is no member's id, a number from 1 on")
    return int(text)


def _backup(client: Client, path: bytes) -> str:
    with closing(_ProgressLine(sys.stderr)) as line:
        made = client.backup(os.fsdecode(path), line.show)
    return f"OK: {made.keys} keys, as entry {made.last_index} of the log left them, in {made.size} bytes"


class _ProgressLine:
    """One line on a terminal that is written over again and again, and is gone in the end; nothing anywhere else."""

    def __init__(self, out: TextIO) -> None:
        self._out = out if out.isatty() else None
        self._shown = ""

    def show(self, done: int, size: int) -> None:
        if size:
            self._write(f"{100 * done // size}% of {size / (1 << 20):.1f} MiB")
        else:
            self._write("the leader saves its state")

    def close(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        if self._out is not None and text != self._shown:
            self._out.write(f"\r{text:{len(self._shown)}}\r{text}")
            self._out.flush()
            self._shown = text


COMMANDS: Final = {
    command.name: command
    for command in (
        Command("SET key value", "give the key this value", _set, (2, 2), last_is_raw=True, changes=True),
        Command("GET key", "the key's value, or (nil)", Client.get, (1, 1)),
        Command("DEL key", "remove the key; 1 if it existed", Client.delete, (1, 1), changes=True),
        Command(
            *("SETNX key value", "set the key if it does not exist; 1 if done", Client.set_if_absent, (2, 2)),
            last_is_raw=True,
            changes=True,
        ),
        Command(
            *("CAS key expected new", "set the key if it has the expected value; 1 if done", Client.compare_and_set),
            words=(3, 3),
            changes=True,
        ),
        Command("KEYS [prefix]", "the keys that begin with the prefix", Client.keys, (0, 1)),
        Command("STATUS", "what each member says of itself", Client.status, (0, 0)),
        Command("TRANSFER [id]", "have this member lead, or any other", _transfer, (0, 1)),
        Command("MEMBERS", "who belongs to the cluster", Client.members, (0, 0)),
        Command(
            *("ADD id=address", "add a member, which is to be started with --join; or move one", _add, (1, 1)),
            changes=True,
        ),
        Command("REMOVE id", "remove a member", _remove, (1, 1), changes=True),
        Command("BACKUP path", "write the state to a new file", _backup, (1, 1)),
        Command("HELP [command]", "this list, or one line of it", lambda _, name=b"": _help(name), (0, 1)),
        Command("EXIT", "leave (so does Ctrl-D)", lambda _: None, (0, 0)),
    )
}

_ABOUT_WORDS: Final = """\
Words may be quoted as in a shell: SET "my key" 'my value'. In SET and SETNX a value that does not begin with a quote is
the rest of the line as it stands. Ctrl-C clears the line, or gives up the command that is under way."""


def _help(name: bytes) -> str:
    command = COMMANDS.get(name.decode(errors="replace").upper())
    if name and command is None:
        raise Mistake(f"there is no command {_shown(name)}: HELP lists them all")
    chosen = COMMANDS.values() if command is None else [command]
    lines = [f"{c.usage:22}{c.does}" for c in chosen]
    return "\n".join([*lines, "", _ABOUT_WORDS] if command is None else lines)


# ---- a line and its words --------------------------------------------------------------------------------------------


class Mistake(NotApplied, ValueError):
    """A line that is no command. Nothing has been sent."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}; nothing was done", "INVALID_ARGUMENT")


@dataclass(frozen=True, slots=True)
class Request:
    command: Command
    words: tuple[bytes, ...] = ()


def parse(line: str) -> Request | None:
    """What a line asks for, None if it is blank. Raises Mistake."""
    name, rest = _split_first(line)
    if name is None:
        return None
    command = COMMANDS.get(name.upper())
    if command is None:
        raise Mistake(f"unknown command {_shown(_to_bytes(name))}: HELP lists the commands")
    words = _split_raw(rest) if command.last_is_raw else _split(rest)
    low, high = command.words
    if len(words) < low:
        raise Mistake(f"expected {command.usage}" + (', and "" for an empty value' if command.last_is_raw else ""))
    if len(words) > high:
        raise Mistake(f"expected {command.usage}" + (", and quotes around a word with blanks in it" if high else ""))
    return Request(command, tuple(map(_to_bytes, words)))


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise _unfinished(error) from None


def _split_first(text: str) -> tuple[str | None, str]:
    """The first word, None if there is none, and what follows the blank after it."""
    source = io.StringIO(text)
    lexer = shlex.shlex(source, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = _BLANKS, True, ""
    try:
        word = lexer.get_token()
    except ValueError as error:
        raise _unfinished(error) from None
    return word, text[source.tell() :]


def _split_raw(text: str) -> list[str]:
    """A word, and the rest of the text as one more."""
    word, rest = _split_first(text)
    value = rest.lstrip(_BLANKS)
    if word is None:
        return []
    if value.startswith(("'", '"')):
        return [word, *_split(value)]
    return [word, value] if value else [word]


def _unfinished(error: ValueError) -> Mistake:
    return Mistake(f"{str(error).lower()}: put the word into quotes, or a backslash before the character")


_BLANKS: Final = " \t\r\n"


def _to_bytes(word: str) -> bytes:
    return word.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _shown(data: bytes) -> str:
    """For a message: short, and fit for any terminal."""
    return repr(data[:40].decode(errors="backslashreplace"))


# ---- replies ---------------------------------------------------------------------------------------------------------


class _TextReplier:
    """Replies for people, and for shell scripts."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def value(self, value: Value) -> None:
        match value:
            case list():
                self._write(b"".join(key + b"\n" for key in value if isinstance(key, bytes)))
                self._status([row for row in value if isinstance(row, NodeStatus)])
                self._members([row for row in value if isinstance(row, ClusterMember)])
            case None:
                self._write(b"(nil)\n")
            case bool():
                self._write(b"1\n" if value else b"0\n")
            case bytes():
                self._write(value + b"\n")
            case str():
                self._write(_to_bytes(value) + b"\n")

    def error(self, error: Error) -> None:
        self._write(_to_bytes(f"ERROR {error.code}: {' '.join(str(error).split())}\n"))

    def _write(self, data: bytes) -> None:
        _write(self._out, data)

    def _status(self, rows: list[NodeStatus]) -> None:
        table = []
        for row in rows:
            figures = (row.term, row.leader_id, row.commit_index, row.applied_index, row.last_log_index, row.keys)
            style = {"leader": "bold green", "unreachable": "red"}.get(row.role)
            shown = ["-"] * len(figures) if row.role == "unreachable" else map(str, figures)
            table.append(([str(row.id or "?"), row.address, row.role, *shown], style))
        self._table(("id", "address", "role", "term", "leader", "commit", "applied", "last log", "keys"), table)

    def _members(self, rows: list[ClusterMember]) -> None:
        kinds = {row.id: "learner" if row.is_learner else "leader" if row.is_leader else "voter" for row in rows}
        kinds |= {row.id: "wiped" for row in rows if row.is_wiped}
        styles = {"leader": "bold green", "learner": "yellow", "wiped": "red"}
        table = [([str(row.id), row.address, kinds[row.id]], styles.get(kinds[row.id])) for row in rows]
        self._table(("id", "address", "role"), table)

    def _table(self, headings: Sequence[str], rows: list[tuple[list[str], str | None]]) -> None:
        """Each row has its words and its style."""
        if not rows:
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table

        is_terminal = self._out.isatty()
        # Whoever reads from a pipe wants one line a member, however long.
        console = Console(file=self._out, width=None if is_terminal else 1000, highlight=False, soft_wrap=False)
        # The box parts the columns by a blank each; with padding too, a row would not fit into 80 columns.
        table = Table(box=SIMPLE_HEAD if is_terminal else None, pad_edge=False, padding=0 if is_terminal else (0, 1))
        for heading in headings:
            is_text = heading in ("address", "role")
            table.add_column(heading, justify="left" if is_text else "right", overflow="fold", no_wrap=True)
        for words, style in rows:
            table.add_row(*words, style=style if is_terminal else None)
        console.print(table)
        self._out.flush()


class _JsonReplier:
    """Replies for programs: one JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def value(self, value: Value) -> None:
        self._write({"ok": True, "value": _as_json(value)})

    def error(self, error: Error) -> None:
        outcome = "unknown" if isinstance(error, OutcomeUnknown) else "not_applied"
        self._write({"ok": False, "code": error.code, "error": str(error), "outcome": outcome})

    def _write(self, reply: dict[str, Any]) -> None:
        _write(self._out, json.dumps(reply).encode() + b"\n")


def _as_json(value: Value | NodeStatus | ClusterMember) -> Any:
    match value:
        case list():
            return [_as_json(item) for item in value]
        case bool():
            return int(value)
        case bytes():
            return to_text(value)
        case NodeStatus() | ClusterMember():
            return asdict(value)
    return value


def _write(out: TextIO, data: bytes) -> None:
    out.flush()
    out.buffer.write(data)
    out.buffer.flush()


# ---- carrying out ----------------------------------------------------------------------------------------------------


class Shell:
    """Carries out one line after another. `status` is the exit status so far."""

    def __init__(self, client: Client, out: TextIO, as_json: bool) -> None:
        self._client = client
        self._closing: list[Thread] = []
        """They close clients that are done with, which may take a second."""
        self._replier = _JsonReplier(out) if as_json else _TextReplier(out)
        self.learn: Callable[[Request, Value], object] = lambda request, value: None
        """Called with each command that has been carried out and its reply, or None if it failed."""
        self.status = 0

    def run(self, line: str) -> Request | None:
        """Carry out a line, and reply. What was asked for, None if it was nothing. Raises KeyboardInterrupt, after a
        reply that says what is known."""
        request, value = None, None
        try:
            request = parse(line)
            if request is not None and request.command.name != "EXIT":
                value = self.call(request.command.run, *request.words)
                self._replier.value(value)
        except Error as error:
            self._fail(error)
        except KeyboardInterrupt as interruption:
            self._fail(_interrupted(request, interruption.__cause__))
            raise
        if request is not None:
            self.learn(request, value)
        return request

    def call(self, function: Callable[..., T], *arguments: bytes) -> T:
        """Call a function of the client. Raises KeyboardInterrupt for Ctrl-C, and then has given up the client, too;
        its cause is the call's own error.

        The call has a thread of its own, and Ctrl-C only sets a flag: an exception that strikes gRPC in the middle
        breaks it, or is lost in it.
        """
        outcome: Future[T] = Future()
        interrupted = Event()

        def work(client: Client) -> None:
            try:
                outcome.set_result(function(client, *arguments))
            except BaseException as error:
                outcome.set_exception(error)

        thread = Thread(target=work, args=(self._client,), daemon=True)
        handler = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
        try:
            thread.start()
            while thread.is_alive() and not interrupted.is_set():
                thread.join(0.1)
        finally:
            signal.signal(signal.SIGINT, handler)
        if interrupted.is_set():
            given_up = self._client
            self._give_up_client()
            self._client = given_up._successor()
            thread.join(_LAST_WORD_S)
            raise KeyboardInterrupt from (outcome.exception() if outcome.done() else None)
        return outcome.result()

    def close(self) -> None:
        """Leave nothing under way: the interpreter's end would wait for it."""
        self._give_up_client()
        for thread in self._closing:
            thread.join()

    def _give_up_client(self) -> None:
        self._closing.append(Thread(target=self._client.close, daemon=True))
        self._closing[-1].start()

    def _fail(self, error: Error) -> None:
        self.status = 1
        self._replier.error(error)


def _interrupted(request: Request | None, error: BaseException | None) -> Error:
    """`error` is the call's own, which ends with what is certain, if it has come to that."""
    if isinstance(error, Error):
        kind = OutcomeUnknown if isinstance(error, OutcomeUnknown) else NotApplied
        return kind(f"given up by Ctrl-C; {str(error).rpartition('; ')[2]}", "CANCELLED")
    if request is not None and request.command.changes:
        return OutcomeUnknown("given up by Ctrl-C; the write may have been applied", "CANCELLED")
    return NotApplied("given up by Ctrl-C; nothing was read", "CANCELLED")


def _run_lines(shell: Shell, lines: Iterable[str]) -> None:
    for line in lines:
        request = shell.run(line)
        if request is not None and request.command.name == "EXIT":
            return


def _lines_of(source: TextIO) -> Iterator[str]:
    """The lines of standard input. Only a line feed ends a line; any other byte may be part of a value."""
    for line in source.buffer:
        yield to_text(line.removesuffix(b"\n"))


# ---- the prompt ------------------------------------------------------------------------------------------------------


def _converse(shell: Shell, timeout: float) -> None:
    """Read and carry out lines until the person leaves."""
    from raftkv.prompt import Known, make_prompt

    rows = shell.call(Client.status)
    print(_greeting(rows, timeout), flush=True)
    known = Known()
    known.see(rows)
    shell.learn = known.learn
    prompt = make_prompt(known)
    while True:
        try:
            text = prompt.prompt("raftkv> ")
        except KeyboardInterrupt:
            continue  # the line is gone, the person is not
        except EOFError:
            return
        # Several lines may have been pasted.
        for line in text.split("\n"):
            try:
                request = shell.run(line)
            except KeyboardInterrupt:
                break
            if request is not None and request.command.name == "EXIT":
                return


def _greeting(rows: list[NodeStatus], timeout: float) -> str:
    answering = [row for row in rows if row.role != "unreachable"]
    leaders = [row for row in answering if row.role == "leader"]
    if not answering:
        asked = ", ".join(f"{row.address} ({row.error})" for row in rows)
        return f"raftkv {__version__}: no member answers at {asked}; each command will go on trying for {timeout:g} s."
    newest = max(leaders, key=lambda row: row.term, default=None)
    leader = f"member {newest.id} ({newest.address}) leads" if newest else "none leads yet"
    return f"raftkv {__version__}: {len(answering)} of {len(rows)} members answer, {leader}. HELP lists the commands."


# ---- the program -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the whole usage."""
        self.exit(2, f"{self.prog}: {message} (--help tells more)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=Path(sys.argv[0]).name or "raftkv",
        usage="%(prog)s address [address ...] [-c COMMAND ...] [--json] [--timeout SECONDS]",
        description="The client of a raftkv cluster.",
    )
    parser.add_argument("addresses", nargs="*", metavar="address", help="host:port of a member; any one will do")
    parser.add_argument(
        *("-c", "--command"),
        action="extend",
        nargs="+",
        dest="commands",
        metavar="COMMAND",
        help="carry out these commands, in order, and leave; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a reply")
    parser.add_argument(
        *("--timeout",), type=float, default=10.0, metavar="SECONDS", help="for each command (default: 10)"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


_LIKE_AN_ADDRESS: Final = re.compile(r"\S+:[0-9]+")


def _parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = parser.parse_args(argv)
    if not arguments.addresses:
        # All that follows -c is taken for commands, the addresses as well if they come last: no command looks like one.
        words: list[str] = arguments.commands or []
        arguments.addresses = [word for word in words[1:] if _LIKE_AN_ADDRESS.fullmatch(word)]
        arguments.commands = [word for word in words if word not in arguments.addresses]
    if not arguments.addresses:
        parser.error("the following arguments are required: address")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Gives back the exit status: 0, or 1 if a command failed; wrong usage exits with 2."""
    parser = _parser()
    arguments = _parse_arguments(parser, argv)
    if sys.stdout is None:  # closed by the caller: nobody wants the replies, but the commands are to be carried out
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open to the end)
    try:
        shell = Shell(Client(arguments.addresses, arguments.timeout), sys.stdout, arguments.json)
    except Error as error:
        parser.error(str(error))
    try:
        leave_ctrl_c()
        with closing(shell):
            if arguments.commands:
                _run_lines(shell, (to_text(os.fsencode(command)) for command in arguments.commands))
            elif sys.stdin is None:
                pass  # closed by the caller: nobody has anything to say
            elif sys.stdin.isatty() and sys.stdout.isatty():
                _converse(shell, arguments.timeout)
            else:
                _run_lines(shell, _lines_of(sys.stdin))
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # The reader of a pipe, `head` for example, has seen enough and is no news. A full disk is.
        if not isinstance(error, BrokenPipeError):
            print(f"{parser.prog}: cannot write the replies: {error.strerror}", file=sys.stderr)
        # The interpreter's own flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return shell.status
