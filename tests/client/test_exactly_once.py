"""A write is applied at most once, and its failure says no more than is known (DESIGN.md, rules 9 and 12)."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from raftkv.client import Client, Error, NotApplied, OutcomeUnknown
from raftkv.operations import Code
from raftkv.pipeline import NOT_TAKEN, Pipeline
from raftkv.wire.raft_pb2 import ClientReply, ClientRequest
from tests.client.fake_cluster import (
    FakeCluster,
    FakeMember,
    FakeStream,
    Step,
    answer,
    doubtful,
    hang,
    hang_undone,
    lose_reply,
    lose_request,
    refuse,
    then,
    wait_for,
)
from tests.kv.driving import SETTINGS, Driver
from tests.support.processes import wait_until
from tests.support.ways import UNLIKE, Futures, Tasks


def writes(cluster: FakeCluster) -> list[tuple[int, int, int]]:
    """Session, sequence number and mark of each write that arrived at a leader, openings and closings left out."""
    return [
        (batch.session, operation.sequence, batch.lowest_unanswered)
        for batch in (arrived.batch for arrived in cluster.arrived)
        for operation in batch.operations
        if operation.code not in (Code.OPEN_SESSION, Code.CLOSE_SESSION)
    ]


def codes(cluster: FakeCluster) -> list[Code]:
    return [operation.code for arrived in cluster.arrived for operation in arrived.batch.operations]


def version(cluster: FakeCluster, key: bytes = b"key") -> int:
    """How often the key was written."""
    record = cluster.machine.record(key)
    return record.version if record else 0


# ---- retries ---------------------------------------------------------------------------------------------------------


def test_a_reply_lost_and_a_new_leader_apply_the_write_once(cluster: FakeCluster, client: Client) -> None:
    """Hazard 47."""
    client.set("key", "0")
    cluster.next_calls(then(lambda: None, lose_reply), then(lambda: cluster.elect(2), answer))
    client.set("key", "1")
    assert version(cluster) == 2
    first, retry = writes(cluster)[-2:]
    assert first == retry


@pytest.mark.parametrize("step", [lose_reply, lose_request, doubtful, hang, hang_undone])
def test_whatever_becomes_of_the_first_attempt_the_write_is_applied_once(
    cluster: FakeCluster, client: Client, step: Step
) -> None:
    client.set("key", "0")
    cluster.next_calls(step)
    switch = threading.Timer(0.2, cluster.elect, [2])
    switch.start()
    client.set("key", "1")
    switch.join()
    assert version(cluster) == 2


def test_the_answer_to_a_retry_is_the_first_answer(cluster: FakeCluster, client: Client) -> None:
    client.set("other", "")
    cluster.next_calls(lose_reply)
    assert client.set_if_absent("key", "1") is True
    cluster.next_calls(lose_reply)
    assert client.compare_and_set("key", "1", "2") is True
    cluster.next_calls(lose_reply)
    assert client.delete("key") is True


def test_a_lost_reply_to_the_opening_of_a_session_does_no_harm(cluster: FakeCluster, client: Client) -> None:
    cluster.next_calls(lose_reply)
    client.set("key", "1")
    assert version(cluster) == 1


@pytest.mark.parametrize(
    ("way", "seed"), [*((Client, seed) for seed in range(5)), (Futures, 5), (Tasks, 6), (Tasks, 7)]
)
def test_random_faults_never_apply_a_write_twice(cluster: FakeCluster, seed: int, way: type[Client]) -> None:
    rng = random.Random(seed)
    faults = [answer, answer, lose_reply, lose_request, doubtful, refuse(grpc.StatusCode.RESOURCE_EXHAUSTED)]
    cluster.next_calls(*(rng.choice(faults) for _ in range(300)))
    with way(cluster.addresses, timeout=30) as client:

        def append_to_chain(key: bytes) -> None:
            """Each write needs the one before it: one missing or applied twice breaks the chain."""
            assert client.set_if_absent(key, "0")
            for i in range(10):
                assert client.compare_and_set(key, str(i), str(i + 1)), f"replay: seed {seed}"

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(append_to_chain, [b"a", b"b", b"c", b"d"]))
    assert [version(cluster, key) for key in (b"a", b"b", b"c", b"d")] == [11] * 4


# ---- sequence numbers and the mark -----------------------------------------------------------------------------------


def test_each_write_takes_the_next_number_and_reads_take_none(cluster: FakeCluster, client: Client) -> None:
    for i in range(3):
        client.set("key", str(i))
        client.get("key")
    session = writes(cluster)[0][0]
    assert writes(cluster) == [(session, 1, 1), (session, 2, 2), (session, 3, 3)]
    assert codes(cluster).count(Code.OPEN_SESSION) == 1


def test_the_mark_stays_at_the_lowest_number_that_any_thread_still_uses(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "")
    release = threading.Event()
    cluster.next_calls(wait_for(release))
    slow = threading.Thread(target=client.set, args=("slow", ""))
    slow.start()
    wait_until(lambda: not cluster._script, "the slow write has arrived")
    for _ in range(3):
        client.set("key", "")
    assert [(sequence, mark) for _, sequence, mark in writes(cluster)[1:]] == [(3, 2), (4, 2), (5, 2)]
    release.set()
    slow.join()
    client.set("key", "")
    assert writes(cluster)[-1][1:] == (6, 6)


def test_the_mark_passes_a_write_that_was_given_up(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the stream may be left for the missing answer just when the last write is on it, which then goes out twice.
    monkeypatch.setattr(Pipeline, "_look_after", lambda self, connection: None)
    with Client(cluster.addresses, timeout=1) as client:
        client.set("key", "0")
        cluster.next_calls(*[hang_undone])
        with pytest.raises(OutcomeUnknown):
            client.set("key", "1")
        client.set("key", "2")
    assert [(sequence, mark) for _, sequence, mark in writes(cluster)] == [(1, 1), (3, 3)]


def test_a_write_that_was_given_up_is_refused_when_it_arrives_after_a_later_one(cluster: FakeCluster) -> None:
    release, arrived = threading.Event(), threading.Event()
    with Client(cluster.addresses, timeout=1) as client:
        client.set("key", "0")
        cluster.next_calls(then(arrived.set, wait_for(release)))
        with pytest.raises(OutcomeUnknown):
            client.set("key", "late")
        client.set("key", "later")
        release.set()
        wait_until(lambda: len(writes(cluster)) == 3, "the copy that was on its way has arrived")
        assert client.get("key") == b"later"
    assert version(cluster) == 2


def test_a_full_session_makes_a_write_wait_for_those_before_it(way: type[Client]) -> None:
    """The session keeps four answers (driving.py): while one call is stuck, the others can't go on for ever."""
    assert SETTINGS.max_unanswered == 4
    with FakeCluster(driver=Driver(SETTINGS)) as cluster, way(cluster.addresses, timeout=5) as client:
        client.set("key", "")
        release = threading.Event()
        cluster.next_calls(wait_for(release))
        with ThreadPoolExecutor(2) as pool:
            slow = pool.submit(client.set, "slow", "")
            wait_until(lambda: not cluster._script, "the slow write has arrived")
            others = pool.submit(lambda: [client.set_if_absent(f"other{i}", "") for i in range(8)])
            wait_until(lambda: len(writes(cluster)) > 4, "a write is refused")
            assert len(cluster.machine) == 4
            release.set()
            slow.result()
            others.result()
    assert len(cluster.machine) == 10


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_threads_that_write_first_open_one_session(cluster: FakeCluster, client: Client) -> None:
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda i: client.set(f"key{i}", ""), range(20)))
    assert codes(cluster).count(Code.OPEN_SESSION) == 1
    assert len({session for session, _, _ in writes(cluster)}) == 1


