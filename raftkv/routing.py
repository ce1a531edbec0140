"""Where a client's calls go: the members, their channels, and who leads: theory of operation.

There is one way to find the leader, whatever has happened: ask all known members for their `Status` at once and take
the first that says it leads, in a term not older than the last one seen. A round costs one round trip while a leader is
there; a dead member refuses at once and a hung one holds up nobody. Each answer names all members, so that any one
member's address will do. While nobody leads, rounds repeat with a growing pause: an election of T seconds is noticed
after about T/3 more at worst. One thread asks for all.

What was found is believed for a second after the leader's last sign of life, and nobody opens a stream to one that is
not believed: what was never sent to anyone is definite. On a stream that is open already, calls go out unasked, however
long it has been idle. For the end of a stream tells an idle client, too, that its leader has gone: at once if the
process has, after three seconds if the network is cut, after twelve if only this connection carries nothing any more
(keepalive). What is sent before that has been noticed costs its caller a moment, not its time: who does not lead any
more refuses it, and when there is no answer `superseded` asks around whether somebody else leads now. A call that takes
long says by itself nothing about its leader, who may be slow or be stopped.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

import grpc

from raftkv.errors import NotApplied
from raftkv.streams import PING_TIMEOUT
from raftkv.wire import raft_pb2 as wire
from raftkv.wire.raft_pb2 import StatusReply, StatusRequest
from raftkv.wire.raft_pb2_grpc import RaftNodeStub

FIRST_ROUND_S: Final = 0.1
"""How long the first round of a search waits for members that do not answer: short, for while one member hangs another
may be elected."""
LONGEST_ROUND_S: Final = 1.0
"""Each following round waits half as long again, up to this, for members that are far away."""
_PROBE_INTERVAL_S: Final = 0.1
"""Rounds that ask whether a leader has been superseded are no more frequent, however many calls wait."""
_LOOK_AROUND_S: Final = 3.0
"""How often a client asks who the members are, though it has no reason to doubt its leader."""
_TRUST_S: Final = 1.0
"""How long a leader is believed in without a sign of life."""
_STATUS_S: Final = 1.0
"""How long `Router.status` waits for members that do not answer."""
_CLOSE_S: Final = 0.5
"""How long closing the channels may take."""
_SHORTEST_ATTEMPT_S: Final = 0.1
"""With less time left nothing is tried again: an attempt bound to time out only turns a failure into a doubt."""

_CHANNEL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # a proxy is for the web; these addresses are meant as they stand
    ("grpc.use_local_subchannel_pool", 1),  # each client has its own connections, and its own back-off
    # gRPC's own back-off reaches two minutes. The "minimum" is in fact the time allowed to one attempt to connect.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 2000),
    # A connection through a cut network would hang on TCP's retransmissions long after the cut has healed.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 1000),
    PING_TIMEOUT,
    # Sizes are the server's to limit, in words that say which limit.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


_NOT_ASKED: Final = "not asked yet"


class Backoff:
    """Pauses between attempts: 10 ms at first, each half as long again, at most 0.5 s; or less, by chance."""

    def __init__(self, deadline: float, stop: threading.Event) -> None:
        """Until `deadline` (seconds, `time.monotonic`), or until `stop` is set."""
        self._deadline = deadline
        self._stop = stop
        self._seconds = 0.01

    def pause(self) -> bool:
        """Wait. False: there is no time for another attempt."""
        remaining = self._deadline - time.monotonic()
        if remaining < _SHORTEST_ATTEMPT_S:
            return False
        # Of little time left half is kept for the attempt itself.
        return not self._stop.wait(min(self.next_seconds(), remaining / 2))

    def next_seconds(self) -> float:
        """How long the next pause is, for those who see to it themselves."""
        seconds = self._seconds * random.uniform(0.5, 1.0)
        self._seconds = min(self._seconds * 1.5, 0.5)
        return seconds


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What one member says of itself and of the cluster. Numbers are 0 where they are not known."""

    id: int
    address: str
    role: str
    """"leader", "follower", "candidate", "pre-candidate", or "unreachable": no answer."""
    term: int = 0
    leader_id: int = 0
    commit_index: int = 0
    applied_index: int = 0
    last_log_index: int = 0
    first_log_index: int = 0
    """The first entry that its log still holds."""
    snapshot_index: int = 0
    """The last entry that its snapshot stands for."""
    keys: int = 0
    revision: int = 0
    """Of the state machine: counts the operations that have changed the store."""
    state_bytes: int = 0
    """Of keys and values, with an overhead for each key."""
    quota_bytes: int = 0
    """What `state_bytes` may not grow beyond (MAX_STATE_BYTES); 0: no limit."""
    serving: bool = False
    """It leads and has committed in its term: reads and writes go through."""
    version: str = ""
    error: str = ""
    """Why it is unreachable: "connection refused", "cannot resolve <host>", "not a raftkv node", or a gRPC status."""


