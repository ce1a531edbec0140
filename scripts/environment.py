"""Makes .venv and installs into it what the nodes or the tests need: theory of operation.

Called by `ensure_environment` in lib.sh when the stamp in .venv is not the one wanted. Two scripts that are started at
the same time do it one after the other, and the second finds it done. The stamp is written last, so that an
interrupted run is simply done again. While the environment itself is being made, the lock file says so: one that was
left half made looks whole, with a pip that can be imported but not run.

Runs with any Python >= 3.10 and nothing installed: standard library only.
"""

from __future__ import annotations

import quietly  # before the rest

# isort: split
import fcntl
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"


def main(extra: str, stamp: str) -> None:
    """Installs the dependencies of the package, for `extra` "test" those of the tests too."""
    with (ROOT / ".venv.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _installed(extra) == stamp:
            return
        lock.seek(0)
        if lock.read() or not _works():
            lock.write("unfinished\n")
            lock.flush()
            _make()
            lock.truncate(0)
        say(f"installing what the {'tests need' if extra == 'test' else 'nodes need'} into .venv (first run only)")
        _pip("pip>=22.3")  # the first that can do all that is asked of it here; most Pythons bring one
        _pip("--editable", f"{ROOT}[test]" if extra == "test" else str(ROOT))
        for name in ("run", "test") if extra == "test" else ("run",):
            (ENVIRONMENT / f"installed-{name}").write_text(stamp + "\n")


def _installed(extra: str) -> str:
    try:
        return (ENVIRONMENT / f"installed-{extra}").read_text().strip()
    except OSError:
        return ""


def _works() -> bool:
    """Whether .venv has a Python that starts, is new enough and has pip."""
    check = "import pip, sys; sys.exit(sys.version_info < (3, 10))"
    try:
        return subprocess.run([PYTHON, "-c", check], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _make() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        die(
            f"Python {version} at {sys.executable} cannot make environments: install its venv module "
            "(Debian and Ubuntu: apt install python3-venv), or name another Python with PYTHON=..."
        )
    say(f"making .venv with Python {version}")
    command = [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        lines = (made.stderr or made.stdout).strip().splitlines() or ["it says nothing"]
        die(f"cannot make {ENVIRONMENT}: {lines[-1]}")


def _pip(*requirements: str) -> None:
    """Installs the requirements, with a line for each package on its way."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *requirements]
    wheel = re.compile(r"\s*(?:Using cached|Downloading|Processing) (?:\S*/)?([\w.]+-[\w.+!]+?)-\S*whl(?!\.metadata)")
    output: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            output.append(line.strip())
            if match := wheel.match(line):
                say("  " + match[1])
            elif line.startswith("Installing collected packages"):
                say("  unpacking them")
    if pip.returncode != 0:
        log = ENVIRONMENT / "pip.log"
        log.write_text("\n".join(output) + "\n")
        errors = [line.removeprefix("ERROR: ") for line in output if line.startswith("ERROR")] or output[-1:]
        die(f"pip cannot install the dependencies: {errors[-1]} (all that it said: {log})")


def say(line: str) -> None:
    """Progress goes to stderr: stdout belongs to the script that needs the environment."""
    print(line, file=sys.stderr, flush=True)


def die(line: str) -> None:
    """One line that says what is wrong and how to mend it; then the end."""
    sys.exit(f"environment: {line}")


if __name__ == "__main__":
    try:
        quietly.from_now_on_raise()
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("environment: interrupted; the next run goes on")
    except OSError as e:
        sys.exit(f"environment: {e.filename or ENVIRONMENT}: {e.strerror}")
