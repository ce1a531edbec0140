"""What the checker finds, and how it is told to a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.linearizability.history import Operation, shown


@dataclass(frozen=True, slots=True)
class Violation:
    """Why the operations on one key can't be linearized."""

    key: bytes
    prefix: Sequence[Operation]
    """The shortest prefix that can't be, by invocation. What was under way at its end has an unknown outcome. (If some
    prefixes could not be decided, then the shortest of the others.)"""
    culprit: Operation
    """The operation whose return ends the prefix."""
    linearization: Sequence[Operation]
    """An order for the prefix without that last return; unknown operations that never came are left out."""
    possible: Sequence[bytes | None]
    """What the culprit might have found in the key. Empty if the others make sense only if it did what it denies."""
    all_tried: bool
    """Whether `possible` is all; else there were too many candidates to try each."""

    def __str__(self) -> str:
        """The last operations of the prefix, and what is wrong with the culprit."""
        start = self.prefix[0].invoked_at
        last = self.prefix[-20:]
        lines = [f"key {shown(self.key)} is not linearizable: {self.explanation}"]
        if len(last) < len(self.prefix):
            lines.append(f"    ({len(self.prefix) - len(last)} operations before these)")
        for operation in last:
            end = "" if operation.returned_at is None else f"{operation.returned_at - start:.6f}"
            mark = "  <-- impossible" if operation == self.culprit else ""
            lines.append(f"    {operation.invoked_at - start:12.6f} .. {end:12} {operation}{mark}")
        return "\n".join(lines)

    @property
    def explanation(self) -> str:
        """One sentence."""
        if not self.possible:
            return f"`{self.culprit}` contradicts what the others did and saw"
        values = " or ".join(map(shown, self.possible))
        only = "can only have found" if self.all_tried else "can have found, among others,"
        return f"`{self.culprit}`, but it {only} {values}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `check` found."""

    operations: int
    """All of the history's, also those without influence on the verdict."""
    keys: int
    configurations: int
    """How many were searched: a measure of the work."""
    violations: Sequence[Violation]
    undecided: Sequence[bytes]
    """Keys whose search was given up. Never to be taken for a success."""

    @property
    def linearizable(self) -> bool:
        """Whether every key's operations are known to be."""
        return not self.violations and not self.undecided

    def __str__(self) -> str:
        """For a person: one line if all is well."""
        what = f"{self.operations:,} operations on {self.keys:,} keys"
        if self.linearizable:
            return f"linearizable: {what}"
        lines = [f"NOT LINEARIZABLE: {what}" if self.violations else f"UNDECIDED: {what}"]
        lines += [f"key {shown(key)} needs more than the allowed number of configurations" for key in self.undecided]
        return "\n".join([*lines, *map(str, self.violations)])
