"""What members say survives the wire.

Members of the simulator hand their messages over as they are, real nodes send them over the wire. So here all that
such members ever say is sent over the wire too, and compared: nothing that the algorithm says may be changed on its
way, or be refused as malformed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from raftkv.raft.messages import (
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    TimeoutNow,
    TimeoutNowReply,
)
from raftkv.transport import (
    Membership,
    Request,
    append_entries_from_wire,
    reply_from_wire,
    reply_to_wire,
    request_to_wire,
    request_vote_from_wire,
    timeout_now_from_wire,
)
from raftkv.wire import raft_pb2 as wire
from tests.simulation.network import Network, Packet
from tests.simulation.simulation import simulate
from tests.simulation.snapshot_streams import SnapshotPacket
from tests.simulation.summary import replay_command


def over_the_wire(message: Message) -> Message:
    """What arrives of it at the other member."""
    sender, recipient = message.sender, message.recipient
    addresses = {member: f"127.0.0.1:{member}" for member in {sender, recipient}}
    if isinstance(message, Request):
        data = request_to_wire(message, Membership(sender, addresses).identity_for(recipient)).SerializeToString()
        if isinstance(message, RequestVote):
            vote = wire.RequestVoteRequest.FromString(data)
            Membership(recipient, addresses).admit(vote)
            return request_vote_from_wire(vote, recipient, message.call)
        if isinstance(message, TimeoutNow):
            timeout_now = wire.TimeoutNowRequest.FromString(data)
            Membership(recipient, addresses).admit(timeout_now)
            return timeout_now_from_wire(timeout_now, recipient, message.call)
        request = wire.AppendEntriesRequest.FromString(data)
        Membership(recipient, addresses).admit(request)
        return append_entries_from_wire(request, recipient, message.call)
    assert not isinstance(message, InstallSnapshot | InstallSnapshotReply), "they go another way"
    incarnation = b"" if isinstance(message, TimeoutNowReply) else message.incarnation
    sent = reply_to_wire(message, incarnation)
    reply = reply_from_wire(type(sent).FromString(sent.SerializeToString()), sender, recipient)
    return replace(reply, call=message.call)  # gRPC itself sees to that


@pytest.mark.parametrize("seed", range(41, 53))
def test_whatever_members_say_survives_the_wire(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    send = Network.send

    def send_and_compare(network: Network, source: str, target: str, packet: Packet, delay: float = 0.0) -> None:
        # Snapshots go another way, with messages of their own (tests/node/test_snapshot_transfer.py).
        is_snapshot = isinstance(packet, SnapshotPacket)
        if network.links[source, target].between_members and not is_snapshot:
            seen[type(packet).__name__] += 1
            assert over_the_wire(packet) == packet
        send(network, source, target, packet, delay)

    monkeypatch.setattr(Network, "send", send_and_compare)
    report = simulate(seed)
    assert not report.violation, f"{report.violation}\nreplay with: {replay_command(seed)}"
    assert not seen or len(seen) >= 4
