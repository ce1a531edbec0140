"""A follower whose log has gone back behind what it had acknowledged: it must not set off a storm of requests."""

from __future__ import annotations

from raftkv.raft.messages import AppendEntries
from tests.raft.lone import Lone, only


def test_a_follower_that_rejects_what_it_has_acknowledged_is_asked_once_a_heartbeat() -> None:
    leader = Lone()
    leader.serve(by=(2, 3))
    leader.propose("SET k v")
    leader.step(leader.ack(2), leader.ack(3))
    progress = leader.leader.progress[3]
    progress.probe(progress.match_index + 1)
    leader.propose("SET k w")
    for _ in range(3):
        answers = leader.step(leader.rejection(3, progress.match_index, 0, 1))
        assert not only(AppendEntries, answers)
    assert len([m for m in only(AppendEntries, leader.wait(0.1)) if m.recipient == 3]) == 1
