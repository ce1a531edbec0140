"""A handful of mutants, and that the catalogue is complete and in order. `scripts/mutants.py` tries all of them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants.catalogue import LAST_HAZARD, MUTANTS, NOT_YET, find
from tests.mutants.cli import main
from tests.mutants.mutant import ROOT, Mutant, Patch, sandbox
from tests.mutants.runner import Killer, confirm, judge, layer_of

HANDFUL = {
    "the vote is cleared on every return to follower": ["simulation", "unit"],
    "a batch is not synced": ["simulation", "storage"],
    "replies leave before their entries are durable": ["simulation", "unit"],
    "damage in the middle is taken for a torn tail": ["simulation", "storage"],
    "an entry of an earlier term commits by counting": ["paper"],
    "a follower commits up to its own last index": ["simulation", "unit"],
    "the lease outlives the leadership": ["simulation", "unit"],
    "a later number hides an earlier retry": ["unit"],
    "the mark passes numbers that are still in use": ["client"],
    "a method that raises stops nobody": ["node"],
}
"""One or two of each layer, and who is to notice each."""

SMALL = '''\
"""A module."""

class Counter:
    @property
    def value(self):
        if self.n > 0:
            return self.n
        return 0

def other(n):
    return n > 0
'''


@pytest.mark.parametrize("name", HANDFUL)
def test_a_mutant_is_killed_by_every_layer_that_should_notice(name: str) -> None:
    (mutant,) = find([name])
    if "simulation" not in HANDFUL[name]:
        mutant = replace(mutant, seeds=())
    verdict = judge(mutant)
    assert sorted(killer.layer for killer in verdict.killers) == HANDFUL[name], verdict.outcome


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_has_its_place_in_the_code_and_somebody_who_is_to_notice(mutant: Mutant) -> None:
    sources = mutant.sources()
    assert all(source != (ROOT / "raftkv" / module).read_text() for module, source in sources.items())
    assert mutant.expected
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutant.tests)


def test_no_two_mutants_have_the_same_name_or_the_same_bug() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    bugs = [tuple(sorted(mutant.sources().items())) for mutant in MUTANTS]
    twice = [mutant.name for mutant, bug in zip(MUTANTS, bugs, strict=True) if bugs.count(bug) > 1]
    assert not twice


def test_every_hazard_has_a_mutant_or_a_reason_to_have_none() -> None:
    covered = {hazard for mutant in MUTANTS for hazard in mutant.hazards}
    assert covered | set(NOT_YET) == set(range(1, LAST_HAZARD + 1))
    assert not covered & set(NOT_YET)


# ---- the mechanism ---------------------------------------------------------------------------------------------------


def test_a_patch_changes_one_place_and_no_other() -> None:
    patched = Patch("", "Counter.value", "self.n > 0", "self.n >= 0").apply(SMALL)
    assert patched == SMALL.replace("self.n > 0", "self.n >= 0")
    assert Patch("", "other", "n > 0", "True").apply(SMALL).endswith("return True\n")


def test_lines_are_indented_like_the_first() -> None:
    patched = Patch("", "Counter", "if self.n > 0:\n    return self.n", "x = self.n\nif x:\n    return x").apply(SMALL)
    assert "        x = self.n\n        if x:\n            return x\n        return 0\n" in patched


@pytest.mark.parametrize(
    ("place", "old"),
    [("Counter.value", "self.m"), ("Counter.value", "self.n"), ("Counter.gone", "self.n > 0"), ("", "n > 0")],
)
def test_a_patch_that_has_lost_its_place_is_noticed(place: str, old: str) -> None:
    with pytest.raises(LookupError):
        Patch("", place, old, "1").apply(SMALL)


def test_a_patch_that_is_no_code_is_noticed() -> None:
    mutant = Mutant("bad", (), (Patch("clock.py", "now", "return", "return ("),))
    with pytest.raises(SyntaxError):
        mutant.sources()


def test_a_mutant_changes_a_copy_and_nothing_else() -> None:
    mutant = MUTANTS[0]
    ((module, source),) = mutant.sources().items()
    before = (ROOT / "raftkv" / module).read_text()
    with sandbox(mutant) as directory:
        assert (directory / "raftkv" / module).read_text() == source
        found = subprocess.run(
            [sys.executable, "-c", "import raftkv; print(raftkv.__file__)"],
            cwd=directory,
            env={"PYTHONPATH": str(directory)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert Path(found.stdout.strip()).is_relative_to(directory)
    assert not directory.exists()
    assert (ROOT / "raftkv" / module).read_text() == before


# ---- the verdict -----------------------------------------------------------------------------------------------------

HARMLESS = Mutant("harmless", (), (Patch("clock.py", "now", "return", "pass\nreturn"),), ("tests/raft/test_quorum.py",))


def test_a_mutant_that_nobody_notices_survives() -> None:
    verdict = judge(HARMLESS)
    assert not verdict.killers
    assert "SURVIVED" in verdict.outcome


def test_tests_that_could_not_be_run_kill_nobody() -> None:
    breaks_the_import = Patch("raft/quorum.py", "", "from collections.abc import", "from nowhere import")
    verdict = judge(replace(HARMLESS, patches=(breaks_the_import,)))
    assert not verdict.killers
    assert "pytest ended with status 2" in verdict.outcome


def test_a_mutant_without_a_place_is_told_of_and_not_tried() -> None:
    verdict = judge(replace(HARMLESS, patches=(Patch("clock.py", "now", "gone", ""),)))
    assert not verdict.killers
    assert "lost its place" in verdict.outcome


def test_a_test_that_fails_without_a_mutant_is_no_proof() -> None:
    good = Killer("unit", "tests/raft/test_quorum.py::test_a_voter_without_a_value_has_reached_nothing")
    assert confirm([good, Killer("simulation", "seed 1")]) == ""
    assert "status" in confirm([Killer("unit", "tests/raft/test_quorum.py::test_that_is_not_there")])


BY_CHANCE = """
from pathlib import Path

