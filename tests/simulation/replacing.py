"""How members are removed, and added again with empty disks, in the plays that need it (lives.py, former_disks.py).

They ask one leader, go on when it has applied the change, and ask again when it refuses for now. Any other answer ends
the play; another leader is not looked for.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.raft.configuration import Add, Change, Remove
from raftkv.replica import Applied, NotLeader, Outcome, Refused
from tests.simulation.checks import Checks
from tests.simulation.member import Member
from tests.simulation.stage import Stage


def leader_to_ask(stage: Stage, checks: Checks) -> Member | None:
    """The leader, if there are enough others and no change of who they are is under way."""
    if len(stage.members) < 3 or checks.perhaps_members() != checks.configuration.members:
        return None
    return stage.leader()


def remove(stage: Stage, leader: Member, member: Member, then: Callable[..., object], *arguments: object) -> None:
    """Have the leader remove a member, and then go on."""
    _ask(stage, leader, Remove(member.id), then, arguments)


def give_empty_disk(member: Member) -> None:
    """Switch a member off and wipe its disk; its removal has been committed, so that this is safe."""
    member.switch_off(power_lost=False)
    member.wipe()


def add(stage: Stage, leader: Member, member: Member, then: Callable[..., object], *arguments: object) -> None:
    """Have the leader add a member that is off, and then go on; what follows is to switch it on."""
    _ask(stage, leader, Add(member.id, f"address of {member.name}"), then, arguments)


def may_have_been_added(outcome: Outcome) -> bool:
    """Unless it is clear that it has not been added it has to come up: others may count on it."""
    return not isinstance(outcome, NotLeader | Refused)


def _ask(
    stage: Stage, leader: Member, change: Change, then: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    def answered(outcome: Outcome) -> None:
        if stage.is_over:  # and so is the play
            if isinstance(change, Add) and may_have_been_added(outcome):
                stage.members[change.member].switch_on()
        elif isinstance(outcome, Applied):
            stage.in_steps(0.0, then, *arguments)  # not in the middle of the leader's turn
        elif isinstance(outcome, Refused) and outcome.try_again:
            stage.in_steps(0.1, _ask, stage, leader, change, then, arguments)

    leader.change_configuration(change, answered)
