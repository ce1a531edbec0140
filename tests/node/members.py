"""Whole nodes in one process, with real storage, real gRPC and real time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc

from raftkv.config import NodeConfig
from raftkv.log_storage import LogStorage
from raftkv.node import RaftNode, recover
from raftkv.raft.roles import Follower, PreCandidate
from raftkv.replica import Unreachable
from raftkv.server import Server
from raftkv.settings import server_limits
from raftkv.storage import Storage
from raftkv.wire import raft_pb2 as wire
from tests.support.processes import free_addresses, wait_until

QUICK = NodeConfig(election_timeout=0.3, heartbeat_interval=0.05, lease_duration=0.2)
"""For tests that wait for elections."""
STEADY = NodeConfig(election_timeout=10.0, heartbeat_interval=0.2, leases=False)
"""For tests that want a leader to stay one, however long its followers are silent. See `Members.elect`."""


class Members:
    """A cluster. Nodes are started and stopped one by one; what stops one of them on the way is in `failures`."""

    def __init__(self, directory: Path, size: int, config: NodeConfig = QUICK) -> None:
        self.config = config
        self.addresses = dict(enumerate(free_addresses(size), start=1))
        self.nodes: dict[int, RaftNode] = {}
        self.failures: dict[int, list[BaseException]] = {id: [] for id in self.addresses}
        self._directory = directory
        self._channels: dict[int, grpc.Channel] = {}

    def open(self, id: int) -> RaftNode:
        """A node that has not started yet."""
        fail = self.failures[id].append
        server = Server(server_limits(self.config), len(self.addresses) - 1, fail)
        server.listen(self.addresses[id])
        storage: LogStorage = Storage(self._directory / str(id), member_id=id, members=self.addresses)
        machine = recover(storage, lambda done, total: None)
        self.nodes[id] = RaftNode(self.config, storage, machine, server, fail)
        return self.nodes[id]

    def start(self, *ids: int) -> None:
        for id in ids or self.addresses:
            self.open(id).start()

    def elect(self, id: int) -> RaftNode:
        """Have a node stand for election now, and wait until it serves."""
        node = self.nodes[id]
        assert isinstance(node._replica.raft.role, Follower)
        again_at = 0.0

        def serves() -> bool:
            nonlocal again_at
            role = node._replica.raft.role
            if time.monotonic() >= again_at and isinstance(role, Follower | PreCandidate):
                again_at = (
                    time.monotonic() + 1.0
                )  # the others may have been just about to start, and have heard nothing
                role.election_deadline = 0.0
                node.bring(Unreachable(id))  # any input will do
            return node.status().serving

        wait_until(serves, f"node {id} serves")
        return node

    def most_up_to_date(self) -> int:
        """Of those that run, one that all others would elect: a follower may lack what the leader stopped with."""
        return max(self.nodes, key=lambda id: (self.nodes[id]._replica.raft.log.last, id))

    def stop(self, *ids: int) -> None:
        for id in ids or list(self.nodes):
            self.nodes.pop(id).stop(grace=0.1)

    def close(self) -> None:
        self.stop()
        for channel in self._channels.values():
            channel.close()

    def leader(self) -> RaftNode:
        """The node that serves as the leader, once there is one."""
        return wait_until(self._leader, "a leader serves")

    def _leader(self) -> RaftNode | None:
        serving = [node for node in self.nodes.values() if node.status().serving]
        return max(serving, key=lambda node: node.status().term, default=None)

    def followers(self) -> list[RaftNode]:
        leader = self.leader()
        return [node for node in self.nodes.values() if node is not leader]

    def wait_until_equal(self) -> None:
        """Until all have applied the same log."""

        def are_equal() -> bool:
            return len({node._replica.machine.digest() for node in self.nodes.values()}) == 1

        wait_until(are_equal, "all members are in the same state")

    # ---- calls -------------------------------------------------------------------------------------------------------

    def begin(self, node: RaftNode, request: str, timeout: float = 10.0) -> Any:
        """A call in the text form, without waiting for its end."""
        return self.begin_fields(node, timeout, request=request)

    def begin_fields(self, node: RaftNode, timeout: float = 10.0, **fields: Any) -> Any:
        id = node.membership.me
        if id not in self._channels:
            options = [
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 100),
                ("grpc.max_receive_message_length", -1),
            ]
            self._channels[id] = grpc.insecure_channel(self.addresses[id], options=options)
        call: Any = self._channels[id].unary_unary(
            "/RaftNode/ServeClient", wire.ServeClientRequest.SerializeToString, wire.ServeClientReply.FromString
        )
        return call.future(wire.ServeClientRequest(**fields), timeout=timeout, wait_for_ready=True)

    def ask(self, node: RaftNode, request: str) -> wire.ServeClientReply:
        reply: wire.ServeClientReply = self.begin(node, request).result()
        return reply

    def ask_leader(self, request: str) -> wire.ServeClientReply:
        """The same of whoever leads, and once more if an election comes between: for what may be done twice."""

        def success() -> wire.ServeClientReply | None:
            call = self.begin(self.leader(), request)
            error = call.exception()
            if error is None:
                return call.result() if call.result().success else None
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            return None

        return wait_until(success, request, seconds=30)
