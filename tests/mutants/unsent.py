"""Mutants of the bound on answers that clients do not take (hazard 50)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_BOUNDS, _STREAM, _SERVER, _SERVICE = "bounds.py", "client_stream.py", "server.py", "service.py"
_PIPELINE, _CONNECTION = "pipeline.py", "connection.py"
_CLIENT = ("tests/client/test_pipeline.py",)
_UNSENT, _STREAMS = ("tests/node/test_unsent.py",), ("tests/node/test_client_stream.py",)


def _mutant(name: str, *patch: str, tests: tuple[str, ...] = _UNSENT) -> Mutant:
    return Mutant(name, (50,), (Patch(*patch),), tests)


UNSENT = [
    _mutant(
        "a stream has any number of answers unsent",
        *(_STREAM, "ClientStream._make_room", "self._unsent < MAX_UNANSWERED_REQUESTS", "True"),
        tests=_STREAMS,
    ),
    _mutant(
        "a stream's answers are counted and not weighed",
        *(_STREAM, "ClientStream._make_room", "and not self._is_full()", ""),
    ),
    _mutant(
        "a stream has as much unsent as others leave it",
        *(_STREAM, "ClientStream._is_full", "unsent >= MAX_UNSENT_OF_STREAM or", ""),
    ),
    _mutant(
        "a stream goes on with large answers while room is short",
        *(_STREAM, "ClientStream._is_full", "or self._service.answers.is_short", ""),
    ),
    _mutant(
        "small answers wait for large ones of others",
        *(_STREAM, "ClientStream._is_full", "unsent >= SMALL_ANSWER_BYTES and", ""),
    ),
    _mutant(
        "reads that waited together are all answered",
        *(_STREAM, "ClientStream._read_keys", "if self._is_full():", "if False:"),
    ),
    _mutant(
        "what a stream reads takes no room",
        *(_STREAM, "ClientStream._read_keys", "self._service.answers.take(found.size)", "pass"),
    ),
    _mutant(
        "room is taken when the values have been copied",
        *(
            _STREAM,
            "ClientStream._read_keys",
            "self._service.answers.take(found.size)\n"
            "self.answer(_values(id, len(keys), found.values(), refused), found.size)",
            "reply = _values(id, len(keys), found.values(), refused)\n"
            "self._service.answers.take(found.size)\n"
            "self.answer(reply, found.size)",
        ),
    ),
    _mutant(
        "a stream lists keys without room for them",
        *(_STREAM, "ClientStream._list_keys", "self._service.answers.take(size)", "pass"),
    ),
    _mutant(
        "what a stream has taken counts twice",
        *(
            _STREAM,
            "ClientStream.answer",
            "self._service.answers.count(size, taken)",
            "self._service.answers.count(size)",
        ),
    ),
    _mutant(
        "an answer that is sent counts for ever",
        *(_STREAM, "ClientStream.sent", "self._service.answers.give_back(size)", "pass"),
    ),
    _mutant(
        "a stream keeps what it has sent as its own",
        *(_STREAM, "ClientStream.sent", "self._unsent_bytes -= size", "pass"),
    ),
    _mutant(
        "a client that has gone keeps its room",
        *(_STREAM, "ClientStream.vanish", "self._service.answers.give_back(size)", "pass"),
    ),
    _mutant(
        "a client that has gone gives its room back twice",
        *(_STREAM, "ClientStream.sent", "size = 0", "pass"),
    ),
    _mutant(
        "what is answered to a client that has gone takes room for ever",
        *(_STREAM, "ClientStream.answer", "0 if self._has_gone else len(data)", "len(data)"),
    ),
    _mutant(
        "a stream that has ended is kept",
        *(_STREAM, "ClientStream.read", "self._service.answers.forget(self)", "pass"),
    ),
    _mutant(
        "a stream that reads counts as stuck",
        *(
            _STREAM,
            "ClientStream.sent",
            "self._stands_since = time.monotonic()",
            "pass",
        ),
    ),
    _mutant(
        "who has little unsent is disconnected",
        *(_BOUNDS, "AnswerBudget.disconnect_stuck", "size > SMALL_ANSWER_BYTES and", ""),
    ),
    _mutant(
        "who takes nothing is never disconnected",
        *(_SERVICE, "_Overdue._watch", "self._answers.disconnect_stuck(now - self._seconds)", "pass"),
    ),
    _mutant(
        "who takes nothing is disconnected at once",
        *(_BOUNDS, "AnswerBudget.disconnect_stuck", "stands_since + size / SLOWEST_BYTES_PER_S < since", "True"),
    ),
    _mutant(
        "who takes nothing is disconnected though there is room",
        *(_BOUNDS, "AnswerBudget.disconnect_stuck", "if not self.is_short:", "if False:"),
    ),
    _mutant(
        "a client that reads over a slow link is disconnected",
        *(_BOUNDS, "AnswerBudget.disconnect_stuck", "size / SLOWEST_BYTES_PER_S", "0.0"),
    ),
    _mutant(
        "all that take nothing are disconnected for the room of one",
        *(
            _BOUNDS,
            "AnswerBudget.disconnect_stuck",
            "for holder in self._holders.copy():\n    if not self.is_short:",
            "for holder in self._holders.copy() if self.is_short else ():\n    if False:",
        ),
    ),
    _mutant(
        "a stream that is disconnected gives its room back later",
        *(_STREAM, "ClientStream.disconnect", "self.vanish()", "pass"),
    ),
    _mutant(
        "a single call that is disconnected gives its room back later",
        *(_SERVER, "_Response.disconnect", "self.ended()", "pass"),
    ),
    _mutant(
        "the answers to single calls take no room",
        *(_SERVICE, "Service._read_key", "call.response.admit(found.size)", "pass"),
    ),
    _mutant(
        "a single call lists keys without room for them",
        *(_SERVICE, "Service._list_keys", "call.response.admit(count_keys(keys))", "pass"),
    ),
    _mutant(
        "a single call keeps its room when it has ended",
        *(_SERVER, "_Response.ended", "self._budget.give_back(size)", "pass"),
    ),
    _mutant(
        "a single call that has ended is kept",
        *(_SERVER, "_Response.ended", "self._budget.forget(self)", "pass"),
    ),
    _mutant(
        "a single call that has been given up takes room for ever",
        *(_SERVER, "_Response.admit", "if not self._has_ended:", "if True:"),
    ),
    _mutant(
        "the answers to single calls that nobody takes stay for ever",
        *(_SERVER, "_Response.admit", "self._budget.watch(self)", "pass"),
    ),
    _mutant(
        "large answers leave no room for small ones",
        *(_BOUNDS, "AnswerBudget.is_short", "self._half", "self._limit"),
    ),
    _mutant(
        "one very large answer leaves no room for small ones",
        *(_BOUNDS, "AnswerBudget._has_room_for", "min(large, self._half)", "large"),
    ),
    _mutant(
        "small answers have room without end",
        *(_BOUNDS, "AnswerBudget._has_room_for", "small + min(large, self._half) + size <= self._limit", "True"),
    ),
    _mutant(
        "an answer without values is refused",
        *(_BOUNDS, "AnswerBudget._has_room_for", "not size or", ""),
    ),
    _mutant(
        "an answer that turns out large counts for ever as a small one",
        *(_BOUNDS, "AnswerBudget.count", "self._used[taken > SMALL_ANSWER_BYTES]", "self._used[True]"),
    ),
    _mutant(
        "small answers count as large ones",
        *(_BOUNDS, "AnswerBudget.take", "self._used[size > SMALL_ANSWER_BYTES]", "self._used[True]"),
    ),
    _mutant(
        "large answers have room without end",
        *(_BOUNDS, "AnswerBudget._has_room_for", "not self.is_short", "True"),
    ),
    _mutant(
        "a read that finds no room ends its stream",
        *(
            _PIPELINE,
            "Pipeline._settle_refused",
            "if reply.code == _EXHAUSTED and not message.is_write:",
            "if False:",
        ),
        tests=_CLIENT,
    ),
    _mutant(
        "a write that finds no room leaves the stream open",
        *(_PIPELINE, "Pipeline._settle_refused", "and not message.is_write", ""),
        tests=(*_CLIENT, "tests/client/test_exactly_once.py"),
    ),
    _mutant(
        "reads are not held back where there is no room",
        *(_CONNECTION, "Connection.has_room", "if not is_write and self.reads_not_before", "if False"),
        tests=_CLIENT,
    ),
    _mutant(
        "writes are held back with reads",
        *(_CONNECTION, "Connection.has_room", "not is_write and self.reads_not_before", "self.reads_not_before"),
        tests=_CLIENT,
    ),
    _mutant(
        "the pauses between reads do not grow",
        *(_PIPELINE, "Pipeline._hold_reads_back", "self._pause(connection.reads_backoff)", "self._pause(None)"),
        tests=_CLIENT,
    ),
    _mutant(
        "the pauses between reads grow for ever",
        *(
            _PIPELINE,
            "Pipeline._settle_reads",
            "connection.reads_backoff, connection.reads_not_before = None, 0.0",
            "pass",
        ),
        tests=_CLIENT,
    ),
]
