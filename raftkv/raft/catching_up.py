"""When a learner has caught up with its leader's log (dissertation, 4.2.1).

Its replication goes in rounds: a round is over once the learner holds all that the leader's log held when the round
began. Whoever ends one within an election timeout is behind by so little that its vote will not hold up commits for
longer than an election would; it may be promoted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CatchingUp:
    """One learner's rounds."""

    target: int
    """The last index of the leader's log when the present round began."""
    began: float

    def is_done(self, match_index: int, last_index: int, now: float, election_timeout: float) -> bool:
        """The learner holds the log up to `match_index`: whether it has caught up. Begins the next round if not."""
        if match_index < self.target:
            return False
        if now - self.began <= election_timeout:
            return True
        self.target, self.began = last_index, now
        return match_index >= last_index
