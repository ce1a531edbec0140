"""Messages between members on the wire: theory of operation.

Three things, from the inside out:

* **conversions**, pure functions between the algorithm's messages and protobuf. What a peer sends is checked here, so
  that nothing malformed ever reaches the algorithm (`Malformed` goes back to the peer as INVALID_ARGUMENT);
* **membership**, who this member is and whom it talks to. Each request carries an identity, and a request of another
  cluster, or for another member, is refused: two clusters that meet by mistake corrupt nothing. A field that is absent
  is not checked, so a peer which knows only the contract's first fields is answered as far as these go; what it
  acknowledges names neither round nor index, and counts for nothing;
* **one `PeerSender` a peer**, which owns the channel, the back-off and the requests in flight. It never waits and never
  repeats: a request that can't go out now is dropped, and the algorithm sends again what still matters. It has no
  thread of its own; gRPC's delivers the answers. Entries travel on a stream, and heartbeats, which never wait for bulk,
  on another one; what is seldom sent is a call of its own. Snapshots go another way (snapshot_transfer.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
    TimeoutNowReply,
)
from raftkv.raft.types import Entry, EntryKind, Leadership, LogPosition
from raftkv.streams import PING_TIMEOUT, Stream
from raftkv.wire import raft_pb2 as wire

NO_OP_TEXT: Final = "NO-OP"
"""What the wire's LogEntry calls the first entry of a term (the contract's word)."""
CONFIGURATION_TEXT: Final = "CONFIGURATION"
"""The same for an entry that changes the members. No client's command has either name."""

_NAMES: Final = {EntryKind.NO_OP: NO_OP_TEXT, EntryKind.CONFIGURATION: CONFIGURATION_TEXT, EntryKind.BATCH: ""}
_KINDS: Final = {name: kind for kind, name in _NAMES.items()}

Request = AppendEntries | RequestVote | TimeoutNow
Reply = AppendEntriesReply | RequestVoteReply | TimeoutNowReply
WireRequest = wire.AppendEntriesRequest | wire.RequestVoteRequest | wire.TimeoutNowRequest
WireReply = wire.AppendEntriesReply | wire.RequestVoteReply | wire.TimeoutNowReply

APPEND_ENTRIES_STREAM: Final = "/RaftNode/AppendEntriesStream"
REQUEST_VOTE: Final = "/RaftNode/RequestVote"
TIMEOUT_NOW: Final = "/RaftNode/TimeoutNow"


PROTOCOL: Final = 2
"""Counts the versions of what members send each other, and so of what may be in the log: one more whenever an older
member would misunderstand something, as a new kind of entry. Every version takes requests of all earlier ones, and
refuses those of later ones. So a later version follows an earlier one, but never leads it, and nothing gets into a log
that its owner can't read: members can be upgraded one after the other.

    1   as long as requests had no version
    2   configurations in the log, snapshots, hand-over, the limit on the size of the state
"""


class Malformed(ValueError):
    """A message that no correct member sends."""


class Stranger(Exception):
    """A request of another cluster, or for another member. The text says so to both sides."""


# ---- entries ---------------------------------------------------------------------------------------------------------


def entry_to_wire(entry: Entry) -> wire.LogEntry:
    """An entry without its index, which follows from the request's prev_log_index."""
    if entry.kind is EntryKind.TEXT:
        return wire.LogEntry(term=entry.term, operation=entry.payload.decode(), time_ms=entry.time_ms)
    return wire.LogEntry(term=entry.term, operation=_NAMES[entry.kind], payload=entry.payload, time_ms=entry.time_ms)


def entry_from_wire(entry: wire.LogEntry, index: int) -> Entry:
    kind = _KINDS.get(entry.operation)
    if kind is None:
        return Entry(index, entry.term, EntryKind.TEXT, entry.operation.encode(), entry.time_ms)
    return Entry(index, entry.term, kind, entry.payload, entry.time_ms)


