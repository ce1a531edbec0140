"""What is set in config.ini reaches the part of the node that it is about."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from raftkv.config import NodeConfig
from raftkv.operations import TermSettings, decode_settings
from raftkv.raft import core
from raftkv.server import ServerLimits
from raftkv.service import ServiceLimits
from raftkv.settings import core_config, sending_limits, server_limits, service_limits, snapshot_policy
from raftkv.snapshots import SnapshotPolicy
from raftkv.transport import SLOWEST_LINK, SendingLimits

CLUSTER = b"c" * 16
SET = NodeConfig(
    lease_duration=0.7,
    clock_drift=0.02,
    election_timeout=1.5,
    heartbeat_interval=0.3,
    max_key_bytes=101,
    max_value_bytes=1002,
    max_batch_bytes=10_003,
    max_batch_operations=104,
    max_append_bytes=1005,
    max_appends_in_flight=6,
    peer_timeout=2.5,
    peer_backoff=1.25,
    max_waiting_calls=107,
    max_client_streams=108,
    max_waiting_bytes=100_008,
    max_unsent_bytes=1_100_009,
    call_timeout=9.5,
    client_threads=10,
    session_timeout=12.5,
    max_sessions=111,
    max_unanswered=112,
    snapshot_log_bytes=10_013,
    snapshot_log_entries=114,
    kept_log_bytes=10_015,
    max_state_bytes=113,
)
"""No two of them alike."""


def test_the_algorithm_gets_its_settings() -> None:
    made = core_config(SET, CLUSTER)
    assert made == core.Config(
        election_timeout=1.5,
        heartbeat_interval=0.3,
        lease_duration=0.7,
        clock_drift=0.02,
        max_append_bytes=1005,
        max_appends_in_flight=6,
        append_timeout=made.append_timeout,
        term_settings=made.term_settings,
    )
    assert decode_settings(made.term_settings) == TermSettings(
        CLUSTER, max_sessions=111, session_timeout_ms=12_500, max_unanswered=112, max_state_bytes=113
    )


def test_entries_count_as_lost_only_after_the_call_that_carries_them_has_ended() -> None:
    """The call is given more time for its size; what is sent again meanwhile would only slow down a slow link."""
    largest_bytes = SET.max_append_bytes + SET.max_batch_bytes
    assert core_config(SET, CLUSTER).append_timeout >= SET.peer_timeout + largest_bytes / SLOWEST_LINK


def test_without_leases_none_is_asked_for() -> None:
    assert core_config(replace(SET, leases=False), CLUSTER).lease_duration == 0


def test_the_service_gets_its_limits() -> None:
    assert service_limits(SET) == ServiceLimits(
        max_key_bytes=101,
        max_value_bytes=1002,
        max_batch_bytes=10_003,
        max_batch_operations=104,
        max_waiting_bytes=100_008,
        max_unsent_bytes=1_100_009,
        call_timeout=9.5,
        peer_timeout=2.5,
    )


def test_the_senders_get_their_limits() -> None:
    made = sending_limits(SET)
    assert made == SendingLimits(
        timeout=2.5, max_backoff=1.25, max_appends=made.max_appends, max_message_bytes=made.max_message_bytes
    )
    assert made.max_appends > SET.max_appends_in_flight, "a reply may overtake another"


def test_the_server_gets_its_limits() -> None:
    made = server_limits(SET)
    assert made == ServerLimits(
        client_threads=10, max_waiting_calls=107, max_streams=108, max_message_bytes=made.max_message_bytes
    )


def test_snapshots_are_saved_as_often_as_is_set() -> None:
    assert snapshot_policy(SET) == SnapshotPolicy(log_bytes=10_013, log_entries=114, kept_log_bytes=10_015)


def test_a_limit_that_grpc_could_not_take_is_none() -> None:
    assert server_limits(NodeConfig(max_append_bytes=1 << 30)).max_message_bytes == -1


@pytest.mark.parametrize("name", [field.name for field in fields(NodeConfig) if field.name != "segment_bytes"])
def test_every_setting_makes_a_difference(name: str) -> None:
    old: Any = getattr(SET, name)
    other: Any = not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else old * 1.25
    changed = replace(SET, **{name: other})
    made, changed_made = (
        (
            core_config(config, CLUSTER),
            service_limits(config),
            sending_limits(config),
            server_limits(config),
            snapshot_policy(config),
        )
        for config in (SET, changed)
    )
    assert made != changed_made