def test_reading_opens_no_session(cluster: FakeCluster, way: type[Client]) -> None:
    with way(cluster.addresses) as client:
        client.get("key")
        client.keys()
        client.status()
    assert cluster.arrived == []


def test_closing_the_client_closes_the_session(cluster: FakeCluster, way: type[Client]) -> None:
    with way(cluster.addresses) as client:
        client.set("key", "")
    assert codes(cluster)[-1] is Code.CLOSE_SESSION
    assert not cluster.machine._sessions


def test_after_its_session_has_expired_a_write_goes_out_in_a_new_one(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "0")
    cluster.expire_sessions()
    client.set("key", "1")
    assert version(cluster) == 2
    assert len({session for session, _, _ in writes(cluster)}) == 2


def test_a_session_expired_for_many_threads_is_opened_anew_once(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "0")
    cluster.expire_sessions()
    opened = codes(cluster).count(Code.OPEN_SESSION)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: client.set(f"key{i}", ""), range(4)))
    assert codes(cluster).count(Code.OPEN_SESSION) == opened + 1


@pytest.mark.parametrize("step", [lose_reply, lose_request, doubtful])
def test_a_session_that_expires_between_two_attempts_leaves_the_outcome_unknown(
    cluster: FakeCluster, client: Client, step: Step
) -> None:
    """Hazard 56: the retry is not applied as if it were new, for the first attempt may have been applied."""
    client.set("key", "0")
    before = version(cluster)
    cluster.next_calls(step, then(cluster.expire_sessions, answer))
    with pytest.raises(OutcomeUnknown, match="the session has expired; the write may have been applied") as caught:
        client.set("key", "1")
    assert caught.value.code == "ABORTED"
    assert version(cluster) == before + (step is not lose_request)
    client.set("key", "2")  # and the client goes on, in a new session


