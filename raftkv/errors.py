"""What can go wrong for a caller of the client library, in two classes that matter.

`NotApplied` is definite: nothing has been done, and nothing will be. `OutcomeUnknown` is the honest answer whenever a
write may have reached the log: it may have been applied, may be applied yet, or never. A lost connection or a timeout
after the write was sent is of that kind, for nobody can tell the one from the other (rule: unknown, never failed).
"""

from __future__ import annotations


class Error(Exception):
    """A call that failed. `str(error)` is one line for a person, and says of a write whether it may be applied."""

    def __init__(self, message: str, code: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.code = code
        """The name of a gRPC status: "UNAVAILABLE" (no leader found), "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED",
        "INVALID_ARGUMENT", "CANCELLED" (the client was closed), ..."""


class NotApplied(Error):
    """Definite: nothing has been done. Every read that fails is of this class."""


class OutcomeUnknown(Error):
    """The write may have been applied, once; or it may yet be, or never."""


class WrongValue(NotApplied, ValueError):
    """An argument that can't be used; nothing has been done."""


class WrongType(NotApplied, TypeError):
    """An argument of a type that can't be used; nothing has been done."""