_MAX_COUNT: Final = 1 << 62
MAX_LEASE_MS: Final = 3_600_000
"""The longest lease that a leader asks for: the largest LEASE_DURATION of config.ini."""
MAX_REMAINING_LEASE_MS: Final = 5_400_001
"""The most that can be left of a promise: that lease, longer by the largest CLOCK_DRIFT (a half), and rounded up."""

# ---- requests --------------------------------------------------------------------------------------------------------


def request_to_wire(request: Request, identity: wire.Identity) -> WireRequest:
    if isinstance(request, AppendEntries):
        return wire.AppendEntriesRequest(
            term=request.term,
            leader_id=request.sender,
            prev_log_index=request.prev.index,
            prev_log_term=request.prev.term,
            entries=[entry_to_wire(entry) for entry in request.entries],
            leader_commit=request.leader_commit,
            lease_duration=request.lease_duration_ms,
            round=request.round,
            identity=identity,
        )
    if isinstance(request, TimeoutNow):
        return wire.TimeoutNowRequest(term=request.term, leader_id=request.sender, identity=identity)
    return wire.RequestVoteRequest(
        term=request.term,
        candidate_id=request.sender,
        last_log_index=request.last.index,
        last_log_term=request.last.term,
        pre_vote=request.pre_vote,
        identity=identity,
        released_leader=request.released.leader if request.released else 0,
        released_term=request.released.term if request.released else 0,
    )


def append_entries_from_wire(request: wire.AppendEntriesRequest, me: int, call: int) -> AppendEntries:
    """The leader's request as the algorithm knows it, with `call` for the reply to find its way. Raises Malformed."""
    prev, identity = _position(request.prev_log_term, request.prev_log_index), request.identity
    message = AppendEntries(
        sender=request.leader_id,
        recipient=me,
        term=request.term,
        prev=prev,
        entries=tuple([entry_from_wire(entry, index) for index, entry in enumerate(request.entries, prev.index + 1)]),
        leader_commit=request.leader_commit,
        lease_duration_ms=request.lease_duration,
        round=request.round,
        call=call,
        incarnation=identity.incarnation,
        joined=identity.joined,
    )
    terms = [prev.term, *[entry.term for entry in message.entries], message.term]
    require_possible(message.term, prev.index + len(message.entries), message.leader_commit, message.round)
    if message.lease_duration_ms > MAX_LEASE_MS:
        raise Malformed(f"a lease of {message.lease_duration_ms} ms is longer than any leader may ask for")
    if message.term == 0 or (message.entries and message.entries[0].term == 0):
        raise Malformed("terms are counted from 1")
    if terms != sorted(terms):
        raise Malformed(f"the terms of a log never go back, nor beyond the leader's: {terms}")
    return message


def request_vote_from_wire(request: wire.RequestVoteRequest, me: int, call: int) -> RequestVote:
    """As `append_entries_from_wire`, for a candidate's request."""
    last = _position(request.last_log_term, request.last_log_index)
    require_possible(request.term, request.last_log_index)
    if request.term == 0:
        raise Malformed("terms are counted from 1")
    if last.term > request.term:
        raise Malformed(f"a log that ends in term {last.term} can't belong to a candidate of term {request.term}")
    released = None
    if request.released_leader:
        released = Leadership(request.released_leader, request.released_term)
        if not 1 <= released.term < request.term or request.pre_vote:
            raise Malformed(f"nobody stands in term {request.term} for a leader of term {released.term}")
    disk = request.identity.incarnation, request.identity.joined
    return RequestVote(request.candidate_id, me, request.term, last, request.pre_vote, call, released, *disk)


def timeout_now_from_wire(request: wire.TimeoutNowRequest, me: int, call: int) -> TimeoutNow:
    """As `append_entries_from_wire`, for a leader that hands over."""
    require_possible(request.term)
    if request.term == 0:
        raise Malformed("terms are counted from 1")
    return TimeoutNow(request.leader_id, me, request.term, call)


def require_possible(*numbers: int) -> None:
    """Refuse numbers that no cluster reaches by counting: they would leave no room to count on from."""
    if max(numbers) > _MAX_COUNT:
        raise Malformed(f"{max(numbers)} is not a term, an index or a round that a cluster can have reached")


