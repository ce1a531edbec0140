"""A client's calls that are about the cluster and not about keys: theory of operation.

They go to the members by themselves, beside the pipeline, and the calling thread waits for them. What they do is in
routing.py, member_calls.py, leadership.py and backup_file.py; here is what all of them have in common: the time that
they may take, and that a closed client makes none. `Client` makes them in its caller's thread, `AsyncClient` in others.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from raftkv.errors import NotApplied, WrongType
from raftkv.leadership import checked_target, transfer_leadership
from raftkv.member_calls import ClusterMember, add_member, members, remove_member
from raftkv.routing import NodeStatus, Router

if TYPE_CHECKING:
    from raftkv.backup_file import BackupInfo, Progress


class ClusterCalls:
    """Safe from any thread. What each call does and raises is said at `Client`'s methods of the same names."""

    def __init__(self, router: Router, timeout: float) -> None:
        """`timeout` is in seconds, and holds for each call."""
        self._router = router
        self._timeout = timeout

    def status(self) -> list[NodeStatus]:
        return self._router.status(self._deadline())

    def members(self) -> list[ClusterMember]:
        return members(self._router, self._deadline())

    def add_member(self, member: int, address: str) -> None:
        add_member(self._router, member, address, self._deadline())

    def remove_member(self, member: int) -> None:
        remove_member(self._router, member, self._deadline())

    def transfer_leadership(self, target: int | None) -> int:
        return transfer_leadership(self._router, checked_target(target), self._deadline())

    def backup(self, path: str | os.PathLike[str], progress: Progress) -> BackupInfo:
        if not isinstance(path, str | os.PathLike):
            raise WrongType(f"path must be str or a path, not {type(path).__name__}", "INVALID_ARGUMENT")
        self._deadline()
        from raftkv.backup_file import make_backup  # which most programs have no use for

        return make_backup(self._router, os.fspath(path), self._timeout, progress)

    def _deadline(self) -> float:
        """Raises NotApplied if the client is closed."""
        if self._router.closed.is_set():
            raise NotApplied("the client is closed; nothing was done", "CANCELLED")
        return time.monotonic() + self._timeout
