"""Mutants of the bound on answers that clients do not take (hazard 50)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_BOUNDS, _STREAM, _SERVER, _SERVICE = "bounds.py", "client_stream.py", "server.py", "service.py"
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
        *(_STREAM, "ClientStream._read_keys", "self._service.answers.take(found.size, patience)", "pass"),
    ),
    _mutant(
        "room is taken when the values have been copied",
        *(
            _STREAM,
            "ClientStream._read_keys",
            "self._service.answers.take(found.size, patience)\n"
            "self.answer(_values(id, len(keys), found.values(), refused), found.size)",
            "reply = _values(id, len(keys), found.values(), refused)\n"
            "self._service.answers.take(found.size, patience)\n"
            "self.answer(reply, found.size)",
        ),
    ),
    _mutant(
        "a stream's read is refused though room is about to come",
        *(_STREAM, "ClientStream._read_keys", "finish(found, _WAIT_FOR_ROOM)", "finish(found)"),
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
            "self._service.answers.count(size - taken)",
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
        *(_STREAM, "ClientStream.sent", "0 if self._has_gone else size", "size"),
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
        "a stream is stuck that has nothing to send",
        *(_STREAM, "ClientStream.is_stuck", "bool(self._unsent_bytes) and", ""),
    ),
    _mutant(
        "who takes nothing is never disconnected",
        *(_SERVICE, "_Overdue._watch", "self._answers.disconnect_stuck(now - self._seconds)", "pass"),
    ),
    _mutant(
        "who takes nothing is disconnected at once",
        *(_BOUNDS, "AnswerBudget.disconnect_stuck", "if holder.is_stuck(since):", "if True:"),
    ),
    _mutant(
        "who takes nothing is disconnected though there is room",
        *(_BOUNDS, "AnswerBudget.disconnect_stuck", "if self.is_short:", "if True:"),
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
        *(_BOUNDS, "AnswerBudget.is_short", "self._limit // 2", "self._limit"),
    ),
    _mutant(
        "small answers have room without end",
        *(_BOUNDS, "AnswerBudget._has_room_for", "self._used + size <= self._limit", "True"),
    ),
    _mutant(
        "large answers have room without end",
        *(_BOUNDS, "AnswerBudget._has_room_for", "not self.is_short", "True"),
    ),
    _mutant(
        "who waits for room is not told that it is there",
        *(_BOUNDS, "AnswerBudget.count", "self._has_room.notify_all()", "pass"),
    ),
]
