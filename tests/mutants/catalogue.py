"""All mutants, in the order of the hazards that they stand for; `NOT_YET` says which hazards have none, and why."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from tests.mutants.clients import CLIENTS
from tests.mutants.durability import DURABILITY
from tests.mutants.installing import INSTALLING
from tests.mutants.membership import MEMBERSHIP
from tests.mutants.mutant import Mutant
from tests.mutants.operations import OPERATIONS
from tests.mutants.reads import READS
from tests.mutants.replication import REPLICATION
from tests.mutants.shared import SHARED
from tests.mutants.slips import SLIPS
from tests.mutants.snapshots import SNAPSHOTS
from tests.mutants.tasks import TASKS
from tests.mutants.transfers import TRANSFERS
from tests.mutants.unsent import UNSENT

MUTANTS: Final = (
    *DURABILITY,
    *REPLICATION,
    *SNAPSHOTS,
    *INSTALLING,
    *MEMBERSHIP,
    *READS,
    *TRANSFERS,
    *CLIENTS,
    *TASKS,
    *OPERATIONS,
    *SHARED,
    *UNSENT,
    *SLIPS,
)

LAST_HAZARD: Final = 60
"""Hazards are counted from 1."""

NOT_YET: Final[dict[int, str]] = {}
"""Hazards of what does not exist."""


def find(names: Sequence[str]) -> list[Mutant]:
    """The mutants that the names mean, each the beginning of one or a pattern with `*`; all of them without names.

    Raises LookupError for a name that means none.
    """
    chosen = {mutant.name for name in names for mutant in _meant_by(name)}
    return [mutant for mutant in MUTANTS if not names or mutant.name in chosen]


def _meant_by(name: str) -> list[Mutant]:
    meant = [mutant for mutant in MUTANTS if mutant.name.startswith(name) or fnmatchcase(mutant.name, name)]
    if not meant:
        raise LookupError(f"there is no mutant {name!r}: --list shows them all")
    return meant