@pytest.mark.parametrize(
    "steps",
    [
        [refuse(grpc.StatusCode.RESOURCE_EXHAUSTED)],
        [refuse(grpc.StatusCode.RESOURCE_EXHAUSTED), refuse(grpc.StatusCode.RESOURCE_EXHAUSTED)],
    ],
)
def test_a_session_that_expires_after_attempts_that_did_nothing_leaves_no_doubt(
    cluster: FakeCluster, client: Client, steps: list[Step]
) -> None:
    client.set("key", "0")
    cluster.next_calls(*steps, then(cluster.expire_sessions, answer))
    client.set("key", "1")
    assert version(cluster) == 2


def test_sessions_that_never_last_fail_the_write_in_time() -> None:
    with FakeCluster(driver=Driver(settings=None)) as cluster, Client(cluster.addresses, timeout=1) as client:
        start = time.monotonic()
        with pytest.raises(NotApplied, match="; the write was not applied"):
            client.set("key", "0")
        assert time.monotonic() - start < 2
        assert len(cluster.arrived) < 50


# ---- definite or unknown ---------------------------------------------------------------------------------------------


def failure_of_a_write(cluster: FakeCluster, *steps: Step, way: type[Client] = Client) -> Error:
    """The error of the second write of a client, whose attempts go as the steps say; it comes in time."""
    with way(cluster.addresses, timeout=1) as client:
        client.set("key", "0")
        cluster.next_calls(*steps)
        start = time.monotonic()
        with pytest.raises(Error) as caught:
            client.set("key", "1")
        assert time.monotonic() - start < 2
    return caught.value


@pytest.mark.parametrize("way", UNLIKE)
@pytest.mark.parametrize("step", [hang, hang_undone])
def test_no_answer_in_time_is_unknown(cluster: FakeCluster, way: type[Client], step: Step) -> None:
    error = failure_of_a_write(cluster, step, way=way)
    assert isinstance(error, OutcomeUnknown)
    assert error.code == "DEADLINE_EXCEEDED"
    assert str(error).endswith("(gave up after 1 s); the write may have been applied")


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"])
def test_a_status_that_says_nothing_is_tried_again_and_then_unknown(cluster: FakeCluster, code: str) -> None:
    error = failure_of_a_write(cluster, *[refuse(grpc.StatusCode[code])] * 100)
    assert isinstance(error, OutcomeUnknown)
    # On a busy machine the last attempt may be cut short by the end of the time.
    assert error.code in (code, "DEADLINE_EXCEEDED", "UNAVAILABLE")


