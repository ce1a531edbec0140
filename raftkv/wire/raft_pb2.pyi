from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Identity(_message.Message):
    __slots__ = ("cluster_id", "sender", "recipient", "members_digest", "incarnation", "protocol", "recipient_joined", "joined")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_JOINED_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    sender: int
    recipient: int
    members_digest: bytes
    incarnation: bytes
    protocol: int
    recipient_joined: int
    joined: int
    def __init__(self, cluster_id: _Optional[bytes] = ..., sender: _Optional[int] = ..., recipient: _Optional[int] = ..., members_digest: _Optional[bytes] = ..., incarnation: _Optional[bytes] = ..., protocol: _Optional[int] = ..., recipient_joined: _Optional[int] = ..., joined: _Optional[int] = ...) -> None: ...

class LogEntry(_message.Message):
    __slots__ = ("term", "operation", "payload", "time_ms")
    TERM_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    term: int
    operation: str
    payload: bytes
    time_ms: int
    def __init__(self, term: _Optional[int] = ..., operation: _Optional[str] = ..., payload: _Optional[bytes] = ..., time_ms: _Optional[int] = ...) -> None: ...

class AppendEntriesRequest(_message.Message):
    __slots__ = ("term", "leader_id", "prev_log_index", "prev_log_term", "entries", "leader_commit", "lease_duration", "round", "identity")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    PREV_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREV_LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    LEADER_COMMIT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: _containers.RepeatedCompositeFieldContainer[LogEntry]
    leader_commit: int
    lease_duration: int
    round: int
    identity: Identity
    def __init__(self, term: _Optional[int] = ..., leader_id: _Optional[int] = ..., prev_log_index: _Optional[int] = ..., prev_log_term: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[LogEntry, _Mapping]]] = ..., leader_commit: _Optional[int] = ..., lease_duration: _Optional[int] = ..., round: _Optional[int] = ..., identity: _Optional[_Union[Identity, _Mapping]] = ...) -> None: ...

class AppendEntriesReply(_message.Message):
    __slots__ = ("term", "success", "conflicting_term", "conflicting_index", "match_index", "rejected_index", "round", "incarnation", "joined")
    TERM_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    CONFLICTING_TERM_FIELD_NUMBER: _ClassVar[int]
    CONFLICTING_INDEX_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    REJECTED_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    term: int
    success: bool
    conflicting_term: int
    conflicting_index: int
    match_index: int
    rejected_index: int
    round: int
    incarnation: bytes
    joined: int
    def __init__(self, term: _Optional[int] = ..., success: bool = ..., conflicting_term: _Optional[int] = ..., conflicting_index: _Optional[int] = ..., match_index: _Optional[int] = ..., rejected_index: _Optional[int] = ..., round: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., joined: _Optional[int] = ...) -> None: ...

class RequestVoteRequest(_message.Message):
    __slots__ = ("term", "candidate_id", "last_log_index", "last_log_term", "pre_vote", "identity", "released_leader", "released_term")
    TERM_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    RELEASED_LEADER_FIELD_NUMBER: _ClassVar[int]
    RELEASED_TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int
    pre_vote: bool
    identity: Identity
    released_leader: int
    released_term: int
    def __init__(self, term: _Optional[int] = ..., candidate_id: _Optional[int] = ..., last_log_index: _Optional[int] = ..., last_log_term: _Optional[int] = ..., pre_vote: bool = ..., identity: _Optional[_Union[Identity, _Mapping]] = ..., released_leader: _Optional[int] = ..., released_term: _Optional[int] = ...) -> None: ...

class RequestVoteReply(_message.Message):
    __slots__ = ("term", "vote_granted", "remaining_lease", "pre_vote", "incarnation", "joined")
    TERM_FIELD_NUMBER: _ClassVar[int]
    VOTE_GRANTED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_LEASE_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    term: int
    vote_granted: bool
    remaining_lease: int
    pre_vote: bool
    incarnation: bytes
    joined: int
    def __init__(self, term: _Optional[int] = ..., vote_granted: bool = ..., remaining_lease: _Optional[int] = ..., pre_vote: bool = ..., incarnation: _Optional[bytes] = ..., joined: _Optional[int] = ...) -> None: ...

class ServeClientRequest(_message.Message):
    __slots__ = ("request", "batch", "get", "keys")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    GET_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    request: str
    batch: bytes
    get: bytes
    keys: bytes
    def __init__(self, request: _Optional[str] = ..., batch: _Optional[bytes] = ..., get: _Optional[bytes] = ..., keys: _Optional[bytes] = ...) -> None: ...

