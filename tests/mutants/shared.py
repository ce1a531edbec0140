"""Mutants of "Shared by all of them": threads, bounds, strangers, sockets, recovery (hazards 49 to 53, 57, 58)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_LOG, _NODE, _SERVER, _SERVICE = "segmented_log.py", "node.py", "server.py", "service.py"
_STORAGE, _STREAMS, _TRANSPORT, _TURN = "storage.py", "streams.py", "transport.py", "turn.py"
_CONVERSIONS = ("tests/node/test_conversions.py",)
_SENDER = ("tests/node/test_peer_sender.py",)
_TEST_SERVER = ("tests/node/test_server.py",)
_TEST_STREAMS, _TEST_EXCHANGE = ("tests/client/test_streams.py",), ("tests/node/test_exchange.py",)

SHARED = [
    Mutant(
        "heartbeats wait in the clients' queue",
        (49,),
        (
            Patch(
                _SERVER,
                "Server.serve",
                "self._handler(self._peer_pool, wire.AppendEntriesRequest",
                "self._handler(self._client_pool, wire.AppendEntriesRequest",
            ),
        ),
        _TEST_SERVER,
    ),
    Mutant(
        "requests for votes wait in the clients' queue",
        (49,),
        (
            Patch(
                _SERVER,
                "Server.serve",
                "self._handler(self._peer_pool, wire.RequestVoteRequest",
                "self._handler(self._client_pool, wire.RequestVoteRequest",
            ),
        ),
        _TEST_SERVER,
    ),
    Mutant(
        "heartbeats stand behind bulk in one connection",
        (49,),
        (Patch(_TRANSPORT, "PeerSender._open_line", "self._channel(is_bulk)", "self._channel(is_bulk=True)"),),
        _SENDER,
    ),
    Mutant(
        "votes stand behind bulk in one connection",
        (49,),
        (Patch(_TRANSPORT, "PeerSender._stub", "self._channel(is_bulk=False)", "self._channel(is_bulk=True)"),),
        _SENDER,
    ),
    Mutant(
        "heartbeats wait for bulk",
        (49,),
        (
            Patch(
                _TRANSPORT,
                "PeerSender._send_on_line",
                "(line is None or len(line.due) < limit)",
                "sum(len(each.due) for each in self._lines.values()) < self._limits.max_appends",
            ),
        ),
        _SENDER,
    ),
    Mutant(
        "votes wait for heartbeats",
        (49,),
        (
            Patch(
                _TRANSPORT,
                "PeerSender._call",
                "self._calls_in_flight >= _MAX_SMALL",
                "self._calls_in_flight + sum(len(line.due) for line in self._lines.values()) >= _MAX_SMALL",
            ),
        ),
        _SENDER,
    ),
    Mutant(
        "a heartbeat that is not answered holds back the next one",
        (49,),
        (Patch(_TRANSPORT, "PeerSender._open_line", "is_paired=is_bulk", "is_paired=True"),),
        _SENDER,
    ),
    Mutant(
        "a stream whose answers can't be understood is kept",
        (58,),
        (
            Patch(
                _TRANSPORT,
                "PeerSender._line_answered",
                "except DecodeError:\n    line.cancel()",
                "except DecodeError:\n    pass",
            ),
        ),
        _SENDER,
    ),
    Mutant(
        "a heartbeat is held up by the disk",
        (17, 49),
        (Patch(_SERVICE, "Service.begin_append", "if request.entries else self.host.leave", ""),),
        ("tests/node/test_service.py",),
    ),
    Mutant(
        "who leaves an input wakes nobody",
        (49,),
        (Patch(_TURN, "Turn.leave", "elif not self._lock.locked():\n    self._wake.set()", ""),),
        ("tests/node/test_turn.py",),
    ),
    Mutant(
        "what is handed over after the end is never worked on",
        (),
        (Patch(_TURN, "Turn._work_and_release", "or self._stopping", ""),),
        ("tests/node/test_turn.py",),
    ),
    Mutant(
        "one interruption counts as two",
        (27,),
        (
            Patch(
                _TRANSPORT,
                "PeerSender._send_on_line",
                "line.interruption = interruption",
                "line.interruption = way.interruptions",
            ),
        ),
        _SENDER,
    ),
    Mutant(
        "what is left after the end is never worked on",
        (),
        (Patch(_TURN, "Turn.leave", "if self._stopping:", "if False:"),),
        ("tests/node/test_turn.py",),
    ),
    Mutant(
        "a server that stops waits for the streams of heartbeats",
        (),
        (
            Patch(
                _SERVER,
                "Server.stop",
                "*self._peer_streams.values()",
                "*(context for (_, is_bulk), context in self._peer_streams.items() if is_bulk)",
            ),
        ),
        ("tests/node/test_service.py",),
    ),
    Mutant(
        "entries wait behind the answer of a slow follower",
        (27,),
        (Patch(_STREAMS, "_Paired.send", "and self._last_wait < _QUICK_S", ""),),
        _TEST_STREAMS,
    ),
    Mutant(
        "entries wait behind the answer to a large request",
        (27,),
        (Patch(_STREAMS, "_Paired.send", "and len(data) <= _SMALL_BYTES", ""),),
        _TEST_STREAMS,
    ),
    Mutant(
        "only the first of several answers is received",
        (),
        (Patch(_STREAMS, "_Paired._answered", "self._unanswered > 0", "False"),),
        _TEST_STREAMS,
    ),
    Mutant(
        "a follower's answer waits for a request that nobody makes",
        (),
        (Patch(_STREAMS, "Exchange._send_next", "not self._unanswered and", ""),),
        _TEST_EXCHANGE,
    ),
    Mutant(
        "what gRPC refuses to begin is waited for",
        (),
        (
            Patch(
                _STREAMS,
                "_begin_at_server",
                "return not call.start_server_batch(operations, done)",
                "return call.start_server_batch(operations, done) is not None",
            ),
        ),
        _TEST_EXCHANGE,
    ),
    Mutant(
        "a leader's stream outlives the server",
        (),
        (Patch(_STREAMS, "Exchange.__init__", "if not context.add_callback(self._end):", "if False:"),),
        _TEST_EXCHANGE,
    ),
    Mutant(
        "an answer is sent while another one is",
        (),
        (Patch(_STREAMS, "Exchange._send_next", "self._is_sending or", ""),),
        _TEST_EXCHANGE,
    ),
    Mutant(
        "a caller's thread works for the others for ever",
        (49,),
        (Patch(_TURN, "Turn._work_and_release", "and rounds < self._max_rounds", ""),),
        ("tests/node/test_turn.py",),
    ),
    Mutant(
        "calls that wait are not limited",
        (50,),
        (Patch(_SERVER, "_Admission.intercept_service", "and bound[0].calls >= bound[1]", "and False"),),
        _TEST_SERVER,
    ),
    Mutant(
        "calls for the status are not limited",
        (50,),
        (Patch(_SERVER, "Server.__init__", "STATUS: (self._aside_pool, calls, too_many_calls),", ""),),
        _TEST_SERVER,
    ),
    Mutant(
        "bytes that wait are not limited",
        (50,),
        (Patch("bounds.py", "ByteBudget.take", "if self._used + amount <= self._limit:", "if True:"),),
        ("tests/node/test_service.py",),
    ),
    Mutant(
        "bytes that have waited are never given back",
        (50,),
        (Patch(_SERVICE, "_Pending._answer", "self._service.budget.give_back(self._size)", "pass"),),
        ("tests/node/test_service.py",),
    ),
    Mutant(
        "heartbeats share the stream of the entries",
        (49,),
        (
            Patch(_TRANSPORT, "PeerSender._send_on_line", "self._lines.get(is_bulk)", "self._lines.get(True)"),
            Patch(_TRANSPORT, "PeerSender._send_on_line", "self._open_line(is_bulk)", "self._open_line(True)"),
        ),
        _SENDER,
    ),
    Mutant(
        "a peer's heartbeats end its stream of entries",
        (49,),
        (Patch(_SERVER, "Server._peer_stream", "(request.leader_id, bool(request.entries))", "request.leader_id"),),
        ("tests/node/test_service.py",),
    ),
    Mutant(
        "a stream that ends at once costs no pause",
        (58,),
        (
            Patch(
                _TRANSPORT,
                "PeerSender._send_on_line",
                "self._interrupted(is_bulk, *ended, interruption)",
                "self._failed(self._peer)",
            ),
        ),
        _SENDER,
    ),
    Mutant(
        "a call that has ended waits for ever",
        (50,),
        (Patch(_SERVER, "Pool.end", "self.calls -= 1", "pass"),),
        _TEST_SERVER,
    ),
    Mutant(
        "bulk to one peer is not limited",
        (50,),
        (Patch(_TRANSPORT, "PeerSender._send_on_line", "and (line is None or len(line.due) < limit)", ""),),
        _SENDER,
    ),
    Mutant(
        "a round that raises stops nobody",
        (51,),
        (Patch(_TURN, "Turn._work_and_release", "self._failed = True\nself._fail(error)", "pass"),),
        ("tests/node/test_turn.py",),
    ),
    Mutant(
        "a method that raises stops nobody",
        (51,),
        (Patch(_SERVER, "Server._client_handler", "self._fail(bug)", "pass"),),
        _TEST_SERVER,
    ),
    Mutant(
        "an exception on the way of a reply is logged and forgotten",
        (51,),
        (Patch(_TRANSPORT, "PeerSender._finished", "self._fail(bug)", "pass"),),
        _SENDER,
    ),
    Mutant(
        "an exception on the way of a reply from a stream is logged and forgotten",
        (51,),
        (Patch(_TRANSPORT, "PeerSender._line_answered", "self._fail(bug)", "pass"),),
        _SENDER,
    ),
    Mutant(
        "an exception on the way of a stream's end is logged and forgotten",
        (51,),
        (Patch(_TRANSPORT, "PeerSender._line_ended", "self._fail(bug)", "pass"),),
        _SENDER,
    ),
    Mutant(
        "a thread that dies is not missed",
        (51,),
        (Patch("node_program.py", "main", "threading.excepthook = lambda args:", "_ = lambda args:"),),
        ("tests/node/test_program.py", "tests/node/test_node.py"),
    ),
    # 52: strangers
    Mutant(
        "a peer of another cluster is admitted",
        (52,),
        (Patch(_TRANSPORT, "Membership.admit", "if header.cluster_id != self.cluster_id:", "if False:"),),
        _CONVERSIONS,
    ),
    Mutant(
        "a peer with another list of members is admitted",
        (52,),
        (
            Patch(
                _TRANSPORT,
                "Membership.admit",
                "elif header.members_digest and self.digest and header.members_digest != self.digest:",
                "elif False:",
            ),
        ),
        _CONVERSIONS,
    ),
    Mutant(
        "a request for another member is taken",
        (52,),
        (Patch(_TRANSPORT, "Membership.admit", "if header.recipient and header.recipient != self.me:", "if False:"),),
        _CONVERSIONS,
    ),
    Mutant(
        "who is no member is admitted",
        (52,),
        (Patch(_TRANSPORT, "Membership.admit", "or (claimed not in self.addresses and not is_of_cluster)", ""),),
        _CONVERSIONS,
    ),
    Mutant(
        "nobody looks who sends",
        (52,),
        (Patch(_SERVICE, "Service._bring_request", "membership.admit(request)", "pass"),),
        ("tests/node/test_service.py",),
    ),
    Mutant(
        "another member's directory is opened",
        (52,),
        (
            Patch(
                _STORAGE,
                "Storage._read_or_create_identity",
                "if identity.member_id != wanted.member_id:",
                "if False:",
            ),
        ),
        ("tests/storage/test_directory.py",),
    ),
    Mutant(
        "another cluster's directory is opened",
        (52,),
        (
            Patch(
                _STORAGE,
                "Storage._read_or_create_identity",
                "elif self._joins or identity.members == wanted.members:",
                "elif True:",
            ),
        ),
        ("tests/storage/test_directory.py",),
    ),
    Mutant(
        "two nodes share a directory",
        (52,),
        (Patch("disk.py", "OsDisk.lock", "fcntl.LOCK_SH if shared else fcntl.LOCK_EX", "fcntl.LOCK_SH"),),
        ("tests/storage/test_directory.py",),
    ),
    Mutant(
        "the cluster's id is not remembered",
        (52,),
        (Patch("peers.py", "Peers.learn_cluster", "self._storage.remember_cluster(cluster_id)", "pass"),),
        ("tests/node/test_node.py",),
    ),
    Mutant(
        "the cluster's id is not sent along",
        (52,),
        (Patch("peers.py", "Peers.learn_cluster", "sender.introduce(self.membership)", "pass"),),
        ("tests/node/test_node.py",),
    ),
    Mutant(
        "a stopping node gives up what a quorum is about to commit",
        (48,),
        (Patch(_NODE, "RaftNode.stop", "self._server.drain(grace)", "self._server.drain(0)"),),
        ("tests/node/test_node.py",),
    ),
    Mutant(
        "the algorithm is not told how far clocks may drift",
        (41,),
        (Patch("settings.py", "core_config", "clock_drift=config.clock_drift,", ""),),
        ("tests/node/test_settings.py",),
    ),
    Mutant(
        "the client writes into whatever cluster answers",
        (52,),
        (Patch("routing.py", "Router._take_answer", "if not self._is_ours(reply):", "if False:"),),
        ("tests/client/test_leader.py",),
    ),
    # 53: what a restart finds
    Mutant(
        "what a restart has read is not synced",
        (53,),
        (Patch(_LOG, "SegmentedLog.mend", "self._writer.sync()", "pass"),),
        ("tests/storage/test_hazards.py", "tests/storage/test_crashes.py"),
    ),
    Mutant(
        "what a restart has read is not written anew",
        (53,),
        (
            Patch(
                _LOG,
                "SegmentedLog.mend",
                "self._writer.write(self._end - len(self._last_frame), self._last_frame)",
                "pass",
            ),
        ),
        ("tests/storage/test_hazards.py", "tests/storage/test_crashes.py"),
    ),
    Mutant(
        "the metadata that a restart has read is not synced",
        (53,),
        (
            Patch(
                _STORAGE,
                "Storage._recover",
                "self._write_metadata(metadata.hard_state, counted)",
                "self.hard_state = metadata.hard_state",
            ),
        ),
        ("tests/storage/test_hazards.py", "tests/storage/test_crashes.py"),
    ),
    # 57 and 58: gRPC's defaults
    Mutant(
        "two servers share a port",
        (57,),
        (Patch(_SERVER, "Server.__init__", '("grpc.so_reuseport", 0)', '("grpc.so_reuseport", 1)'),),
        _TEST_SERVER,
    ),
    Mutant(
        "a port is not tried before it is taken",
        (57,),
        (Patch(_SERVER, "Server.listen", "_try_to_bind(address)", "pass"),),
        _TEST_SERVER,
    ),
    Mutant(
        "the server takes gRPC's four MiB at most",
        (58,),
        (Patch(_SERVER, "Server.__init__", '("grpc.max_receive_message_length", limits.max_message_bytes),', ""),),
        ("tests/node/test_node.py", "tests/node/test_server.py"),
    ),
    Mutant(
        "the limit of a message forgets what entries weigh",
        (58,),
        (
            Patch(
                "settings.py",
                "_max_message_bytes",
                "_ENTRY_OVERHEAD * config.max_append_bytes",
                "config.max_append_bytes",
            ),
        ),
        ("tests/node/test_node.py",),
    ),
    Mutant(
        "a connection between members that carries nothing is kept for a minute",
        (58,),
        (Patch(_TRANSPORT, "channel_options", "PING_TIMEOUT,", ""),),
        ("tests/node/test_dead_connections.py",),
    ),
    Mutant(
        "a client's connection that carries nothing is kept for a minute",
        (58,),
        (Patch("routing.py", "", "PING_TIMEOUT,", ""),),
        ("tests/node/test_dead_connections.py",),
    ),
    Mutant(
        "gRPC waits for up to two minutes before it connects anew",
        (58,),
        (
            Patch(
                _TRANSPORT,
                "channel_options",
                '("grpc.max_reconnect_backoff_ms", longest_ms)',
                '("grpc.max_reconnect_backoff_ms", 120_000)',
            ),
            Patch(
                _TRANSPORT,
                "channel_options",
                '("grpc.initial_reconnect_backoff_ms", min(100, longest_ms))',
                '("grpc.initial_reconnect_backoff_ms", 20_000)',
            ),
        ),
        _SENDER,
    ),
    Mutant(
        "a connection on which a request was overdue is used again",
        (58,),
        (Patch(_TRANSPORT, "PeerSender._give_up_overdue", ".is_doubtful = True", ".is_doubtful = False"),),
        _SENDER,
    ),
    Mutant(
        "a connection on which a call took too long is used again",
        (58,),
        (Patch(_TRANSPORT, "PeerSender._interrupted", "or code is grpc.StatusCode.DEADLINE_EXCEEDED", ""),),
        _SENDER,
    ),
    Mutant(
        "entries that do not come through silence the heartbeats",
        (49,),
        (
            Patch(
                *(_TRANSPORT, "PeerSender.is_silent"),
                "self._ways[False].silent_until",
                "max(way.silent_until for way in self._ways.values())",
            ),
        ),
        _SENDER,
    ),
    Mutant(
        "only the first stream to a peer that is lost is told of",
        (27,),
        (Patch(_TRANSPORT, "PeerSender._send_on_line", "line.interruption = interruption", "pass"),),
        _SENDER,
    ),
    Mutant(
        "the pauses to a silent peer grow without end",
        (58,),
        (
            Patch(
                _TRANSPORT,
                "PeerSender._interrupted",
                "min(max(2 * way.backoff, _FIRST_BACKOFF), self._limits.max_backoff)",
                "max(2 * way.backoff, _FIRST_BACKOFF)",
            ),
        ),
        _SENDER,
    ),
    Mutant(
        "a large batch gets no more time than a heartbeat",
        (58,),
        (Patch(_TRANSPORT, "PeerSender._patience", "+ size / SLOWEST_LINK", ""),),
        _SENDER,
    ),
    Mutant(
        "entries travel without the sender's identity",
        (52,),
        (
            Patch(
                _TRANSPORT,
                "PeerSender._send_on_line",
                "request_to_wire(request, self._identity)",
                "request_to_wire(request, wire.Identity())",
            ),
        ),
        _SENDER,
    ),
    Mutant(
        "only who reads requests learns that the client has gone",
        (50,),
        (
            Patch(
                _SERVER,
                "Server._read_stream",
                "if not context.add_callback(stream.vanish):\n    stream.vanish()",
                "pass",
            ),
        ),
        ("tests/node/test_client_stream.py",),
    ),
    Mutant(
        "the stream of a client that has gone waits for room",
        (50,),
        (
            Patch(
                "client_stream.py",
                "ClientStream.vanish",
                "self._is_closing = self._has_gone = True",
                "self._has_gone = True",
            ),
        ),
        ("tests/node/test_client_stream.py",),
    ),
]