def test_an_overloaded_server_is_tried_again_and_then_definite(cluster: FakeCluster) -> None:
    error = failure_of_a_write(cluster, *[refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")] * 100)
    assert isinstance(error, NotApplied)
    assert error.code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
    cluster._script.clear()
    with Client(cluster.addresses) as client:
        cluster.next_calls(*[refuse(grpc.StatusCode.RESOURCE_EXHAUSTED)] * 3)
        client.set("key", "2")


def test_a_new_stream_that_something_on_the_way_ends_leaves_its_write_in_doubt(cluster: FakeCluster) -> None:
    """A member that takes no stream says RESOURCE_EXHAUSTED, and that nothing has been done. gRPC makes the same status
    of what a proxy says (HTTP/2's ENHANCE_YOUR_CALM), and then nobody knows."""

    def lose_reply_to_a_proxy(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
        answer(member, request, stream)
        stream.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "RST_STREAM with error code 11")
        return None

    elsewhere = refuse(grpc.StatusCode.FAILED_PRECONDITION)
    error = failure_of_a_write(cluster, elsewhere, lose_reply_to_a_proxy, *[elsewhere] * 100)
    assert version(cluster) == 2
    assert isinstance(error, OutcomeUnknown)


def end_stream(code: grpc.StatusCode, details: str) -> Step:
    """The request gets no answer, and the stream this status."""

    def step(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
        stream.end(code, details)
        return None

    return step


def test_a_write_on_streams_that_no_member_takes_has_definitely_not_been_applied(cluster: FakeCluster) -> None:
    not_taken = end_stream(grpc.StatusCode.RESOURCE_EXHAUSTED, f"too many streams; {NOT_TAKEN}")
    error = failure_of_a_write(cluster, refuse(grpc.StatusCode.FAILED_PRECONDITION), *[not_taken] * 100)
    assert isinstance(error, NotApplied)


@pytest.mark.parametrize(
    ("before", "code"),
    [([], grpc.StatusCode.RESOURCE_EXHAUSTED), ([grpc.StatusCode.FAILED_PRECONDITION], grpc.StatusCode.UNAVAILABLE)],
)
def test_a_stream_that_was_taken_or_ends_otherwise_leaves_its_write_in_doubt_whatever_it_says(
    cluster: FakeCluster, before: list[grpc.StatusCode], code: grpc.StatusCode
) -> None:
    """The stream of the first write has been answered; after a refusal there is a new one."""
    later = [refuse(grpc.StatusCode.FAILED_PRECONDITION)] * 100
    error = failure_of_a_write(cluster, *map(refuse, before), end_stream(code, NOT_TAKEN), *later)
    assert isinstance(error, OutcomeUnknown)


def test_a_member_that_says_that_it_does_not_lead_has_done_nothing(cluster: FakeCluster) -> None:
    error = failure_of_a_write(cluster, *[refuse(grpc.StatusCode.FAILED_PRECONDITION, "not the leader")] * 100)
    assert isinstance(error, NotApplied)
    assert not isinstance(error, ValueError)
    assert error.code in ("FAILED_PRECONDITION", "DEADLINE_EXCEEDED")


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED]
)
def test_once_an_attempt_is_in_doubt_no_later_refusal_makes_the_write_definite(
    cluster: FakeCluster, code: grpc.StatusCode
) -> None:
    error = failure_of_a_write(cluster, lose_reply, *[refuse(code)] * 100)
    assert isinstance(error, OutcomeUnknown)
    assert version(cluster) == 2


@pytest.mark.parametrize("way", UNLIKE)
def test_losing_the_leader_for_good_after_the_write_was_sent_is_unknown(
    cluster: FakeCluster, way: type[Client]
) -> None:
    """Hazard 48."""
    error = failure_of_a_write(cluster, then(lambda: cluster.elect(0), lose_request), way=way)
    assert isinstance(error, OutcomeUnknown)


@pytest.mark.parametrize("way", UNLIKE)
def test_a_write_that_no_leader_took_is_definite(cluster: FakeCluster, way: type[Client]) -> None:
    error = failure_of_a_write(cluster, then(lambda: cluster.elect(0), answer), way=way)
    assert isinstance(error, NotApplied)
    assert error.code == "UNAVAILABLE"


@pytest.mark.parametrize("way", UNLIKE)
def test_a_write_begun_when_all_are_long_gone_is_definite(cluster: FakeCluster, way: type[Client]) -> None:
    with way(cluster.addresses, timeout=1) as client:
        client.set("key", "0")
        for member in cluster.members.values():
            member.kill()
        wait_until(lambda: client._pipeline._connection is None, "the client knows that its stream has ended")
        # What the client believed about the leader is older than it trusts in.
        client._router._heard -= 10
        with pytest.raises(NotApplied, match="no member answers"):
            client.set("key", "1")


@pytest.mark.parametrize("way", UNLIKE)
def test_failing_to_open_a_session_leaves_no_doubt_about_the_write(cluster: FakeCluster, way: type[Client]) -> None:
    cluster.next_calls(*[lose_reply] * 100)
    with way(cluster.addresses, timeout=1) as client, pytest.raises(NotApplied, match="the write was not applied"):
        client.set("key", "1")


@pytest.mark.parametrize("way", UNLIKE)
def test_a_read_that_fails_is_never_unknown(cluster: FakeCluster, way: type[Client]) -> None:
    cluster.next_calls(*[lose_reply] * 100)
    with way(cluster.addresses, timeout=1) as client, pytest.raises(NotApplied, match="nothing was read"):
        client.get("key")


def test_a_read_is_tried_again(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "value")
    cluster.next_calls(lose_request, refuse(grpc.StatusCode.RESOURCE_EXHAUSTED), refuse(grpc.StatusCode.INTERNAL))
    assert client.get("key") == b"value"


def test_an_answer_that_can_not_be_understood_is_unknown(cluster: FakeCluster) -> None:
    def strange(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
        reply = answer(member, request, stream)
        assert reply is not None
        reply.statuses = b"\x63"
        return reply

    error = failure_of_a_write(cluster, strange)
    assert isinstance(error, OutcomeUnknown)
    assert error.code == "INTERNAL"


@pytest.mark.parametrize("way", UNLIKE)
def test_threads_that_give_up_do_not_disturb_the_others(cluster: FakeCluster, way: type[Client]) -> None:
    """Some requests hang for ever; the calls in them, and those that wait behind them, end in time."""
    with way(cluster.addresses, timeout=1) as client:
        client.set("key", "0")
        cluster.next_calls(*[hang_undone] * 3)
        outcomes: list[str] = []

        def write(i: int) -> None:
            try:
                client.set(f"key{i}", "")
                outcomes.append("done")
            except OutcomeUnknown:
                outcomes.append("unknown")
            except NotApplied as error:
                outcomes.append(error.code)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(16)))
        client.set("after", "")
    assert outcomes.count("unknown") >= 3
    assert set(outcomes) <= {"unknown", "done", "DEADLINE_EXCEEDED"}
