"""A mutant is the real code with one known bug put into it: theory of operation.

A `Patch` names a module, a place in it (`Raft._commit_by_majority`), a piece of text that must be there exactly once,
and what to put instead. A `Mutant` is one or more of them, together with the tests that should notice. Nothing is
changed where it lies: `Sandbox` copies the code and the tests into a directory of its own, patches the copy, and the
tests run there, in processes of their own. So every process of a test has the bug, nodes and simulator included, and
whatever tests leave behind goes away with the directory.

When the code has moved on, a patch no longer finds its place: `LookupError` says which, and a test asks for all of
them, so that no mutant dies unnoticed. To give it a new place is to edit `old` and `new` in the catalogue.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

_COPIED: Final = ("raftkv", "tests", "scripts", "raft.proto", "config.ini", "pyproject.toml")
"""What the tests of a mutant need, besides the front doors and `generated`."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One piece of a module's text, and what takes its place.

    In `old` and `new`, lines after the first are indented relative to the line on which the piece begins.
    """

    module: str
    """A file, relative to raftkv/."""
    place: str
    """The class or function that holds the piece, with dots; empty: the module."""
    old: str
    new: str

    def apply(self, source: str) -> str:
        """The module's source with the bug. Raises LookupError if the piece is not there exactly once."""
        first, last = _extent(source, self.place)
        lines = source.splitlines(keepends=True)
        text = "".join(lines[first - 1 : last])
        found = [begin for begin in _occurrences(text, self.old.partition("\n")[0]) if self._is_whole_at(text, begin)]
        if len(found) != 1:
            raise LookupError(f"{self.module}, {self.place or 'the module'}: {len(found)} times {self.old!r}")
        (begin,) = found
        indent = _indent_at(text, begin)
        end = begin + len(_indented(self.old, indent))
        text = text[:begin] + _indented(self.new, indent) + text[end:]
        return "".join([*lines[: first - 1], text, *lines[last:]])

    def _is_whole_at(self, text: str, begin: int) -> bool:
        return text.startswith(_indented(self.old, _indent_at(text, begin)), begin)


@dataclass(frozen=True, slots=True)
class Mutant:
    """The code with one bug."""

    name: str
    hazards: tuple[int, ...]
    """Which of the catalogue's hazards it stands for; empty: a slip of the pen."""
    patches: tuple[Patch, ...]
    tests: tuple[str, ...] = ()
    """Files, folders or single tests for pytest, of which one must fail."""
    seeds: tuple[int, ...] = ()
    """Of the simulator: those that have found it. If they no longer do, the first hundred are tried."""

    @property
    def shown_hazards(self) -> str:
        return ", ".join(map(str, self.hazards)) or "-"

    @property
    def expected(self) -> list[str]:
        """Who is to notice, for people."""
        return [*self.tests, *(["the simulator"] if self.seeds else [])]

    def depends_on(self, files: Collection[str]) -> bool:
        """Whether one of the files, relative to the project, holds its code or a test that is to notice it."""
        code = {f"raftkv/{patch.module}" for patch in self.patches}
        tests = tuple(test.partition("::")[0] for test in self.tests)
        return any(file in code or file.startswith(tests) for file in files)

    def sources(self, root: Path = ROOT) -> dict[str, str]:
        """The patched modules, by file relative to raftkv/. Raises LookupError, or SyntaxError for a broken patch."""
        patched: dict[str, str] = {}
        for patch in self.patches:
            source = patched.get(patch.module) or (root / "raftkv" / patch.module).read_text()
            patched[patch.module] = patch.apply(source)
        for module, source in patched.items():
            compile(source, module, "exec")
        return patched


@contextmanager
def sandbox(mutant: Mutant | None = None) -> Iterator[Path]:
    """A copy of the code and its tests, with the mutant's bug in it: the directory, until the end of the block."""
    with TemporaryDirectory(prefix="raftkv-mutant-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        for part in _COPIED:
            _copy(ROOT / part, directory / part)
        for door in ROOT.glob("*.py"):
            _copy(door, directory / door.name)
        (directory / "generated").symlink_to(Path("raftkv", "wire"))
        for module, source in mutant.sources().items() if mutant else ():
            path = directory / "raftkv" / module
            path.unlink()
            path.write_text(source)
            # What Python has compiled would be taken for that of a patched file of the same age and length.
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
                compiled.unlink()
        yield directory


def _copy(source: Path, target: Path) -> None:
    # With what Python has compiled, so that a test need not compile everything again.
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


# ---- places in a source ----------------------------------------------------------------------------------------------


def _extent(source: str, place: str) -> tuple[int, int]:
    """The first and the last line of a class or function, decorators included; of all, if `place` is empty."""
    node: ast.AST = _parsed(source)
    first, last = 1, source.count("\n") + 1
    for name in place.split(".") if place else ():
        inner = [n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == name]
        if len(inner) != 1:
            raise LookupError(f"there are {len(inner)} of {name!r} in {place!r}")
        (node,) = inner
        assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef), name
        assert node.end_lineno is not None
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        last = node.end_lineno
    return first, last


_parsed: Final = lru_cache(maxsize=32)(ast.parse)
"""The modules are few, and the patches many."""


def _occurrences(text: str, piece: str) -> Iterator[int]:
    begin = text.find(piece)
    while begin != -1:
        yield begin
        begin = text.find(piece, begin + 1)


def _indent_at(text: str, offset: int) -> str:
    line = text[text.rfind("\n", 0, offset) + 1 :]
    return line[: len(line) - len(line.lstrip(" "))]


def _indented(piece: str, indent: str) -> str:
    return piece.replace("\n", "\n" + indent)
