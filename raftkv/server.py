"""gRPC's server, with a pool of threads for each kind of call, so that no kind can starve another: theory of operation.

    peer      AppendEntries and its stream, RequestVote, TimeoutNow: a flood of clients must not delay a heartbeat, or
              there will be an election
    client    ServeClient: the thread begins the work and leaves; the answer is sent by whoever has it; and
              TransferLeadership and ChangeMembership, which one thread may wait for
    stream    ServeClientStream: one thread each as long as it lasts
    aside     Status

gRPC's Python server hands every call to one pool, unless the method names its own: by an attribute that grpcio calls
experimental (tests/node/ has the test that notices if it is ever dropped). `maximum_concurrent_rpcs` would not do, it
refuses members and clients alike. So clients are counted here, where their calls enter the queue for their pool.

A method gets bytes and decodes them itself: what can't be decoded is the sender's mistake and gets a clear answer,
while gRPC would log a traceback. And an exception in a method, which gRPC would log and forget, stops the node.
"""

from __future__ import annotations

import errno
import importlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from raftkv.backup import MAX_BACKUPS, Backups
from raftkv.bounds import AnswerBudget, Refusal
from raftkv.change_membership import change_membership
from raftkv.client_stream import ClientStream
from raftkv.service import Service
from raftkv.streams import Answers, Exchange, receive_once
from raftkv.wire import raft_pb2 as wire

Request = TypeVar("Request", bound=Message)

_send_status: Any = getattr(importlib.import_module("grpc._server"), "_status", None)
"""See _Response."""
_answer_in_pool: Any = getattr(importlib.import_module("grpc._server"), "_stream_response_in_pool", None)
"""See ClientPool."""

SERVE_CLIENT: Final = "/RaftNode/ServeClient"
SERVE_CLIENT_STREAM: Final = "/RaftNode/ServeClientStream"
STATUS: Final = "/RaftNode/Status"
TRANSFER_LEADERSHIP: Final = "/RaftNode/TransferLeadership"
CHANGE_MEMBERSHIP: Final = "/RaftNode/ChangeMembership"
_ASIDE_THREADS: Final = 2
_PEERS_AT_LEAST: Final = 8
_KEEPALIVE_MS: Final = 10_000
_LAST_WORDS: Final = 1.0
"""Seconds that calls get at most, when the node stops, to be told that their outcome is unknown."""


class CannotListen(Exception):
    """The address can't be listened on. The text is one line with the mend."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    client_threads: int
    max_waiting_calls: int
    """Client calls in the node, those that are being worked on included."""
    max_streams: int
    """Of clients."""
    max_message_bytes: int
    """Of a request."""


class Pool(ThreadPoolExecutor):
    """A pool of threads that knows how many calls it has taken and are not finished."""

    def __init__(self, name: str, threads: int) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self.calls = 0
        self._idle = threading.Condition()
        self._here = threading.local()
        """`is_kept`: the call that this thread works on outlasts its method."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._idle:
            self.calls += 1
        try:
            return super().submit(self._run, fn, *args, **kwargs)
        except BaseException:
            self.end()
            raise

    def _run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self._here.is_kept = False
        try:
            return fn(*args, **kwargs)
        finally:
            if not self._here.is_kept:
                self.end()

    def keep(self) -> None:
        """The call that the calling thread works on is not finished with its method, but with one `end` from elsewhere,
        which may have been called already."""
        self._here.is_kept = True

    def end(self) -> None:
        """A call that was kept counts no more."""
        with self._idle:
            self.calls -= 1
            if not self.calls:
                self._idle.notify_all()

    def wait_idle(self, seconds: float) -> bool:
        """Wait until there are no calls, but not longer than this. Whether there are none."""
        with self._idle:
            return self._idle.wait_for(lambda: not self.calls, max(seconds, 0.0))