def _position(term: int, index: int) -> LogPosition:
    if (term == 0) != (index == 0):
        raise Malformed(f"there is no log position with term {term} and index {index}")
    return LogPosition(term, index)


# ---- replies ---------------------------------------------------------------------------------------------------------


def reply_to_wire(reply: Reply, incarnation: bytes = b"", joined: int = 0) -> WireReply:
    """`incarnation` and `joined`: of the directory of the member that replies."""
    if isinstance(reply, AppendEntriesReply):
        return wire.AppendEntriesReply(
            term=reply.term,
            success=reply.success,
            conflicting_term=reply.conflicting_term,
            conflicting_index=reply.conflicting_index,
            match_index=reply.match_index,
            rejected_index=reply.rejected_index,
            round=reply.round,
            incarnation=incarnation,
            joined=joined,
        )
    if isinstance(reply, TimeoutNowReply):
        return wire.TimeoutNowReply(term=reply.term, accepted=reply.accepted)
    return wire.RequestVoteReply(
        term=reply.term,
        vote_granted=reply.granted,
        remaining_lease=reply.remaining_lease_ms,
        pre_vote=reply.pre_vote,
        incarnation=incarnation,
        joined=joined,
    )


def reply_from_wire(reply: WireReply, sender: int, me: int) -> Reply:
    """The answer that `sender` gave to a request of `me`. Raises Malformed."""
    require_possible(reply.term)
    if isinstance(reply, wire.AppendEntriesReply):
        return AppendEntriesReply(
            sender=sender,
            recipient=me,
            term=reply.term,
            success=reply.success,
            round=reply.round,
            match_index=reply.match_index,
            rejected_index=reply.rejected_index,
            conflicting_term=reply.conflicting_term,
            conflicting_index=reply.conflicting_index,
            incarnation=reply.incarnation,
            joined=reply.joined,
        )
    if isinstance(reply, wire.TimeoutNowReply):
        return TimeoutNowReply(sender, me, reply.term, reply.accepted)
    if reply.remaining_lease > MAX_REMAINING_LEASE_MS:
        # A vote like that is worse than none: the new leader would wait for so long before it does anything.
        raise Malformed(f"nobody has promised a leader a lease with {reply.remaining_lease} ms left")
    return RequestVoteReply(
        sender=sender,
        recipient=me,
        term=reply.term,
        granted=reply.vote_granted,
        pre_vote=reply.pre_vote,
        remaining_lease_ms=reply.remaining_lease,
        incarnation=reply.incarnation,
        joined=reply.joined,
    )


