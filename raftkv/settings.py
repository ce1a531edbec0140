"""What each part of a node gets of the settings in config.ini. (config.py reads and checks the file.)"""

from __future__ import annotations

from typing import Final

from raftkv.config import NodeConfig
from raftkv.operations import TermSettings, encode_settings
from raftkv.raft import core
from raftkv.server import ServerLimits
from raftkv.service import ServiceLimits
from raftkv.snapshots import SnapshotPolicy
from raftkv.transport import SLOWEST_LINK, SendingLimits

_ENTRY_OVERHEAD: Final = 10
"""How much larger an entry may be on the wire than its payload: the shortest, of 5 bytes, takes less than 50."""


def core_config(config: NodeConfig, cluster_id: bytes) -> core.Config:
    settings = TermSettings(
        cluster_id,
        config.max_sessions,
        int(config.session_timeout * 1000),
        config.max_unanswered,
        config.max_state_bytes,
    )
    return core.Config(
        election_timeout=config.election_timeout,
        heartbeat_interval=config.heartbeat_interval,
        lease_duration=config.lease_duration if config.leases else 0.0,
        clock_drift=config.clock_drift,
        max_append_bytes=config.max_append_bytes,
        max_appends_in_flight=config.max_appends_in_flight,
        append_timeout=config.peer_timeout + (config.max_append_bytes + config.max_batch_bytes) / SLOWEST_LINK,
        term_settings=encode_settings(settings),
    )


def snapshot_policy(config: NodeConfig) -> SnapshotPolicy:
    return SnapshotPolicy(
        log_bytes=config.snapshot_log_bytes,
        log_entries=config.snapshot_log_entries,
        kept_log_bytes=config.kept_log_bytes,
    )


def _max_message_bytes(config: NodeConfig) -> int:
    """What fits any message that a correct member or client sends: AppendEntries counts only payloads (hazard 58)."""
    largest = _ENTRY_OVERHEAD * config.max_append_bytes + config.max_batch_bytes + (1 << 20)
    return largest if largest < 1 << 31 else -1


def service_limits(config: NodeConfig) -> ServiceLimits:
    return ServiceLimits(
        max_key_bytes=config.max_key_bytes,
        max_value_bytes=config.max_value_bytes,
        max_batch_bytes=config.max_batch_bytes,
        max_batch_operations=config.max_batch_operations,
        max_waiting_bytes=config.max_waiting_bytes,
        max_unsent_bytes=config.max_unsent_bytes,
        call_timeout=config.call_timeout,
        peer_timeout=config.peer_timeout,
    )


def sending_limits(config: NodeConfig) -> SendingLimits:
    return SendingLimits(
        timeout=config.peer_timeout,
        max_backoff=config.peer_backoff,
        max_appends=2 * config.max_appends_in_flight,
        max_message_bytes=_max_message_bytes(config),
    )


def server_limits(config: NodeConfig) -> ServerLimits:
    """How the settings bound what a node takes in."""
    return ServerLimits(
        config.client_threads, config.max_waiting_calls, config.max_client_streams, _max_message_bytes(config)
    )
