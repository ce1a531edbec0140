"""What must hold of the source itself."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = {"data", "build", "dist", "generated"}
GENERATED = {"raft_pb2.py", "raft_pb2.pyi", "raft_pb2_grpc.py", "raft_pb2_grpc.pyi"}
TEXT_SUFFIXES = {".py", ".pyi", ".sh", ".md", ".toml", ".ini", ".proto", ".txt"}
TEXT_NAMES = {".gitignore", "LICENSE", "SHA256SUMS", "run"}
LINES_MAX = 1000

PURE_MODULES = {
    *(
        "__future__",
        "abc",
        "bisect",
        "collections",
        "collections.abc",
        "contextlib",
        "dataclasses",
        "enum",
        "functools",
    ),
    *("heapq", "itertools", "math", "operator", "random", "types", "typing"),
}
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "compile", "breakpoint", "__import__", "hash", "id"}


def project_files() -> Iterator[Path]:
    """Every text file of the project, without what tools and running nodes leave behind."""
    for directory, subdirectories, files in os.walk(ROOT):
        subdirectories[:] = [
            name
            for name in subdirectories
            if (name == ".ci" or not name.startswith("."))
            and name != "__pycache__"
            and not name.endswith(".egg-info")
            and not (Path(directory) == ROOT and name in NOT_OURS)
        ]
        paths = [Path(directory, name) for name in files]
        yield from (path for path in paths if path.suffix in TEXT_SUFFIXES or path.name in TEXT_NAMES)


FILES = sorted(path for path in project_files() if path.name not in GENERATED)
PYTHON_FILES = [path for path in FILES if path.suffix == ".py"]
PURE_FILES = [path for path in PYTHON_FILES if path.is_relative_to(ROOT / "raftkv/raft")]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# ---- The algorithm is pure -------------------------------------------------------------------------------------------


def imported_modules(tree: ast.AST, package: str) -> Iterator[str]:
    """The full names of the modules that some source in `package` imports, at the top or anywhere inside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from raftkv import node` imports raftkv.node.
            yield from (f"{base}.{a.name}" for a in node.names) if base in ("raftkv", "raftkv.raft") else (base,)


def impurities(tree: ast.Module) -> list[str]:
    """What keeps a module of raftkv/raft from being a function of what it is given."""
    found = [
        f"imports {name}"
        for name in imported_modules(tree, "raftkv.raft")
        if name not in PURE_MODULES and not name.startswith("raftkv.raft.")
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS:
            found.append(f"calls {node.func.id}() in line {node.lineno}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            found += [f"uses random.{node.attr} in line {node.lineno}"] if node.attr != "Random" else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("random.Random", "Random"):
            found.append(f"makes its own randomness in line {node.lineno}")
        elif isinstance(node, ast.ImportFrom) and node.module == "random":
            found += [f"imports random.{a.name}" for a in node.names if a.name != "Random"]
    return found


@each(PURE_FILES)
def test_the_algorithm_imports_and_touches_nothing_of_the_world(path: Path) -> None:
    assert impurities(parse(path)) == []


def test_there_is_an_algorithm_to_look_at() -> None:
    assert {"core.py", "log.py", "lease.py", "roles.py"} <= {path.name for path in PURE_FILES}


@pytest.mark.parametrize(
    "source",
    [
        *("import time", "import os.path", "from threading import Lock", "import logging", "import grpc"),
        *("from raftkv import node", "from raftkv.operations import Batch", "from .. import storage"),
        *(
            "from ..storage import Storage",
            "def f():\n    import socket",
            "import raftkv.kv",
            "from random import random",
        ),
        *("import random\nx = random.random()", "import random\nx = random.Random(1)", "print(1)", "open('x')"),
    ],
)
def test_the_check_of_purity_notices(source: str) -> None:
    assert impurities(ast.parse(source)) != []


@pytest.mark.parametrize(
    "source",
    [
        *("import math", "from raftkv.raft.types import Entry", "from raftkv.raft import types", "from . import types"),
        *("from .types import Entry", "import random\ndef f(rng: random.Random) -> float:\n    return rng.random()"),
    ],
)
def test_the_check_of_purity_lets_the_algorithm_be(source: str) -> None:
    assert impurities(ast.parse(source)) == []


# ---- The generated code is current -----------------------------------------------------------------------------------


def test_the_generated_code_has_the_checksums_of_its_generation() -> None:
    lines = (ROOT / "raftkv/wire/SHA256SUMS").read_text().splitlines()
    recorded = {name: checksum for checksum, name in (line.split("  ") for line in lines)}
    assert set(recorded) == {"raft.proto", *(f"raftkv/wire/{name}" for name in GENERATED)}
    for name, checksum in recorded.items():
        actual = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
        assert actual == checksum, f"{name} has changed since scripts/generate.sh was run"


@pytest.mark.timeout(300)  # the first time, the pinned generator has to be installed
def test_generating_again_gives_the_same_code_byte_for_byte() -> None:
    done = subprocess.run([ROOT / "scripts/generate.sh", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_generated_code_has_no_upper_bound_on_protobuf_in_it() -> None:
    assert "runtime_version" not in (ROOT / "raftkv/wire/raft_pb2.py").read_text()


@pytest.mark.parametrize("package", ["grpcio", "protobuf"])
def test_the_oldest_dependency_allowed_is_what_the_code_was_generated_with(package: str) -> None:
    pinned = re.search(rf"\b{package}==([\d.]+)", (ROOT / "scripts/generate.sh").read_text())
    lower_end = re.search(rf'"{package}>=([\d.]+),', (ROOT / "pyproject.toml").read_text())
    assert pinned
    assert lower_end
    assert pinned[1] == lower_end[1]


def test_the_generated_code_is_reached_by_its_short_name() -> None:
    assert os.readlink(ROOT / "generated") == "raftkv/wire"


# ---- Every file ------------------------------------------------------------------------------------------------------


@each(PYTHON_FILES)
def test_a_module_opens_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(parse(path)) or not parse(path).body


@each(FILES)
def test_a_file_is_short_enough_to_be_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


@each(FILES)
def test_a_file_names_no_path_of_a_private_machine(path: Path) -> None:
    private = re.compile("|".join([r"/(?:home|Users)/\w+/", "/" + "root/", re.escape(f"{ROOT}/")]))
    found = [line for line in path.read_text(encoding="utf-8").splitlines() if private.search(line)]
    assert found == []


@each([path for path in FILES if path.parent in (ROOT / "scripts", ROOT / ".ci") and path.suffix in (".sh", "")])
def test_a_script_can_be_run_unless_it_is_only_read_by_others(path: Path) -> None:
    assert os.access(path, os.X_OK) == (path.name != "lib.sh")


@each([ROOT / name for name in ("raft_node.py", "storage.py", "client.py")])
def test_a_front_door_is_a_docstring_an_import_and_a_call_of_main(path: Path) -> None:
    body = parse(path).body
    assert isinstance(body[0], ast.Expr)
    assert all(isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.If) for node in body[1:])
    guards = [ast.unparse(node) for node in body if isinstance(node, ast.If)]
    assert guards == ["if __name__ == '__main__':\n    sys.exit(main())"]


# ---- The documents ---------------------------------------------------------------------------------------------------

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def dead_ends(text: str, directory: Path) -> set[str]:
    """What a document names, as a link or as a path of the repository, and what isn't there."""
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not re.match("[a-z]+:", link)]
    paths = re.findall(r"(?<![\w./-])(?:scripts|tests|docs|\.ci)/[\w./-]*\w", text)
    names = re.findall(r"`([\w./-]*\w\.(?:py|sh|md|ini|proto|toml)|(?:raftkv|raft)/[\w./-]*)`", text)
    # A name may leave out the directories before it, as `core.py` or `raft/core.py` does.
    there = "".join(f"{path}\n" for path in project_files())
    there += "".join(f"{path.parent}/\n" for path in project_files())
    return {
        *(link for link in links if not (directory / link).exists()),
        *(path for path in paths if not (ROOT / path).exists()),
        *(name for name in names if f"/{name}\n" not in there),
    }


@each(DOCUMENTS)
def test_what_a_document_names_is_there(path: Path) -> None:
    assert dead_ends(path.read_text(encoding="utf-8"), path.parent) == set()


def test_the_check_of_documents_notices() -> None:
    text = (
        "[a](docs/a.md) [b](https://raft.github.io/) `raft/b.py` `c.py` `core.py` `raft/`\n```sh\nscripts/d.sh x\n```"
    )
    assert dead_ends(text, ROOT) == {"docs/a.md", "raft/b.py", "c.py", "scripts/d.sh"}


# ---- The tests -------------------------------------------------------------------------------------------------------


def naps(tree: ast.AST, in_loop: bool = False) -> Iterator[int]:
    """The lines that sleep outside a `while` loop. Inside one, a sleep is the pause between two looks at something."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep") and not in_loop:
            yield node.lineno
        enters_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from naps(node, isinstance(node, ast.While) or (in_loop and not enters_function))


@each([path for path in PYTHON_FILES if path.is_relative_to(ROOT / "tests")])
def test_a_test_waits_for_a_thing_and_not_for_a_time(path: Path) -> None:
    assert list(naps(parse(path))) == []


def test_the_check_of_sleeping_notices() -> None:
    assert list(naps(ast.parse("import time\ntime.sleep(1)"))) == [2]
    assert list(naps(ast.parse("for i in x:\n    sleep(1)"))) == [2]
    assert list(naps(ast.parse("while not ready():\n    time.sleep(0.01)"))) == []
