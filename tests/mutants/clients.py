"""Mutants of "Liveness, clients": who leads, and that a write is applied once (hazards 43, 44, 47, 48, 54 to 56)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_CORE, _KV, _REPLICA, _PIPELINE, _SERVICE = "raft/core.py", "kv.py", "replica.py", "pipeline.py", "service.py"
_ELECTIONS = "raft/elections.py"
_OUTBOX, _STREAM = "outbox.py", "client_stream.py"
_SESSION = "StateMachine._apply_in_session"
_GIVEN_UP = ("tests/client/test_given_up.py",)
_EXACTLY_ONCE = ("tests/client/test_exactly_once.py", "tests/client/test_pipeline.py")

CLIENTS = [
    Mutant(
        "nobody asks before it stands for election",
        (43,),
        (
            Patch(
                _ELECTIONS,
                "start_pre_vote",
                "PreCandidate(raft._draw_election_deadline(), {raft.me})",
                "PreCandidate(raft._draw_election_deadline(), set(raft.configuration.voters))",
            ),
        ),
        ("tests/raft/test_dissertation_9_6.py",),
    ),
    Mutant(
        "who hears a leader is willing to vote for another",
        (43,),
        (Patch(_ELECTIONS, "handle_request_vote", "and not _hears_a_leader(raft)", ""),),
        ("tests/raft/test_dissertation_9_6.py",),
    ),
    Mutant(
        "a vote request deposes a leader that works",
        (43,),
        (Patch(_ELECTIONS, "is_disturbance", "return _hears_a_leader(raft) and", "return False and"),),
        ("tests/raft/test_dissertation_4_2_3.py",),
    ),
    Mutant(
        "a leader nobody answers goes on leading",
        (43,),
        (Patch(_CORE, "Raft._tick_leader", "if self._has_lost_majority(leader):", "if False:"),),
        ("tests/raft/test_dissertation_6_2.py",),
    ),
    Mutant(
        "a leader without a majority refuses every vote",
        (44,),
        (
            Patch(
                _ELECTIONS,
                "_hears_a_leader",
                "return not raft._has_lost_majority(raft.role)",
                "return True",
            ),
        ),
        ("tests/raft/test_paper_5_1.py",),
    ),
    Mutant(
        "a refused pre-vote tells of no later term",
        (44,),
        (
            Patch(
                _CORE,
                "Raft._settle_term",
                "not message.granted and message.term > self.current_term",
                "False",
            ),
        ),
        ("tests/raft/test_dissertation_9_6.py",),
    ),
    Mutant(
        "a leader of an earlier term gets no answer",
        (44,),
        (
            Patch(
                _CORE, "Raft._settle_term", "self._send(replace(message.rejected(self.current_term), round=0))", "pass"
            ),
        ),
        ("tests/raft/test_hazards.py", "tests/raft/test_paper_5_1.py"),
    ),
    Mutant(
        "a candidate does not recognize the leader of its term",
        (44,),
        (
            Patch(
                _CORE,
                "Raft._handle_append_entries",
                "self._follow(request)",
                "if isinstance(self.role, Candidate):\n    return\nself._follow(request)",
            ),
        ),
        ("tests/raft/test_paper_5_2.py",),
    ),
    Mutant(
        "election timeouts are all the same",
        (43,),
        (Patch(_CORE, "Raft._draw_election_deadline", "* (1 + self._rng.random())", "* 1.5"),),
        ("tests/raft/test_paper_5_2.py",),
    ),
    Mutant(
        "all members throw the same dice",
        (43,),
        (Patch("node.py", "RaftNode.__init__", "random.Random(os.urandom(16))", "random.Random(0)"),),
        ("tests/node/test_node.py",),
    ),
    # 47, 55, 56: sessions
    Mutant(
        "the answers of a session are not kept",
        (47,),
        (
            Patch(_KV, _SESSION, "session.keep(row, results)", "pass"),
            Patch(_KV, _SESSION, "session.answers[sequence] = answer", "pass"),
        ),
        ("tests/kv",),
        (1,),
    ),
    Mutant(
        "each attempt has a number of its own",
        (47,),
        (Patch(_OUTBOX, "Outbox.take_writes", "is_new = call.session != session", "is_new = True"),),
        _EXACTLY_ONCE,
    ),
    Mutant(
        "the mark passes numbers that are still in use",
        (47, 55),
        (Patch(_OUTBOX, "Outbox._lowest_unanswered", "return call.sequence", "return self.next_sequence"),),
        _EXACTLY_ONCE,
    ),
    Mutant(
        "a number that was given up is in use for ever",
        (55,),
        (
            Patch(
                _OUTBOX,
                "Outbox._lowest_unanswered",
                "call.state is not OVER and call.session == self.session",
                "call.session == self.session",
            ),
        ),
        _GIVEN_UP,
    ),
    Mutant(
        "what was submitted after a write that was given up overtakes it",
        (55,),
        (Patch(_OUTBOX, "Outbox._end_of_numbers", "if not self.given_up:", "if True:"),),
        _GIVEN_UP,
    ),
    Mutant(
        "what is sent again overtakes a write that was given up",
        (55,),
        (
            Patch(
                _OUTBOX,
                "Outbox.take_writes",
                "(self.next_sequence if is_new else call.sequence) >= end",
                "is_new and self.next_sequence >= end",
            ),
        ),
        _GIVEN_UP,
    ),
    Mutant(
        "a write that was given up while it waited to be sent again is overtaken",
        (55,),
        (Patch(_OUTBOX, "Outbox.give_up", "if call.doubt and", "if call not in self.retries and"),),
        _GIVEN_UP,
    ),
    Mutant(
        "a call whose time is over or whose caller has gone is overtaken",
        (55,),
        (Patch(_PIPELINE, "Pipeline._give_up", "self._outbox.give_up(call)", "call.state = OVER"),),
        _GIVEN_UP,
    ),
    Mutant(
        "a write that a leader refused is overtaken by an earlier copy of it",
        (55,),
        (Patch(_PIPELINE, "Pipeline._settle_writes", "self._outbox.give_up(call)", "pass"),),
        _GIVEN_UP,
    ),
    Mutant(
        "a write that was given up holds back all later ones for ever",
        (),
        (Patch(_OUTBOX, "Outbox._end_of_numbers", "if number >= mark", ""),),
        _GIVEN_UP,
    ),
    Mutant(
        "a write that was given up holds back those behind it on its own stream",
        (),
        (
            Patch(
                _OUTBOX,
                "Outbox._end_of_numbers",
                "self.given_up.difference(call.sequence for call in connection.writes_under_way())",
                "self.given_up",
            ),
        ),
        _GIVEN_UP,
    ),
    Mutant(
        "what was given up in a session is held against the next",
        (),
        (Patch(_OUTBOX, "Outbox.begin_session", "self.given_up.clear()", "pass"),),
        _GIVEN_UP,
    ),
    Mutant(
        "the mark of answered operations is ignored",
        (55,),
        (Patch(_KV, _SESSION, "if sequence < lowest_unanswered:", "if False:"),),
        ("tests/kv",),
        (6,),
    ),
    Mutant(
        "a later number hides an earlier retry",
        (55,),
        (
            Patch(
                _KV,
                _SESSION,
                "if sequence < lowest_unanswered:",
                "if sequence < max(session.all_answers(), default=lowest_unanswered):",
            ),
        ),
        ("tests/kv",),
    ),
    Mutant(
        "a batch is known as a whole or not at all",
        (55,),
        (
            Patch(
                _KV,
                _SESSION,
                "answer = session.answer(sequence)",
                "is_known = all(session.answer(other[4]) for other in operations)\n"
                "answer = session.answer(sequence) if is_known else None",
            ),
        ),
        ("tests/kv",),
    ),
    Mutant(
        "the mark goes back",
        (55,),
        (Patch(_KV, "Session.forget_below", "if grown_by <= 0:", "if grown_by == 0:"),),
        ("tests/kv",),
    ),
    Mutant(
        "an unknown session's writes are applied",
        (56,),
        (
            Patch(
                _KV,
                _SESSION,
                "return [_SESSION_UNKNOWN] * len(operations)",
                "return [self._execute(*op[:4]) for op in operations]",
            ),
        ),
        ("tests/kv",),
        (11,),
    ),
    Mutant(
        "the session used last is the one to be evicted",
        (56,),
        (Patch(_KV, _SESSION, "self._sessions.move_to_end(session_id)", "pass"),),
        ("tests/kv",),
    ),
    Mutant(
        "a session in use expires",
        (56,),
        (Patch(_KV, _SESSION, "session.last_active_ms = self._time_ms", "pass"),),
        ("tests/kv",),
    ),
    Mutant(
        "sessions end by the clock of the member",
        (56,),
        (
            Patch(
                _KV,
                "StateMachine.apply",
                "self._time_ms = max(self._time_ms, entry.time_ms)",
                "import time\nself._time_ms = time.monotonic_ns() // 1_000_000",
            ),
        ),
        ("tests/kv",),
    ),
    Mutant(
        "an expired session's write is sent again though it may have been applied",
        (47, 56),
        (
            Patch(
                _PIPELINE,
                "Pipeline._settle_writes",
                "elif status == Status.SESSION_UNKNOWN and not call.doubt:",
                "elif status == Status.SESSION_UNKNOWN:",
            ),
            Patch(  # which else makes up for it
                _OUTBOX,
                "Outbox.begin_session",
                "call for call in self.retries if call.doubt and call.state is not OVER",
                "call for call in self.retries if False",
            ),
        ),
        _EXACTLY_ONCE,
    ),
    Mutant(
        "a leader of an old term is followed while the present one is silent",
        (43,),
        (
            Patch(
                "routing.py",
                "Router._round",
                "(self._leader is None or best[0].term >= self._leader_term)",
                "True",
            ),
        ),
        ("tests/client/test_leader.py",),
    ),
    # 48: what a caller is told
    Mutant(
        "a lost leadership is reported as not applied",
        (48,),
        (
            Patch(
                _REPLICA,
                "Replica._abandon_writers",
                "caller.answer(Unknown(reason))",
                "caller.answer(NotLeader(0))",
            ),
        ),
        ("tests/replica",),
        (24,),
    ),
    Mutant(
        "another leader's entry is taken for the caller's own",
        (48,),
        (Patch(_REPLICA, "Replica._apply", "if term == entry.term:", "if True:"),),
        ("tests/replica",),
    ),
    Mutant(
        "who loses the leadership leaves its callers waiting",
        (48,),
        (Patch(_REPLICA, "Replica._carry_out", "self._give_up_writers()", "pass"),),
        ("tests/replica",),
    ),
    Mutant(
        "an attempt that failed has not been applied",
        (48,),
        (Patch(_PIPELINE, "Pipeline._leave", "call.doubt = call.doubt or not is_refused", "pass"),),
        _EXACTLY_ONCE,
    ),
    Mutant(
        "a later refusal makes a doubtful write definite",
        (48,),
        (
            Patch(
                _PIPELINE,
                "Pipeline._leave",
                "call.doubt = call.doubt or not is_refused",
                "call.doubt = not is_refused",
            ),
            Patch(
                _PIPELINE,
                "Pipeline._settle_refused",
                "self._outbox.send_again(live)",
                "for call in live:\n"
                "    call.doubt = reply.code not in (_INVALID, _EXHAUSTED, _ELSEWHERE)\n"
                "self._outbox.send_again(live)",
            ),
        ),
        _EXACTLY_ONCE,
    ),
    Mutant(
        "a write that is not committed in time is called refused",
        (48,),
        (
            Patch(
                _SERVICE,
                "_Pending.expire",
                "Refusal(grpc.StatusCode.DEADLINE_EXCEEDED,",
                "Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED,",
            ),
        ),
        ("tests/node/test_service.py",),
    ),
    # 54: what can't be decoded
    Mutant(
        "an entry that can't be decoded kills every member",
        (54,),
        (
            Patch(
                _KV,
                "StateMachine._apply_operations",
                "except (Malformed, UnicodeDecodeError):",
                "except UnicodeDecodeError:",
            ),
        ),
        ("tests/kv",),
    ),
    Mutant(
        "a text that is no text kills every member",
        (54,),
        (Patch(_KV, "StateMachine._apply_operations", "except (Malformed, UnicodeDecodeError):", "except Malformed:"),),
        ("tests/kv",),
    ),
    Mutant(
        "a batch is proposed unread",
        (54,),
        (
            Patch(
                _SERVICE,
                "Service._serve_batch",
                "for reason in self.limits.check_batch(data).values():\n    raise invalid(reason)",
                "pass",
            ),
        ),
        ("tests/node/test_service.py",),
    ),
    # The stream and the pipeline: what is sent together, again, and in which order
    Mutant(
        "a write overtakes one that was refused",
        (47,),
        (
            Patch(
                _STREAM,
                "_Caller.answer",
                "self._stream.is_broken = True",
                "pass",
            ),
        ),
        ("tests/node/test_client_stream.py",),
    ),
    Mutant(
        "a write that nobody wants any more is proposed",
        (47,),
        (Patch(_REPLICA, "Replica._propose", "if not write.caller.is_wanted():", "if False:"),),
        ("tests/replica", "tests/node/test_client_stream.py"),
    ),
    Mutant(
        "a call whose time is over is proposed all the same",
        (50,),
        (Patch(_SERVICE, "_Pending.is_wanted", "return not self._answered.locked()", "return True"),),
        ("tests/node/test_service.py",),
    ),
    Mutant(
        "what an expired session leaves in doubt goes out in the next one",
        (56,),
        (
            Patch(
                _OUTBOX,
                "Outbox.begin_session",
                "call for call in self.retries if call.doubt and call.state is not OVER",
                "call for call in self.retries if False",
            ),
        ),
        ("tests/client/test_pipeline.py",),
    ),
    Mutant(
        "what is sent again goes behind what is new",
        (55,),
        (
            Patch(
                _OUTBOX,
                "Outbox.take_writes",
                "queue := retries or writes",
                "queue := writes or retries",
            ),
        ),
        ("tests/client/test_pipeline.py",),
    ),
    Mutant(
        "what is sent again is sorted by its session's numbers",
        (55,),
        (
            Patch(
                _OUTBOX,
                "Outbox.send_again",
                "key=lambda call: call.order",
                "key=lambda call: (call.session, call.sequence)",
            ),
        ),
        ("tests/client/test_pipeline.py",),
    ),
    Mutant(
        "a stream goes on after a write that was refused",
        (55,),
        (Patch(_PIPELINE, "Pipeline._settle_refused", "connection.is_ending = True", "pass"),),
        ("tests/client/test_pipeline.py", "tests/client/test_exactly_once.py"),
    ),
    Mutant(
        "a refused operation's status is its neighbour's",
        (),
        (Patch(_STREAM, "_results", "statuses.insert(position, REFUSED)", "statuses.append(REFUSED)"),),
        ("tests/node/test_client_stream.py",),
    ),
    Mutant(
        "a client follows a leader that can't say yet of which cluster it is",
        (),
        (Patch("routing.py", "Router._round", "if not reply.cluster_id:", "if False:"),),
        ("tests/client/test_leader.py",),
    ),
    Mutant(
        "a call in the pipeline has no end",
        (48,),
        (Patch(_PIPELINE, "Pipeline._expire", "call.deadline <= until", "False"),),
        ("tests/client/test_futures.py", "tests/client/test_leader.py"),
    ),
    Mutant(
        "a client holds calls of any size",
        (50,),
        (Patch(_OUTBOX, "Outbox.count", "self.large_bytes >= MAX_WAITING_BYTES", "False"),),
        ("tests/client/test_futures.py",),
    ),
    Mutant(
        "what has gone out is still counted among what waits",
        (),
        (Patch(_OUTBOX, "Outbox._uncount", "self.large_bytes -= call.counted", "pass"),),
        ("tests/client/test_futures.py",),
    ),
    Mutant(
        "reads that are sent again change places",
        (48,),
        (Patch(_OUTBOX, "Outbox.send_again", "self.reads[0].deadline < last", "False"),),
        ("tests/client/test_in_time.py",),
    ),
    Mutant(
        "calls end only when the members have been asked",
        (),
        (
            Patch(_PIPELINE, "Pipeline._end_calls", "self._expire(now) - now", "wait"),
            Patch(_PIPELINE, "Pipeline._ask_members", "self._push()", "self._expire(time.monotonic())\nself._push()"),
        ),
        ("tests/client/test_in_time.py",),
    ),
    Mutant(
        "a done-callback that ends its thread ends what comes back, too",
        (),
        (Patch("calls.py", "LeanFuture.settle", "self._invoke_callbacks(BaseException)", "self._invoke_callbacks()"),),
        ("tests/client/test_futures.py",),
    ),
    Mutant(
        "a done-callback may wait for itself",
        (),
        (Patch("client.py", "Client._call", "if self._pipeline.is_delivering_here():", "if False:"),),
        ("tests/client/test_futures.py",),
    ),
    Mutant(
        "a future's condition is made while all others are locked out",
        (),
        (Patch("calls.py", "LeanFuture._condition", "self._own_condition or new", "threading.Condition()"),),
        ("tests/client/test_futures.py",),
    ),
    Mutant(
        "a future is done before its result is there",
        (),
        (
            Patch(
                "calls.py",
                "LeanFuture.settle",
                "self._result, self._exception = result, exception",
                "self._state = FINISHED\nself._invoke_callbacks()\nself._result, self._exception = result, exception",
            ),
        ),
        ("tests/client/test_futures.py",),
    ),
    Mutant(
        "a write overtakes those that a window of unknown size may have shut out",
        (55,),
        (Patch(_PIPELINE, "Pipeline._send_writes", "connection.probe = message", "pass"),),
        ("tests/client/test_pipeline.py",),
    ),
    Mutant(
        "a call whose sending is left to another thread has no deadline",
        (),
        (
            Patch(
                _PIPELINE,
                "Pipeline.submit",
                "self._have_it_watched()",
                "if not self._delivering:\n    self._have_it_watched()",
            ),
        ),
        ("tests/client/test_pipeline.py",),
    ),
    Mutant(
        "nobody watches over the stream of a client that was idle",
        (44,),
        (Patch(_PIPELINE, "Pipeline._have_it_watched", "self._is_asleep or", ""),),
        ("tests/client/test_leader.py",),
    ),
    Mutant(
        "a stream that was not taken leaves its writes in doubt",
        (48,),
        (Patch(_PIPELINE, "Pipeline._leave", "call.doubt = call.doubt or not is_refused", "call.doubt = True"),),
        ("tests/client/test_exactly_once.py",),
    ),
    Mutant(
        "a stream that was taken is believed that nothing has been done",
        (48,),
        (Patch(_PIPELINE, "Pipeline._ended", "and not connection.is_answered", ""),),
        ("tests/client/test_exactly_once.py",),
    ),
    Mutant(
        "what something on the way says is taken for a member's word",
        (48,),
        (Patch(_PIPELINE, "Pipeline._ended", "is_refused and NOT_TAKEN in details", "is_refused"),),
        ("tests/client/test_exactly_once.py",),
    ),
    Mutant(
        "a closed client is sure that what it has sent was not applied",
        (48,),
        (Patch(_PIPELINE, "Pipeline.close", "call.doubt = call.doubt or call.state is FLYING", "pass"),),
        ("tests/client/test_program.py",),
    ),
    Mutant(
        "after Ctrl-C a program is told that nothing was done, whatever was",
        (48,),
        (Patch("repl.py", "_interrupted", "OutcomeUnknown if isinstance(error, OutcomeUnknown) else", ""),),
        ("tests/client/test_program.py",),
    ),
    Mutant(
        "what has been answered is asked for again, along with what has not",
        (48,),
        (
            Patch(
                _PIPELINE,
                "Pipeline._settle_reads",
                "self._outbox.send_again(again)",
                "self._outbox.send_again(calls if again else [])",
            ),
        ),
        ("tests/client/test_pipeline.py",),
    ),
    Mutant(
        "an answer brings back a read that was given up",
        (48,),
        (Patch(_PIPELINE, "Pipeline._settle_reads", "if call.state is OVER:\n    continue", "pass"),),
        ("tests/client/test_pipeline.py",),
    ),
]
