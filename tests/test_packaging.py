"""The wheel: what is in it, and that it works where nothing else is, with the oldest and the newest dependencies."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import raftkv
import raftkv.client
from tests.support.copies import ROOT, copy_project
from tests.support.processes import free_port, run, wait_until

SECONDS = 300.0
"""Environments are made and packages downloaded."""

pytestmark = pytest.mark.timeout(SECONDS)

OLDEST = dict(
    re.findall(r'^    "([\w-]+)>=([\d.]+)[,"]', (ROOT / "pyproject.toml").read_text().split("[project.opt")[0], re.M)
)
"""The lower end of each dependency, as pyproject.toml has it."""
if sys.version_info >= (3, 13):  # there are no older builds for it
    OLDEST |= {"grpcio": "1.66.2", "google-crc32c": "1.7.0"}

ENDS = {"newest": [], "oldest": [f"{name}=={version}" for name, version in OLDEST.items()]}
if sys.version_info >= (3, 14):
    del ENDS["oldest"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built by pip from a fresh clone."""
    directory = tmp_path_factory.mktemp("wheel")
    clone = copy_project(directory / "a clone")
    pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(clone))
    (built,) = directory.glob("*.whl")
    return built


class Environment:
    """A virtual environment."""

    def __init__(self, directory: Path) -> None:
        self.programs = directory / "bin"
        run([sys.executable, "-m", "venv", "--without-pip", str(directory)], directory.parent, 120)
        (self.site_packages,) = directory.glob("lib/python*/site-packages")

    def install(self, *requirements: str) -> None:
        pip("--python", str(self.programs / "python"), "install", "--no-compile", *requirements)


@pytest.fixture(scope="module")
def environments(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Environment]:
    """For each end: an environment in which nothing but the wheel and its dependencies is installed."""

    def made(end: str) -> Environment:
        environment = Environment(directories[end] / "venv")
        environment.install(str(wheel), *ENDS[end])
        return environment

    directories = {end: tmp_path_factory.mktemp(end) for end in ENDS}
    with ThreadPoolExecutor() as at_once:  # it is mostly packages that are waited for
        return dict(zip(ENDS, at_once.map(made, ENDS), strict=True))


@pytest.fixture(scope="module", params=ENDS)
def environment(request: pytest.FixtureRequest, environments: dict[str, Environment]) -> Environment:
    return environments[request.param]


def pip(*arguments: str) -> None:
    done = run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], Path("/"), SECONDS)
    assert done.status == 0, done.stderr


@contextmanager
def running_node(environment: Environment, directory: Path) -> Iterator[str]:
    """A one-node cluster, started with the installed command; its address."""
    address = f"127.0.0.1:{free_port()}"
    with (
        (directory / "out").open("w") as out,
        subprocess.Popen(
            [environment.programs / "raftkv-node", "1", address], cwd=directory, stdout=out, stderr=out
        ) as node,
    ):
        try:
            ready = f"node 1 ready on {address}\n"
            wait_until(
                lambda: ready in (directory / "out").read_text() or node.poll() is not None, "the node is ready", 30
            )
            assert node.poll() is None, (directory / "out").read_text()
            yield address
        finally:
            node.terminate()
            assert node.wait(30) == 0, (directory / "out").read_text()


def test_the_wheel_holds_one_importable_name_and_its_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"raftkv", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    assert "raftkv/py.typed" in names
    assert {path.name for path in ROOT.glob("raftkv/wire/*.py*")} <= {Path(n).name for n in names if "/wire/" in n}


def test_the_wheel_holds_every_module_of_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("raftkv/**/*.py")} <= names


def test_the_environment_of_the_scripts_finds_the_package_beside_a_clone_of_that_name(tmp_path: Path) -> None:
    """Where a first program of one's own is likely to lie. The clone is no package, but has modules in it."""
    (tmp_path / "raftkv").mkdir()
    (tmp_path / "raftkv" / "storage.py").write_text("")
    program = "from raftkv import Client; import raftkv.storage; print(raftkv.storage.__file__)"
    done = run([sys.executable, "-c", program], tmp_path, SECONDS)
    assert (done.status, done.stdout.strip()) == (0, str(ROOT / "raftkv" / "storage.py")), done.stderr


def test_installing_puts_one_name_into_site_packages(environment: Environment) -> None:
    (metadata,) = environment.site_packages.glob("raftkv-*.dist-info")
    installed = [line.split(",")[0] for line in (metadata / "RECORD").read_text().splitlines()]
    programs = {path for path in installed if path.startswith("../../../bin/")}
    assert {Path(path).name for path in programs} == {"raftkv", "raftkv-node"}
    assert {path.split("/")[0] for path in installed if path not in programs} == {"raftkv", metadata.name}


def test_an_installed_package_serves_and_its_client_reads_what_it_wrote(
    environment: Environment, tmp_path: Path
) -> None:
    with running_node(environment, tmp_path) as address:
        done = run(
            [str(environment.programs / "raftkv"), address, "-c", "SET k it's fine", "-c", "GET k"], tmp_path, 60
        )
        assert (done.stdout, done.stderr, done.status) == ("OK\nit's fine\n", "", 0)


def test_the_installed_library_warns_of_nothing(environment: Environment, tmp_path: Path) -> None:
    program = (
        "import sys, raftkv\n"
        "with raftkv.Client(sys.argv[1:]) as c:\n"
        "    c.set('k', b'v')\n"
        "    assert c.get('k') == b'v'\n"
        "print(raftkv.__version__)\n"
    )
    with running_node(environment, tmp_path) as address:
        # What the oldest protobuf says about Python 3.14 is its own affair.
        strict = ["-W", "error", "-W", "ignore:Type google._upb:DeprecationWarning"]
        done = run([str(environment.programs / "python"), *strict, "-c", program, address], tmp_path, 60)
    assert (done.stderr, done.status) == ("", 0)
    assert done.stdout.strip() == re.findall(r'__version__ = "(.*)"', (ROOT / "raftkv/__init__.py").read_text())[0]


def test_the_parts_without_grpc_can_be_imported_without_it(wheel: Path, tmp_path: Path) -> None:
    """The algorithm, the state machine and the client's names: nothing is loaded before it is needed."""
    program = "import sys, raftkv, raftkv.raft.core, raftkv.kv; sys.exit('grpc' in sys.modules)"
    done = run([sys.executable, "-S", "-c", program], tmp_path, 60, env={"PYTHONPATH": str(wheel)})
    assert (done.stderr, done.status) == ("", 0)


def test_the_package_has_the_names_of_the_contract_and_no_others() -> None:
    assert raftkv.Client is raftkv.client.Client
    assert issubclass(raftkv.NotApplied, raftkv.Error)
    assert issubclass(raftkv.OutcomeUnknown, raftkv.Error)
    assert set(dir(raftkv)) == set(raftkv.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Server'"):
        _ = raftkv.Server