class OperationResult(_message.Message):
    __slots__ = ("status", "value")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    status: int
    value: int
    def __init__(self, status: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...

class ServeClientReply(_message.Message):
    __slots__ = ("data", "leader_id", "success", "leader_address", "results", "values")
    DATA_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    data: str
    leader_id: int
    success: bool
    leader_address: str
    results: _containers.RepeatedCompositeFieldContainer[OperationResult]
    values: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, data: _Optional[str] = ..., leader_id: _Optional[int] = ..., success: bool = ..., leader_address: _Optional[str] = ..., results: _Optional[_Iterable[_Union[OperationResult, _Mapping]]] = ..., values: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ClientRequest(_message.Message):
    __slots__ = ("id", "batch", "get", "keys")
    ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    GET_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    id: int
    batch: bytes
    get: _containers.RepeatedScalarFieldContainer[bytes]
    keys: bytes
    def __init__(self, id: _Optional[int] = ..., batch: _Optional[bytes] = ..., get: _Optional[_Iterable[bytes]] = ..., keys: _Optional[bytes] = ...) -> None: ...

class ClientReply(_message.Message):
    __slots__ = ("id", "code", "details", "statuses", "session", "refused", "found", "values", "members")
    ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    id: int
    code: int
    details: str
    statuses: bytes
    session: int
    refused: _containers.RepeatedScalarFieldContainer[str]
    found: bytes
    values: _containers.RepeatedScalarFieldContainer[bytes]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, id: _Optional[int] = ..., code: _Optional[int] = ..., details: _Optional[str] = ..., statuses: _Optional[bytes] = ..., session: _Optional[int] = ..., refused: _Optional[_Iterable[str]] = ..., found: _Optional[bytes] = ..., values: _Optional[_Iterable[bytes]] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Member(_message.Message):
    __slots__ = ("id", "address", "is_learner", "is_wiped", "joined", "disk")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IS_LEARNER_FIELD_NUMBER: _ClassVar[int]
    IS_WIPED_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    id: int
    address: str
    is_learner: bool
    is_wiped: bool
    joined: int
    disk: bytes
    def __init__(self, id: _Optional[int] = ..., address: _Optional[str] = ..., is_learner: bool = ..., is_wiped: bool = ..., joined: _Optional[int] = ..., disk: _Optional[bytes] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("id", "role", "term", "leader_id", "commit_index", "applied_index", "last_log_index", "cluster_id", "members", "version", "keys", "revision", "serving", "log_syncs", "first_log_index", "snapshot_index", "state_bytes", "quota_bytes", "membership", "members_digest")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    LOG_SYNCS_FIELD_NUMBER: _ClassVar[int]
    FIRST_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_INDEX_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    id: int
    role: str
    term: int
    leader_id: int
    commit_index: int
    applied_index: int
    last_log_index: int
    cluster_id: bytes
    members: _containers.RepeatedCompositeFieldContainer[Member]
    version: str
    keys: int
    revision: int
    serving: bool
    log_syncs: int
    first_log_index: int
    snapshot_index: int
    state_bytes: int
    quota_bytes: int
    membership: str
    members_digest: bytes
    def __init__(self, id: _Optional[int] = ..., role: _Optional[str] = ..., term: _Optional[int] = ..., leader_id: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., last_log_index: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., version: _Optional[str] = ..., keys: _Optional[int] = ..., revision: _Optional[int] = ..., serving: bool = ..., log_syncs: _Optional[int] = ..., first_log_index: _Optional[int] = ..., snapshot_index: _Optional[int] = ..., state_bytes: _Optional[int] = ..., quota_bytes: _Optional[int] = ..., membership: _Optional[str] = ..., members_digest: _Optional[bytes] = ...) -> None: ...

class ChangeMembershipRequest(_message.Message):
    __slots__ = ("add", "remove")
    ADD_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    add: Member
    remove: int
    def __init__(self, add: _Optional[_Union[Member, _Mapping]] = ..., remove: _Optional[int] = ...) -> None: ...

class ChangeMembershipReply(_message.Message):
    __slots__ = ("success", "leader_id", "leader_address")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    leader_id: int
    leader_address: str
    def __init__(self, success: bool = ..., leader_id: _Optional[int] = ..., leader_address: _Optional[str] = ...) -> None: ...

class InstallSnapshotRequest(_message.Message):
    __slots__ = ("term", "leader_id", "last_index", "last_term", "time_ms", "configuration", "size", "checksum", "identity", "offset", "data", "data_checksum")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DATA_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    term: int
    leader_id: int
    last_index: int
    last_term: int
    time_ms: int
    configuration: bytes
    size: int
    checksum: int
    identity: Identity
    offset: int
    data: bytes
    data_checksum: int
    def __init__(self, term: _Optional[int] = ..., leader_id: _Optional[int] = ..., last_index: _Optional[int] = ..., last_term: _Optional[int] = ..., time_ms: _Optional[int] = ..., configuration: _Optional[bytes] = ..., size: _Optional[int] = ..., checksum: _Optional[int] = ..., identity: _Optional[_Union[Identity, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., data_checksum: _Optional[int] = ...) -> None: ...

class InstallSnapshotReply(_message.Message):
    __slots__ = ("term", "success", "match_index", "next_offset", "done", "incarnation", "joined")
    TERM_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    term: int
    success: bool
    match_index: int
    next_offset: int
    done: bool
    incarnation: bytes
    joined: int
    def __init__(self, term: _Optional[int] = ..., success: bool = ..., match_index: _Optional[int] = ..., next_offset: _Optional[int] = ..., done: bool = ..., incarnation: _Optional[bytes] = ..., joined: _Optional[int] = ...) -> None: ...

class TimeoutNowRequest(_message.Message):
    __slots__ = ("term", "leader_id", "identity")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    term: int
    leader_id: int
    identity: Identity
    def __init__(self, term: _Optional[int] = ..., leader_id: _Optional[int] = ..., identity: _Optional[_Union[Identity, _Mapping]] = ...) -> None: ...

class TimeoutNowReply(_message.Message):
    __slots__ = ("term", "accepted")
    TERM_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    term: int
    accepted: bool
    def __init__(self, term: _Optional[int] = ..., accepted: bool = ...) -> None: ...

class TransferLeadershipRequest(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: int
    def __init__(self, target: _Optional[int] = ...) -> None: ...

class TransferLeadershipReply(_message.Message):
    __slots__ = ("success", "leader_id", "leader_address")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    leader_id: int
    leader_address: str
    def __init__(self, success: bool = ..., leader_id: _Optional[int] = ..., leader_address: _Optional[str] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackupReply(_message.Message):
    __slots__ = ("size", "offset", "data", "data_checksum")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DATA_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    size: int
    offset: int
    data: bytes
    data_checksum: int
    def __init__(self, size: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., data_checksum: _Optional[int] = ...) -> None: ...