# ---- membership ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Membership:
    """Who this member is, and who belongs to its cluster. Replaced as a whole when that changes."""

    me: int
    addresses: Mapping[int, str]
    """Of all members, by the latest configuration, and this one's own in any case."""
    cluster_id: bytes = b""
    """Empty until known."""
    incarnation: bytes = b""
    """Of this member's data directory."""
    directory_joined: int = 0
    """Which entry had brought in whoever it was made for; 0: a founding member."""
    protocol: int = PROTOCOL
    """What this member sends, and the latest that it takes."""
    peers: Mapping[int, tuple[int, bytes]] = field(default_factory=dict)
    """As `Identity.peers`: with which disk each founding member has been met."""
    joined: Mapping[int, int] = field(default_factory=dict)
    """Which entry has brought in a member, by the configuration of now; founding members are left out."""
    wiped: frozenset[int] = frozenset()
    """Who has been heard with another disk than it had, and counts for nothing."""
    founders: Mapping[int, str] | None = None
    """The addresses that the founding members were started with, if they are others than `addresses`; none of a member
    that has joined later."""
    digest: bytes = field(init=False)
    """Of the founders: tells two clusters apart that have no id yet. Empty if there are none."""

    def __post_init__(self) -> None:
        founders = self.addresses if self.founders is None else self.founders
        text = "\n".join(f"{member}={address}" for member, address in sorted(founders.items()))
        object.__setattr__(self, "digest", blake2b(text.encode(), digest_size=16).digest() if founders else b"")

    def identity_for(self, recipient: int) -> wire.Identity:
        """The header of a request from this member."""
        return wire.Identity(
            cluster_id=self.cluster_id,
            sender=self.me,
            recipient=recipient,
            members_digest=self.digest,
            incarnation=self.incarnation,
            protocol=self.protocol,
            recipient_joined=self.joined.get(recipient, 0),
            joined=self.directory_joined,
        )

    def admit(self, request: WireRequest | wire.InstallSnapshotRequest) -> None:
        """Check who sends, and to whom. Raises Stranger, with a text for the people on both sides, or Malformed."""
        claimed = request.candidate_id if isinstance(request, wire.RequestVoteRequest) else request.leader_id
        header = request.identity if request.HasField("identity") else wire.Identity()
        if header.sender and header.sender != claimed:
            raise Malformed(f"a request of node {claimed} can't come from node {header.sender}")
        if header.protocol > self.protocol:
            # First of all: who knows what the rest would mean.
            versions = f"(protocol {self.protocol}) than node {claimed} ({header.protocol})"
            raise Stranger(
                f"{self._here} is of an earlier version {versions}: upgrade it too; until then it can't follow that one"
            )
        # A member of the same cluster that is none as far as this one knows: its log, or ours, is behind (diss. 4.1).
        is_of_cluster = bool(self.cluster_id) and header.cluster_id == self.cluster_id
        if claimed in (0, self.me) or (claimed not in self.addresses and not is_of_cluster):
            raise Stranger(f"{self._here} has no peer with id {claimed} in its list of members")
        if header.recipient and header.recipient != self.me:
            raise Stranger(f"this is {self._here}, not node {header.recipient}: check the order of the addresses")
        if header.cluster_id and self.cluster_id:
            if header.cluster_id != self.cluster_id:
                theirs, ours = header.cluster_id.hex()[:8], self.cluster_id.hex()[:8]
                raise Stranger(f"{self._here} belongs to another cluster ({ours}, not {theirs})")
        elif header.members_digest and self.digest and header.members_digest != self.digest:
            raise Stranger(f"{self._here} {self._list_of_founders()}")
        if header.recipient_joined and not self.cluster_id and self.digest:
            # It knows nothing of the cluster, and would take the founding member that had its id for itself (rule 11).
            what = f"{self._here} has been added to a cluster that ran already, but was started as a founding member"
            raise Stranger(f"{what}: delete its directory, and start it with --join")
        if header.incarnation and self.has_lost_disk(claimed, header.incarnation, header.joined):
            mend = f"remove it from the cluster, and add it again (REMOVE {claimed}, ADD {claimed}=<address>)"
            raise Stranger(f"{self._here} knows node {claimed} with another disk, on which its promises were; {mend}")

    @property
    def _here(self) -> str:
        return f"node {self.me} at {self.addresses[self.me]}"

    def is_founder(self, peer: int, joined: int) -> bool:
        """Whether the peer, whose directory was made for who had been brought in by the entry `joined`, is a founding
        member. The log here may not tell yet that another one has its id by now."""
        return not joined and not self.joined.get(peer)

    def has_lost_disk(self, peer: int, incarnation: bytes, joined: int) -> bool:
        """Whether it is a founding member, and known with another disk than this (hazard 46). Of those who were added
        later the configuration tells, in the algorithm."""
        since, known = self.peers.get(peer, (-1, b""))
        return self.is_founder(peer, joined) and since == 0 and known != incarnation

    def _list_of_founders(self) -> str:
        founders = self.addresses if self.founders is None else self.founders
        listed = ", ".join(f"{member}={address}" for member, address in sorted(founders.items()))
        return f"was started with another list of members: {listed} (one that was added later is started with --join)"


# ---- one sender a peer -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendingLimits:
    """How a peer is called. Times in seconds."""

    timeout: float
    """After which a request counts as lost; one with entries gets as much more as a slow network needs for them."""
    max_backoff: float
    """The longest time without a new attempt after a failure."""
    max_appends: int
    """Requests with entries in flight. More than the leader's own window, which a reply that overtakes another moves on
    before the earlier request is done here."""
    max_message_bytes: int
    """Of a reply; requests are not limited here, but where entries are put together."""