class ClientPool(Pool):
    """The threads for ServeClient. gRPC has a thread wait for the message of its call. Here the message comes first,
    taken in by gRPC's own thread, and only then the call gets one: a hand-over less, and who calls and says nothing
    occupies no thread. Where gRPC's objects are not as expected, all is as gRPC has it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        is_call = len(args) == 7 and args[0] is _answer_in_pool and not kwargs
        if is_call and receive_once(args[1], lambda data: self._received(data, fn, args)):
            with self._idle:
                self.calls += 1
            return Future()
        return super().submit(fn, *args, **kwargs)

    def _received(self, data: bytes | None, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        method, event, state, behavior, wait_for_message, *rest = args
        # Without a message the call has come to its end, and gRPC knows what is to be said then.
        take_message = wait_for_message if data is None else lambda: data
        with suppress(RuntimeError):  # the process is ending
            super().submit(fn, method, event, state, behavior, take_message, *rest)
        self.end()


class _OnTheSpot(ThreadPoolExecutor):
    """No pool at all: what it is given is done by the thread that gives it, and is not to wait. For a refusal must not
    queue in its turn: those who are refused may be as many as like."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        fn(*args, **kwargs)
        return Future()


class _Admission(grpc.ServerInterceptor):
    """Refuses clients' calls while there are too many. Runs in gRPC's own thread, before the call is queued."""

    def __init__(self, bounds: dict[str, tuple[Pool, int, str]]) -> None:
        """`bounds`: for a method, its pool, how many calls there may be, and what to say to one more."""
        self._bounds = bounds
        # Whatever the method takes, a refusal does not wait for a client's message: it might never come.
        on_the_spot = _OnTheSpot(1)
        self._refusals: dict[str, Any] = {
            method: grpc.stream_stream_rpc_method_handler(_in_pool(on_the_spot, _refuse_with(details)))
            for method, (_, _, details) in bounds.items()
        }

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        bound = self._bounds.get(details.method)
        if bound is not None and bound[0].calls >= bound[1]:
            return self._refusals[details.method]
        return continuation(details)