def test_that_fails_the_first_time():
    mark = Path(__file__).with_suffix(".mark")
    is_first, _ = not mark.exists(), mark.touch()
    assert not is_first
"""


@pytest.mark.parametrize("rest", ["", "def test_that_notices(): assert False"])
def test_a_test_that_fails_once_and_not_again_is_no_killer(
    rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have failed by chance. Those behind it are looked at all the same."""
    (tmp_path / "test_it.py").write_text(BY_CHANCE + rest)
    monkeypatch.setattr("tests.mutants.runner.sandbox", lambda mutant: nullcontext(tmp_path))
    verdict = judge(replace(HARMLESS, tests=("test_it.py",)))
    assert [killer.test for killer in verdict.killers] == (["test_it.py::test_that_notices"] if rest else [])
    assert rest or "SURVIVED" in verdict.outcome


def test_a_seed_that_finds_a_violation_once_and_not_again_is_no_killer(monkeypatch: pytest.MonkeyPatch) -> None:
    output = iter(["seed 3: two leases\n", ""])
    monkeypatch.setattr("tests.mutants.runner._run", lambda *words: (1 if (said := next(output)) else 0, said))
    verdict = judge(replace(HARMLESS, tests=(), seeds=(3,)))
    assert not verdict.killers
    assert "seed 3" in verdict.outcome


def test_a_test_belongs_to_a_layer() -> None:
    assert layer_of("tests/raft/test_paper_5_4.py::test_x") == "paper"
    assert layer_of("tests/raft/test_core.py::test_x") == "unit"
    assert layer_of("tests/storage/test_crashes.py::test_x[1]") == "storage"


# ---- the program -----------------------------------------------------------------------------------------------------


def test_a_name_is_a_beginning_or_a_pattern() -> None:
    assert [mutant.name for mutant in find(["the vote is not"])] == ["the vote is not written"]
    assert len(find(["*promise*"])) > 3
    assert find([]) == list(MUTANTS)
    with pytest.raises(LookupError, match="nonsense"):
        find(["nonsense"])


def test_a_mutant_is_to_be_tried_again_when_its_code_or_its_tests_have_changed() -> None:
    (mutant,) = find(["the vote is not written"])
    code = f"raftkv/{mutant.patches[0].module}"
    assert mutant.depends_on([code])
    assert mutant.depends_on(["README.md", *mutant.tests])
    assert not mutant.depends_on(["README.md", "raftkv/repl.py", "tests/client/test_repl.py"])
    assert not mutant.depends_on([])


def test_what_has_changed_since_a_commit_is_what_git_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    (mutant,) = find(["the vote is not written"])
    file = tmp_path / "raftkv" / mutant.patches[0].module
    file.parent.mkdir(parents=True)
    file.write_text("before")
    git("init")
    git("add", ".")
    git("commit", "-m", "before")
    monkeypatch.setattr("tests.mutants.cli.ROOT", tmp_path)

    def listed() -> str:
        assert main(["--list", "--since", "HEAD"]) == 0
        return capsys.readouterr().out

    assert mutant.name not in listed()
    file.write_text("after")
    assert mutant.name in listed()


def test_an_unknown_commit_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--list", "--since", "nonsense"])
    assert ended.value.code == 2
    assert "'nonsense'" in capsys.readouterr().err


def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(MUTANTS) + 1
    assert any("the vote is not written" in line and "tests/storage" in line for line in lines)


def test_an_unknown_name_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nonsense"])
    assert ended.value.code == 2
    assert "--list" in capsys.readouterr().err


def test_the_table_ends_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["who is no voter", "--jobs", "1"]) == 0
    _, row, *_, last = capsys.readouterr().out.splitlines()
    assert "30" in row
    assert "unit: tests/raft/test_quorum.py" in row
    assert last.startswith("1 mutants, all killed in ")


def test_a_survivor_is_named_at_the_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.mutants.cli.find", lambda names: [HARMLESS])
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("harmless")