class Member:
    """A member's address and the channel to it. `id` is 0 until it is known."""

    __slots__ = ("address", "channel", "id", "is_given", "said", "stub", "trouble")

    def __init__(self, address: str, member_id: int = 0) -> None:
        self.address = address
        self.id = member_id
        self.is_given = not member_id
        """Its address was given by the user, and not learnt from another member."""
        self.said: StatusReply | None = None
        """Its last answer."""
        self.channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self.stub = RaftNodeStub(self.channel)
        self.trouble = _NOT_ASKED
        """Why it last failed to answer, as `NodeStatus.error`; empty if it answered."""


class Router:
    """The members that a client knows of, and which of them to send to. Safe from any thread."""

    def __init__(self, addresses: Iterable[str], timeout: float, before: Router | None = None) -> None:
        """`timeout`, in seconds, is what those who look for a leader have in all. `before`, with the same addresses,
        tells what it has learnt: other members, and which cluster it is."""
        self._timeout = timeout
        self.closed = threading.Event()
        self._members = tuple(Member(address) for address in dict.fromkeys(addresses))
        """Only ever replaced, by a longer one, under `_learning`."""
        self._home: StatusReply | None = None
        """From the first leader found: it tells which cluster this client talks to. A member that does not lead can't
        say, it may be a stranger who listens at one of our addresses. Nor can a leader at an address that was only
        learnt, unless a member at a given address is of its cluster: two lists of members may share an address."""
        self._learning = threading.Lock()
        self._looking = threading.Lock()
        """Held by the one thread that looks for the leader."""
        self._leader: Member | None = None
        self._leader_term = 0
        self._heard = 0.0
        """When the leader last gave a sign of life."""
        self._asked = 0.0
        """When the last round ended."""
        if before is not None:
            self._home = before._home
            given = {member.address: member for member in self._members}
            for known in before._members:
                if known.is_given:
                    given[known.address].id, given[known.address].said = known.id, known.said
                else:
                    self._members += (Member(known.address, known.id),)

    def leader(self, deadline: float, meaning: str = "") -> Member:
        """The member to send to, looked for until `deadline` (seconds, `time.monotonic`). Raises NotApplied; `meaning`
        is what it means for the caller that there is none."""
        leader = self._trusted()
        if leader is not None:
            return leader
        if not self._looking.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise self.no_leader(meaning)
        try:
            return self._trusted() or self._look_for_leader(deadline, meaning)
        finally:
            self._looking.release()

    def look_around(self) -> None:
        """Of a client that is always busy: ask now and then who the members are. They may all be others some day."""
        if time.monotonic() - self._asked < _LOOK_AROUND_S or not self._looking.acquire(blocking=False):
            return
        try:
            self._round(time.monotonic() + FIRST_ROUND_S)
        finally:
            self._looking.release()

    def told(self, member: Member, reply: StatusReply) -> None:
        """The member has said this to somebody who asked by himself."""
        if self._is_ours(reply):
            self._learn(member, reply)

    def announced(self, members: Iterable[wire.Member]) -> None:
        """The leader has said, unasked, that these members are new, or at other addresses."""
        with self._learning:
            self._add(members)

    def superseded(self, leader: Member, until: float) -> bool:
        """Ask around, unless that has just been done: whether somebody else leads now."""
        if self._looking.acquire(blocking=False):
            try:
                if time.monotonic() - self._asked >= _PROBE_INTERVAL_S:
                    self._round(until)
            finally:
                self._looking.release()
        return self._leader not in (None, leader)

    def heard(self, member: Member) -> None:
        """The member has answered as a leader."""
        if member is self._leader:
            self._heard = time.monotonic()

    def doubt(self, member: Member) -> None:
        """The member does not seem to lead, or not to live: look again before sending anything more."""
        if member is self._leader:
            self._leader = None

    def known_leader(self) -> Member | None:
        """The last leader found, if nothing has been said against it."""
        return self._leader

    def status(self, deadline: float) -> list[NodeStatus]:
        """A row for every member, in the order of ids; for the known addresses, if none of them answers."""
        until = min(deadline, time.monotonic() + _STATUS_S)
        asked: tuple[Member, ...] = ()
        replies: list[tuple[Member, StatusReply]] = []
        while len(asked) < len(self._members):  # the answers may have named more members
            unasked, asked = self._members[len(asked) :], self._members
            with closing(self._ask(unasked, until)) as answers:
                replies += [(member, reply) for member, reply in answers if reply is not None]
        if not replies:
            return [NodeStatus(m.id, m.address, "unreachable", error=m.trouble) for m in asked]
        newest = max((reply for _, reply in replies), key=lambda reply: (reply.role == "leader", reply.term))
        by_id = {reply.id: reply for _, reply in replies if _same_cluster(reply, newest)}
        trouble = {member.id: member.trouble for member in asked if member.trouble}
        return [
            _row(m.id, m.address, by_id.get(m.id), trouble.get(m.id, ""))
            for m in sorted(newest.members, key=lambda m: m.id)
        ]

    def close(self) -> None:
        """Give up everything under way and close the channels."""
        self.closed.set()
        # gRPC waits for ever for a call whose start a signal's exception has cut short (Ctrl-C), so we do not.
        closing = threading.Thread(target=self._close_channels, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    def _close_channels(self) -> None:
        with self._learning:
            members = self._members  # the last ones: no more are added to a closed client
        # Without the lock: closing waits for gRPC's threads, one of which may be about to tell of new members.
        for member in members:
            member.channel.close()

    # ---- looking for the leader --------------------------------------------------------------------------------------

    def _trusted(self) -> Member | None:
        return self._leader if time.monotonic() - self._heard < _TRUST_S and not self.closed.is_set() else None

    def _look_for_leader(self, deadline: float, meaning: str) -> Member:
        backoff = Backoff(deadline, self.closed)
        patience = FIRST_ROUND_S
        while True:
            known = len(self._members)
            self._round(min(deadline, time.monotonic() + patience))
            patience = min(patience * 1.5, LONGEST_ROUND_S)
            leader = self._trusted()
            if leader is not None:
                return leader
            # Members just heard of are asked at once.
            if len(self._members) == known and not backoff.pause():
                raise self.no_leader(meaning)

    def no_leader(self, meaning: str = "") -> NotApplied:
        """What is to be said when no leader has been found in time."""
        text, code = self.why_no_leader()
        text = text if self.closed.is_set() else gave_up(text, self._timeout)
        return NotApplied(f"{text}; {meaning}" if meaning else text, code)

    def why_no_leader(self) -> tuple[str, str]:
        """In words, and as the name of a gRPC status."""
        if self.closed.is_set():
            return "the client is closed", "CANCELLED"
        known = len(self._members)
        silent = [f"{m.address} ({m.trouble})" for m in self._members if m.trouble]
        if len(silent) < known:
            return f"{known - len(silent)} of {known} members answer, and none leads", "UNAVAILABLE"
        return f"no member answers at {', '.join(silent)}", "UNAVAILABLE"

    def _round(self, until: float) -> None:
        """Ask every member once, and follow the leader if one answers. The caller holds `_looking`."""
        best: tuple[StatusReply, Member] | None = None
        with closing(self._ask(self._members, until)) as answers:
            for member, reply in answers:
                if reply is None or reply.role != "leader" or (best is not None and reply.term <= best[0].term):
                    continue
                # The very first leader has to commit its cluster's id before it serves anybody. Who followed it sooner
                # could not tell later whose the members are that have joined, when all that it knew by name are gone.
                if not reply.cluster_id:
                    continue
                if not self._is_vouched_for(member, reply):
                    continue
                best = reply, member
                if reply.term >= self._leader_term:
                    break  # nobody can know better
        # A leader of an older term is one that was cut off or stopped: followed only if there is no other to be found.
        if best is not None and (self._leader is None or best[0].term >= self._leader_term):
            found, self._leader = best
            self._leader_term = found.term
            self._heard = time.monotonic()
            self._home = self._home or found
        self._asked = time.monotonic()

    def _ask(self, members: Iterable[Member], until: float) -> Generator[tuple[Member, StatusReply | None], None, None]:
        """Ask the members for their status, all at once: their answers as they arrive, None for a failure.

        Those that have not answered when the caller has heard enough, or at `until`, are given up.
        """
        timeout = max(0.0, until - time.monotonic())
        try:
            calls: dict[Any, Member] = {m.stub.Status.future(StatusRequest(), timeout=timeout): m for m in members}
        except ValueError:
            return  # the channels have just been closed
        answers: SimpleQueue[Any] = SimpleQueue()
        try:
            for call in calls:
                call.add_done_callback(answers.put)
            for _ in calls:
                # gRPC sees to the time; this only makes sure.
                call = answers.get(timeout=max(0.0, until - time.monotonic()) + 0.1)
                yield calls[call], self._take_answer(calls[call], call)
        except Empty:
            return
        finally:
            for call in calls:
                call.cancel()

    def _take_answer(self, member: Member, call: Any) -> StatusReply | None:
        code = call.code()
        if code is not grpc.StatusCode.OK:
            member.trouble = _trouble(member.address, code, call.details() or "")
            return None
        reply: StatusReply = call.result()
        if not self._is_ours(reply):
            member.trouble = "belongs to another cluster"
            return None
        member.trouble = ""
        member.said = reply
        self._learn(member, reply)
        return reply

    def _is_vouched_for(self, leader: Member, reply: StatusReply) -> bool:
        """Whether the leader may say which cluster this client's is; any may, once that is known."""
        if self._home is not None or leader.is_given:
            return True
        said = [member.said for member in self._members if member.is_given and member.said is not None]
        return any(_same_cluster(reply, word) for word in said)

    def _is_ours(self, reply: StatusReply) -> bool:
        """Whether the answer comes from this client's cluster. Another one may listen at an address that ours has in
        its list: a session means nothing there, and a write would be lost to us."""
        return self._home is None or _same_cluster(reply, self._home)

    def _learn(self, member: Member, reply: StatusReply) -> None:
        """Remember who the member is, and the members that it names."""
        with self._learning:
            member.id = reply.id
            for named in reply.members:
                for known in self._members:
                    if named.address == known.address:
                        known.id = named.id
            # A member may be known by another name for its address; where it answers, it need not be known twice. Where
            # it does not, it may have moved.
            found = {known.id for known in self._members if known.trouble in ("", _NOT_ASKED)}
            self._add(m for m in reply.members if m.id not in found)

    def _add(self, named: Iterable[wire.Member]) -> None:
        """Know those, too, whose addresses are not known. With `_learning`."""
        addresses = {known.address for known in self._members}
        new = [m for m in named if m.address not in addresses]
        if new and not self.closed.is_set():
            self._members += tuple(Member(m.address, m.id) for m in new)


def gave_up(text: str, timeout: float) -> str:
    return f"{text} (gave up after {timeout:g} s)"


def _trouble(address: str, code: grpc.StatusCode, details: str) -> str:
    """Why a member has not answered. A slip in a host's name or in a port has no status of its own, only gRPC's words
    tell it from a server that is down."""
    host, said = address.rpartition(":")[0], details.lower()
    return next((words.format(host=host) for grpcs, words in _PLAIN_WORDS.items() if grpcs in said), code.name)


_PLAIN_WORDS: Final = {
    "address lookup failed": "cannot resolve {host}",
    "dns resolution failed": "cannot resolve {host}",  # from older versions
    "connection refused": "connection refused",
    "an http1.x server": "not a raftkv node",
    "failed parsing http/2": "not a raftkv node",
    "method not found": "not a raftkv node",
}
"""For gRPC's, in lower case."""


def _same_cluster(one: StatusReply, other: StatusReply) -> bool:
    """By the cluster's id; by the founding members, where one of the two does not know the id yet; by the list of
    members, where these are not known either."""
    if one.cluster_id and other.cluster_id:
        return one.cluster_id == other.cluster_id
    if one.members_digest and other.members_digest:
        return one.members_digest == other.members_digest
    return {m.id: m.address for m in one.members} == {m.id: m.address for m in other.members}


def _row(member_id: int, address: str, reply: StatusReply | None, trouble: str) -> NodeStatus:
    if reply is None:
        return NodeStatus(member_id, address, "unreachable", error=trouble or "DEADLINE_EXCEEDED")
    return NodeStatus(
        id=member_id,
        address=address,
        role=reply.role,
        term=reply.term,
        leader_id=reply.leader_id,
        commit_index=reply.commit_index,
        applied_index=reply.applied_index,
        last_log_index=reply.last_log_index,
        keys=reply.keys,
        first_log_index=reply.first_log_index,
        snapshot_index=reply.snapshot_index,
        revision=reply.revision,
        state_bytes=reply.state_bytes,
        quota_bytes=reply.quota_bytes,
        serving=reply.serving,
        version=reply.version,
    )