def _refuse_with(details: str) -> Callable[[Iterator[bytes], grpc.ServicerContext], None]:
    def refuse(_: Iterator[bytes], context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{details}; nothing has been done: try again later")

    return refuse


class Server:
    """Listens on one address and has a `Service` answer."""

    def __init__(self, limits: ServerLimits, peers: int, fail: Callable[[BaseException], None]) -> None:
        """`fail` is called when a method raises what it should not, and is to stop the node."""
        self._fail = fail
        peers = max(peers, _PEERS_AT_LEAST)  # there may come more
        # Each peer may have two streams open, each besides the one that it has given up, and two calls.
        self._peer_pool = Pool("peer", 6 * peers + 2)
        self._client_pool = ClientPool("client", limits.client_threads)
        self._stream_pool = Pool("stream", limits.max_streams)
        self._aside_pool = Pool("aside", _ASIDE_THREADS)
        self._streams: set[ClientStream] = set()
        self._snapshot_pool = Pool("install", peers + 1)
        self._backup_pool = Pool("backup", MAX_BACKUPS + 2)
        self._peer_streams: dict[tuple[int, bool], grpc.ServicerContext] = {}
        """The latest of each peer, for entries and for heartbeats."""
        self._snapshot_streams: dict[int, grpc.ServicerContext] = {}
        """As above."""
        self._stopped = threading.Event()
        calls, streams = limits.max_waiting_calls, limits.max_streams
        too_many_calls = f"{calls} calls wait already (MAX_WAITING_CALLS)"
        too_many_streams = f"{streams} clients are connected already (MAX_CLIENT_STREAMS)"
        bounds = {
            SERVE_CLIENT: (self._client_pool, calls, too_many_calls),
            SERVE_CLIENT_STREAM: (self._stream_pool, streams, too_many_streams),
            TRANSFER_LEADERSHIP: (self._client_pool, calls, too_many_calls),
            CHANGE_MEMBERSHIP: (self._client_pool, calls, too_many_calls),
            STATUS: (self._aside_pool, calls, too_many_calls),
        }
        self._server = grpc.server(
            self._client_pool,
            interceptors=[_Admission(bounds)],
            options=[
                # gRPC's default lets a second server share the port, and the calls (hazard 57).
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Peers probe idle connections often; without these two that would count as abuse.
                ("grpc.http2.min_ping_interval_without_data_ms", 10),
                ("grpc.http2.max_ping_strikes", 0),
                # A stream whose other end has vanished without a word (a machine without power, a network cut for long)
                # would keep its threads for ever.
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
                ("grpc.http2.ping_timeout_ms", _KEEPALIVE_MS),
            ],
        )

    def listen(self, address: str) -> int:
        """Take the address, and the port it has got. Raises CannotListen. Calls wait until `serve`."""
        _try_to_bind(address)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if not port:
            raise CannotListen(f"cannot listen on {address}: choose an address of this machine that is not in use")
        return port

    def serve(self, service: Service, backups: Backups) -> None:
        """Answer calls from now on."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "AppendEntries": self._handler(self._peer_pool, wire.AppendEntriesRequest, service.append_entries),
            "AppendEntriesStream": self._peer_stream(service),
            "Backup": self._backup(backups),
            "InstallSnapshot": self._snapshot_stream(service),
            "RequestVote": self._handler(self._peer_pool, wire.RequestVoteRequest, service.request_vote),
            "TimeoutNow": self._handler(self._peer_pool, wire.TimeoutNowRequest, service.timeout_now),
            "ServeClient": self._client_handler(service),
            "ServeClientStream": self._client_stream(service),
            "Status": self._handler(self._aside_pool, wire.StatusRequest, service.status),
            "TransferLeadership": self._handler(
                self._client_pool, wire.TransferLeadershipRequest, service.transfer_leadership
            ),
            "ChangeMembership": self._handler(
                self._client_pool, wire.ChangeMembershipRequest, partial(change_membership, service)
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("RaftNode", methods),))
        self._server.start()

    def aside(self, work: Callable[[], None]) -> None:
        """Have a client's work done in one of the clients' threads."""
        self._client_pool.submit(self._guarded, work)

    def announce(self, members: Sequence[wire.Member]) -> None:
        """Tell all clients that have a stream of new members and addresses."""
        for stream in list(self._streams):
            stream.announce(members)

    def drain(self, seconds: float) -> None:
        """Take no more calls, and wait until those of clients have been answered, but not longer than `seconds`. What
        members say to each other goes on."""
        self._stopped = self._server.stop(seconds + _LAST_WORDS)
        for stream in list(self._streams):
            stream.close()
        deadline = time.monotonic() + seconds
        for pool in (self._client_pool, self._stream_pool):
            pool.wait_idle(deadline - time.monotonic())

    def stop(self) -> None:
        """End what is left after `drain`: everything has been answered by now."""
        for context in [*self._peer_streams.values(), *self._snapshot_streams.values()]:
            context.cancel()
        self._stopped.wait()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as bug:
            self._fail(bug)
            raise

    def _handler(
        self,
        pool: Pool,
        request_type: type[Request],
        method: Callable[[Request, grpc.ServicerContext], Message],
    ) -> grpc.RpcMethodHandler[bytes, Message]:
        """For a call that is answered by the thread that takes it."""

        def answer(data: bytes, context: grpc.ServicerContext) -> Message:
            with self._refusing(context, request_type):
                return method(request_type.FromString(data), context)
            raise AssertionError("a refusal raises")

        return grpc.unary_unary_rpc_method_handler(
            _in_pool(pool, answer), response_serializer=lambda reply: reply.SerializeToString()
        )

    @contextmanager
    def _refusing(self, context: grpc.ServicerContext, request_type: type[Message]) -> Iterator[None]:
        """Ends the call with a status if it is refused inside, and the node if there is a bug."""
        try:
            yield
            return
        except DecodeError:
            refusal = Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"not a {request_type.DESCRIPTOR.name}")
        except Refusal as error:
            refusal = error
        except (grpc.RpcError, GeneratorExit):
            raise  # the other side has gone
        except BaseException as bug:
            self._fail(bug)
            raise
        context.abort(refusal.code, refusal.details)

    def _peer_stream(self, service: Service) -> grpc.RpcMethodHandler[bytes, bytes]:
        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            exchange = Exchange(context) if Answers.are_possible(context) else None
            is_known = False

            def send(reply: wire.AppendEntriesReply) -> None:
                assert exchange is not None
                exchange.send(reply.SerializeToString())

            with self._refusing(context, wire.AppendEntriesRequest):
                for data in exchange or requests:
                    request = wire.AppendEntriesRequest.FromString(data)
                    if exchange is not None:
                        # Answered before it is applied, and taken together with the next one if that comes meanwhile.
                        service.begin_append(request, context, send)
                    else:
                        yield service.append_entries(request, context).SerializeToString()
                    if not is_known and context.is_active():
                        _replace_stream(self._peer_streams, (request.leader_id, bool(request.entries)), context)
                    is_known = True

        return grpc.stream_stream_rpc_method_handler(_in_pool(self._peer_pool, answer))

    def _snapshot_stream(self, service: Service) -> grpc.RpcMethodHandler[bytes, bytes]:
        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            is_known = False
            with self._refusing(context, wire.InstallSnapshotRequest):
                first = wire.InstallSnapshotRequest.FromString(next(requests, b""))
                rest = map(wire.InstallSnapshotRequest.FromString, requests)
                for reply in service.install_snapshot(first, rest, context):
                    if not is_known and context.is_active():
                        _replace_stream(self._snapshot_streams, first.leader_id, context)
                    is_known = True
                    yield reply.SerializeToString()

        return grpc.stream_stream_rpc_method_handler(_in_pool(self._snapshot_pool, answer))

    def _backup(self, backups: Backups) -> grpc.RpcMethodHandler[bytes, bytes]:
        def answer(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._refusing(context, wire.BackupRequest):
                wire.BackupRequest.FromString(data)
                with backups.serve() as replies:
                    for reply in replies:
                        yield reply.SerializeToString()

        return grpc.unary_stream_rpc_method_handler(_in_pool(self._backup_pool, answer))

    def _client_stream(self, service: Service) -> grpc.RpcMethodHandler[bytes, bytes]:
        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            if Answers.are_possible(context):
                answers = Answers(context, lambda size: stream.sent(size))
                stream = ClientStream(service, answers.send, context.cancel, context.cancel)
                self._read_stream(stream, requests, context)
                return
            # As gRPC promises it: one thread reads, another sends.
            queue: SimpleQueue[bytes | None] = SimpleQueue()
            stream = ClientStream(service, queue.put, lambda: queue.put(None), context.cancel)

            def read() -> None:
                self._read_stream(stream, requests, context)
                queue.put(None)

            threading.Thread(target=read, name="stream", daemon=True).start()
            while (data := queue.get()) is not None:
                yield data
                stream.sent(len(data))

        return grpc.stream_stream_rpc_method_handler(_in_pool(self._stream_pool, answer))

    def _read_stream(self, stream: ClientStream, requests: Iterator[bytes], context: grpc.ServicerContext) -> None:
        self._streams.add(stream)
        if not context.add_callback(stream.vanish):
            stream.vanish()
        try:
            self._guarded(lambda: stream.read(requests))
        finally:
            self._streams.discard(stream)

    def _client_handler(self, service: Service) -> grpc.RpcMethodHandler[bytes, bytes]:
        """For a call that nobody waits for: a unary one at the client, for which it makes no difference; here the kind
        with a stream of answers, since gRPC lets its method return before it is answered."""

        def begin(data: bytes, context: grpc.ServicerContext, send: Callable[[bytes | None], None]) -> None:
            response = _Response(context, send, service.answers)

            def end() -> None:
                response.ended()
                self._client_pool.end()

            if not context.add_callback(end):
                return  # the client has gone
            self._client_pool.keep()
            try:
                service.serve_client(wire.ServeClientRequest.FromString(data), context, response)
            except DecodeError:
                response.respond(Refusal(grpc.StatusCode.INVALID_ARGUMENT, "not a ServeClientRequest"))
            except Refusal as refusal:
                response.respond(refusal)
            except BaseException as bug:
                self._fail(bug)
                raise

        begin.experimental_non_blocking = True  # type: ignore[attr-defined]
        begin.experimental_thread_pool = self._client_pool  # type: ignore[attr-defined]
        return grpc.unary_stream_rpc_method_handler(begin)


class _Response:
    """The answer to a call whose method has returned. gRPC's `send` for such calls waits until the message is on its
    way, which whoever holds the turn must not; so the answer and the status leave together, as they do for a unary
    call, through the function that gRPC itself has for that. Where it is missing, `send` has to do.

    What it has taken of the budget it gives back when gRPC is done with the call: when the last byte has been sent, or
    never will be."""

    def __init__(self, context: Any, send: Callable[[bytes | None], None], budget: AnswerBudget) -> None:
        self._context = context
        self._send = send
        self._budget = budget
        self._lock = threading.Lock()  # guards the rest
        self._taken = 0
        self._since = 0.0
        """When it was taken."""
        self._has_ended = False

    def admit(self, size: int) -> None:
        """So many bytes are about to be copied for the answer; at most once. Raises Refusal."""
        self._budget.take(size)
        with self._lock:
            if not self._has_ended:
                self._taken, self._since = size, time.monotonic()
                self._budget.watch(self)
                return
        self._budget.give_back(size)

    def ended(self) -> None:
        """gRPC is done with the call."""
        with self._lock:
            self._has_ended = True
            size, self._taken = self._taken, 0
            self._budget.forget(self)
        self._budget.give_back(size)

    def unsent(self) -> tuple[int, float]:
        with self._lock:
            return self._taken, self._since

    def disconnect(self) -> None:
        self._context.cancel()
        self.ended()

    def respond(self, outcome: wire.ServeClientReply | Refusal) -> None:
        """Answer; once. Does nothing if the client has gone."""
        data = None
        if isinstance(outcome, Refusal):
            self._context.set_code(outcome.code)
            self._context.set_details(outcome.details)
        else:
            data = outcome.SerializeToString()
        if _send_status is not None:
            _send_status(self._context._rpc_event, self._context._state, data)
        else:
            if data is not None:
                self._send(data)
            self._send(None)


def _replace_stream(latest: dict[Any, grpc.ServicerContext], purpose: object, context: grpc.ServicerContext) -> None:
    """A peer that opens a stream has given up the one before for the same purpose: its thread must not wait for what
    never comes. Called when the first request has been admitted; so there is at most one of a purpose a member."""
    older = latest.get(purpose)
    latest[purpose] = context
    if older is not None:
        older.cancel()


def _in_pool(pool: ThreadPoolExecutor, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, with the mark by which grpcio runs it in a pool of its own."""

    def run(request: bytes, context: grpc.ServicerContext) -> Any:
        return method(request, context)

    run.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return run


def _try_to_bind(address: str) -> None:
    """Find out why an address can't be had: gRPC would only say that it can't. Raises CannotListen."""
    host, _, port = address.rpartition(":")
    try:
        places: Sequence[Any] = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        mend = "correct the name, or give an address of this machine in its place"
        raise CannotListen(f"cannot listen on {address}: {host} is no known host ({error.strerror}); {mend}") from None
    failures = [failure for place in places if (failure := _bind_error(*place))]
    in_use = [failure for failure in failures if failure.errno == errno.EADDRINUSE]
    if in_use or len(failures) == len(places):
        raise CannotListen(f"cannot listen on {address}: {_explain((in_use or failures)[0])}")


def _bind_error(family: int, kind: int, protocol: int, _: str, place: Any) -> OSError | None:
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        return error
    return None


def _explain(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another process uses it; stop that one, or choose another address"
        case errno.EADDRNOTAVAIL:
            return "it is not an address of this machine; choose one that is"
        case errno.EACCES:
            return "not permitted; choose a port from 1024 on"
        case _:
            return f"{error.strerror}; choose another address"