_FIRST_BACKOFF: Final = 0.05
"""Seconds; doubles with each failure in a row."""

SLOWEST_LINK: Final = 1 << 20
"""Bytes a second. If a large batch were given up just before it has arrived, each time, nothing would ever go on."""

_MAX_SMALL: Final = 8
"""Heartbeats in flight, and calls: neither waits for bulk, nor for the other."""


def channel_options(limits: SendingLimits) -> list[tuple[str, int]]:
    """gRPC's options for a connection to a peer."""
    longest_ms = max(1, int(limits.max_backoff * 1000))
    patience_ms = max(1, int(limits.timeout * 1000))
    return [
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        # gRPC's default waits for up to two minutes before it connects anew (hazard 58).
        ("grpc.initial_reconnect_backoff_ms", min(100, longest_ms)),
        ("grpc.min_reconnect_backoff_ms", longest_ms),  # in fact: how long an attempt may take
        ("grpc.max_reconnect_backoff_ms", longest_ms),
        # A connection through a cut network would hang on TCP's retransmissions long after the cut has healed.
        ("grpc.keepalive_time_ms", patience_ms),
        ("grpc.keepalive_timeout_ms", 2 * patience_ms),
        PING_TIMEOUT,
        ("grpc.http2.max_pings_without_data", 0),
    ]


@dataclass(slots=True)
class _Line:
    """A stream of AppendEntries, while there is one."""

    is_bulk: bool
    """It is the one for entries."""
    due: deque[float] = field(default_factory=deque)
    """When each unanswered request counts as lost; the peer answers in order. Guarded by the sender's lock."""
    interruption: int = 0
    """The sender's count when the last request went out."""
    stream: Stream | None = None
    ended: tuple[grpc.StatusCode, str] | None = None
    """With what. Guarded as `due`."""

    def cancel(self) -> None:
        if self.stream is not None:
            self.stream.cancel()


@dataclass(slots=True)
class _Way:
    """One of the two connections to a peer, and what is known of it. Guarded by the sender's lock, but for `channel`,
    which is the sending thread's."""

    channel: grpc.Channel | None = None
    is_doubtful: bool = False
    """Something was not answered in time: the next request takes a new connection, for this one may carry nothing."""
    interruptions: int = 0
    """Counts them. A request that fails and was sent before the latest one tells nothing new."""
    backoff: float = 0.0
    silent_until: float = 0.0
    trouble: str = ""
    """What was last noted; empty while all is well."""

    def is_well_again(self) -> None:
        self.backoff, self.silent_until, self.trouble = 0.0, 0.0, ""


def close_aside(what: grpc.Channel | PeerSender) -> None:
    """Without waiting for what is under way there."""
    threading.Thread(target=what.close, name="close", daemon=True).start()


