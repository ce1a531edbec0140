"""Having another member lead, as clients ask for it."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest

from raftkv.async_client import AsyncClient
from raftkv.client import Client, NotApplied, OutcomeUnknown
from tests.client.fake_cluster import FakeCluster
from tests.client.test_program import json_replies, run
from tests.support.processes import free_addresses


def test_the_leader_hands_over_and_the_client_follows(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "1")

    assert client.transfer_leadership(3) == 3

    client.set("key", "2")
    assert cluster.leader_id == 3
    assert cluster.arrived[-1].member == 3


def test_without_a_target_somebody_else_leads(cluster: FakeCluster, client: Client) -> None:
    assert client.transfer_leadership() == cluster.leader_id != 1


def test_any_member_may_be_asked_since_the_client_finds_the_leader(cluster: FakeCluster) -> None:
    cluster.elect(2)
    with Client([cluster.addresses[2]]) as client:
        assert client.transfer_leadership(1) == 1


def test_a_member_that_leads_already_leads(cluster: FakeCluster, client: Client) -> None:
    assert client.transfer_leadership(1) == 1
    assert cluster.transfers == []


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "node 9 is not a voting member; nothing has been done"),
        (grpc.StatusCode.ABORTED, "node 3 has not taken over in time, node 1 goes on leading"),
        (grpc.StatusCode.UNIMPLEMENTED, "an older version"),
    ],
)
def test_a_refusal_is_told_as_it_is(cluster: FakeCluster, client: Client, code: grpc.StatusCode, details: str) -> None:
    cluster.transfer_script = [(code, details)]
    with pytest.raises(NotApplied) as refused:
        client.transfer_leadership(3)
    assert (refused.value.code, str(refused.value)) == (code.name, details)
    assert cluster.transfers == [3]


def test_a_member_that_does_not_lead_any_more_is_not_asked_again(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "1")
    cluster.elect(2)
    assert client.transfer_leadership(3) == 3


def test_an_answer_that_gets_lost_does_not_hand_over_twice(cluster: FakeCluster, client: Client) -> None:
    cluster.transfer_script = [(grpc.StatusCode.UNAVAILABLE, "lost")]
    cluster.transfers_in_spite = True
    assert client.transfer_leadership() == 2
    assert len(cluster.transfers) == 1


def test_if_no_answer_comes_the_outcome_is_unknown(cluster: FakeCluster) -> None:
    cluster.transfer_script = [(grpc.StatusCode.UNAVAILABLE, "lost")] * 1000
    with Client(cluster.addresses, timeout=0.4) as client, pytest.raises(OutcomeUnknown) as unknown:
        client.transfer_leadership(3)
    assert unknown.value.code == "DEADLINE_EXCEEDED"


def test_a_refusal_after_a_lost_answer_is_not_the_last_word(cluster: FakeCluster, client: Client) -> None:
    """It may be due to what has been asked for before, which goes on."""
    cluster.transfer_script = [
        (grpc.StatusCode.UNAVAILABLE, "lost"),
        (grpc.StatusCode.FAILED_PRECONDITION, "leadership is being handed over already; nothing has been done"),
    ]
    with pytest.raises(OutcomeUnknown):
        client.transfer_leadership(3)


def test_without_a_leader_nothing_is_done() -> None:
    says = r"no member answers at .* \(gave up after 0.3 s\); nothing has been done"
    with Client(free_addresses(1), timeout=0.3) as client, pytest.raises(NotApplied, match=says):
        client.transfer_leadership()


@pytest.mark.parametrize("target", [0, -1, 1 << 64, True, "3", 3.0])
def test_a_target_is_a_members_id(client: Client, target: object) -> None:
    with pytest.raises(NotApplied) as refused:
        client.transfer_leadership(target)  # type: ignore[arg-type]
    assert isinstance(refused.value, ValueError | TypeError)


def test_a_client_that_is_closed_hands_nothing_over(cluster: FakeCluster) -> None:
    client = Client(cluster.addresses)
    client.close()
    with pytest.raises(NotApplied, match="closed"):
        client.transfer_leadership()
    assert cluster.transfers == []


def test_closing_the_client_ends_a_search_for_the_leader(cluster: FakeCluster) -> None:
    cluster.elect(0)
    client = Client(cluster.addresses)
    failed = threading.Event()

    def ask() -> None:
        with pytest.raises(NotApplied):
            client.transfer_leadership()
        failed.set()

    threading.Thread(target=ask).start()
    client.close()
    assert failed.wait(5)


def test_asyncio_may_ask_too(cluster: FakeCluster) -> None:
    async def ask() -> int:
        async with AsyncClient(cluster.addresses) as client:
            leader = await client.transfer_leadership(3)
        with pytest.raises(NotApplied):
            await client.transfer_leadership()
        return leader

    assert asyncio.run(ask()) == 3


# ---- the program -----------------------------------------------------------------------------------------------------


def test_the_command_says_who_leads_then(cluster: FakeCluster) -> None:
    done = run(*cluster.addresses, "-c", "TRANSFER 3", "-c", "transfer 2")
    assert done.out.decode() == "node 3 leads\nnode 2 leads\n"
    assert done.status == 0


def test_the_command_needs_no_target(cluster: FakeCluster) -> None:
    assert json_replies(*cluster.addresses, "-c", "TRANSFER") == [{"ok": True, "value": "node 2 leads"}]


def test_a_refusal_is_one_clear_line(cluster: FakeCluster) -> None:
    refusal = (grpc.StatusCode.FAILED_PRECONDITION, "node 9 is not a voting member; nothing has been done")
    cluster.transfer_script = [refusal, refusal]
    done = run(*cluster.addresses, "-c", "TRANSFER 9")
    [reply] = json_replies(*cluster.addresses, "-c", "TRANSFER 9")
    assert done.out.decode() == "ERROR FAILED_PRECONDITION: node 9 is not a voting member; nothing has been done\n"
    assert done.status == 1
    assert (reply["code"], reply["outcome"]) == ("FAILED_PRECONDITION", "not_applied")


@pytest.mark.parametrize("line", ["TRANSFER three", "TRANSFER 0", "TRANSFER -1", "TRANSFER 1 2"])
def test_what_is_no_id_is_told_so(cluster: FakeCluster, line: str) -> None:
    done = run(*cluster.addresses, "-c", line)
    assert done.out.decode().startswith("ERROR INVALID_ARGUMENT: expected TRANSFER [id]")
    assert cluster.transfers == []