class PeerSender:
    """Sends requests to one peer and delivers what comes of them."""

    def __init__(
        self,
        peer: int,
        membership: Membership,
        limits: SendingLimits,
        clock: Callable[[], float],
        replied: Callable[[Reply], None],
        failed: Callable[[int], None],
        note: Callable[[str], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """The functions are called by gRPC's threads, or by the sending one if a request fails at once. `failed` gets
        the peer's id: once for all requests that the interruption of a connection has cost, and for each with entries
        that was dropped. `note` gets a line for people when the peer becomes unreachable, and when it is there again;
        `fail` an exception that stops the node."""
        self._peer = peer
        self._me = membership.me
        self._address = membership.addresses[peer]
        self._name = f"node {peer} at {self._address}"
        self._identity = membership.identity_for(peer)
        self._limits = limits
        self._clock = clock
        self._replied = replied
        self._failed = failed
        self._note = note
        self._fail = fail
        self._ways = {True: _Way(), False: _Way()}
        """That for entries, and that for all else: what is small would wait in TCP behind what is large."""
        self._calls: dict[type[Request], grpc.UnaryUnaryMultiCallable[WireRequest, WireReply]] = {}
        self._lines: dict[bool, _Line] = {}
        """The stream for entries, and that for heartbeats."""
        self._lock = threading.Lock()  # guards the rest
        self._calls_in_flight = 0
        self._closed = False
        self._has_answered = False

    @property
    def address(self) -> str:
        """Where it sends to."""
        return self._address

    @property
    def has_answered(self) -> bool:
        """Whether the peer has ever been heard there."""
        return self._has_answered

    @property
    def is_silent(self) -> bool:
        """Whether nothing is sent just now, since nobody could be reached a moment ago."""
        return self._clock() < self._ways[False].silent_until

    def introduce(self, membership: Membership) -> None:
        """Use this identity from now on."""
        self._identity = membership.identity_for(self._peer)

    def send(self, request: Request) -> None:
        """Send now or not at all. By whoever holds the turn; never waits."""
        if isinstance(request, AppendEntries):
            self._give_up_overdue()
            self._send_on_line(request)
        else:
            self._call(request)
            self._give_up_overdue()  # afterwards: what a leader is not answered is no reason to keep a candidate silent

    def close(self) -> None:
        """Give up all requests in flight, for good. After the last `send`."""
        with self._lock:
            self._closed = True
        for way in self._ways.values():
            if way.channel is not None:
                way.channel.close()

    def _call(self, request: RequestVote | TimeoutNow) -> None:
        with self._lock:
            if self.is_silent or self._calls_in_flight >= _MAX_SMALL:
                return
            self._calls_in_flight += 1
            interruption = self._ways[False].interruptions
        message = request_to_wire(request, self._identity)
        call = self._stub(type(request)).future(message, timeout=self._limits.timeout)
        call.add_done_callback(lambda done: self._finished(done, interruption))

    def _send_on_line(self, request: AppendEntries) -> None:
        is_bulk = bool(request.entries)
        limit = self._limits.max_appends if is_bulk else _MAX_SMALL
        with self._lock:
            line, way = self._lines.get(is_bulk), self._ways[is_bulk]
            interruption, is_silent = way.interruptions, self.is_silent or self._clock() < way.silent_until
            is_sent = not is_silent and (line is None or len(line.due) < limit)
        if not is_sent:
            if is_bulk:
                self._failed(self._peer)  # or the leader would go on waiting for the answer to what was never sent
            return
        line = line or self._open_line(is_bulk)
        assert line.stream is not None
        with self._lock:
            ended = line.ended
            if ended is None:
                line.due.append(self._clock() + self._patience(request))
                line.interruption = interruption
        if ended is None:
            line.stream.send(request_to_wire(request, self._identity).SerializeToString())
        else:
            self._interrupted(is_bulk, *ended, interruption)

    def _open_line(self, is_bulk: bool) -> _Line:
        line = self._lines[is_bulk] = _Line(is_bulk)
        line.stream = Stream(
            self._channel(is_bulk),
            APPEND_ENTRIES_STREAM,
            lambda data: self._line_answered(line, data),
            lambda code, details: self._line_ended(line, code, details),
            is_paired=is_bulk,  # a heartbeat that is not answered must not hold back the next one
        )
        return line

    def _give_up_overdue(self) -> None:
        """Here, since a leader sends something to every peer with each heartbeat."""
        with self._lock:
            now = self._clock()
            overdue = [line for line in self._lines.values() if line.due and line.due[0] < now]
            for line in overdue:
                self._ways[line.is_bulk].is_doubtful = True
        for line in overdue:
            line.cancel()

    def _patience(self, request: AppendEntries) -> float:
        size = sum([len(entry.payload) for entry in request.entries])
        return self._limits.timeout + size / SLOWEST_LINK

    def _stub(self, kind: type[Request]) -> grpc.UnaryUnaryMultiCallable[WireRequest, WireReply]:
        channel = self._channel(is_bulk=False)
        if not self._calls:
            self._calls[RequestVote] = channel.unary_unary(
                REQUEST_VOTE, wire.RequestVoteRequest.SerializeToString, wire.RequestVoteReply.FromString
            )
            self._calls[TimeoutNow] = channel.unary_unary(
                TIMEOUT_NOW, wire.TimeoutNowRequest.SerializeToString, wire.TimeoutNowReply.FromString
            )
        return self._calls[kind]

    def _channel(self, is_bulk: bool) -> grpc.Channel:
        way = self._ways[is_bulk]
        with self._lock:
            is_doubtful, way.is_doubtful = way.is_doubtful, False
        if is_doubtful and way.channel is not None:
            close_aside(way.channel)
            way.channel = None
        if way.channel is None:
            way.channel = grpc.insecure_channel(self._address, options=channel_options(self._limits))
            if not is_bulk:
                self._calls.clear()
        return way.channel

    # ---- what comes of a request -------------------------------------------------------------------------------------

    def _finished(self, call: grpc.Future[WireReply], interruption: int) -> None:
        """In one of gRPC's threads, which would only log an exception: so it is handed to the node (hazard 51)."""
        try:
            error = call.exception()
            with self._lock:
                self._calls_in_flight -= 1
            if error is None:
                self._take_reply(call.result(), is_bulk=False)
            elif isinstance(error, grpc.Call):
                self._interrupted(False, error.code(), error.details() or "", interruption)
            else:
                self._interrupted(False, grpc.StatusCode.CANCELLED, "", interruption)
        except BaseException as bug:
            self._fail(bug)

    def _line_answered(self, line: _Line, data: bytes) -> None:
        """In one of gRPC's threads, as above."""
        try:
            reply = wire.AppendEntriesReply.FromString(data)
            with self._lock:
                if not line.due:
                    return line.cancel()  # answers what was never asked
                line.due.popleft()
            self._take_reply(reply, line.is_bulk)
        except DecodeError:
            line.cancel()
        except BaseException as bug:
            self._fail(bug)

    def _line_ended(self, line: _Line, code: grpc.StatusCode, details: str) -> None:
        """In one of gRPC's threads, as above, or in the sending one."""
        try:
            with self._lock:
                line.ended = code, details
                lost = len(line.due)
                line.due.clear()
                del self._lines[line.is_bulk]
            if lost:
                self._interrupted(line.is_bulk, code, details, line.interruption)
        except BaseException as bug:
            self._fail(bug)

    def _take_reply(self, reply: WireReply, is_bulk: bool) -> None:
        self._succeeded(is_bulk)
        try:
            message = reply_from_wire(reply, self._peer, self._me)
        except Malformed as error:
            self._note(f"{self._name} gives an impossible answer: {error}")
        else:
            self._replied(message)

    def _succeeded(self, is_bulk: bool) -> None:
        way = self._ways[is_bulk]
        with self._lock:
            self._has_answered = True
            was_in_trouble = bool(way.trouble)
            way.is_well_again()
            if was_in_trouble:
                self._ways[True].is_well_again()  # for the peer itself had been away, if not that for entries alone
            is_well = not self._ways[False].trouble
        if was_in_trouble and is_well:
            self._note(f"{self._name} is there again")

    def _interrupted(self, is_bulk: bool, code: grpc.StatusCode, details: str, interruption: int) -> None:
        """Take note of failed requests, unless they are more of what an earlier interruption has cost."""
        trouble = f"refuses this node: {details}" if code in _REFUSALS else "can't be reached"
        way = self._ways[is_bulk]
        with self._lock:
            if self._closed or interruption != way.interruptions:
                return
            way.interruptions += 1
            way.is_doubtful = way.is_doubtful or code is grpc.StatusCode.DEADLINE_EXCEEDED
            way.backoff = min(max(2 * way.backoff, _FIRST_BACKOFF), self._limits.max_backoff)
            way.silent_until = self._clock() + way.backoff
            is_new_trouble = all(trouble != each.trouble for each in self._ways.values())
            way.trouble = trouble
        if is_new_trouble:
            self._note(f"{self._name} {trouble}")
        self._failed(self._peer)


_REFUSALS: Final = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""A peer's own answers: it will say the same again."""
