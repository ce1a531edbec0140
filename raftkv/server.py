"""gRPC's server, with a pool of threads for each kind of call, so that no kind can starve another: theory of operation.

    peer      AppendEntries, RequestVote: a flood of clients must not delay a heartbeat, or there will be an election
    client    ServeClient
    aside     Status; and telling a client that there is no room for its call

gRPC's Python server hands every call to one pool, unless the method names its own: by an attribute that grpcio calls
experimental (tests/node/ has the test that notices if it is ever dropped). `maximum_concurrent_rpcs` would not do, it
refuses members and clients alike. So clients are counted here, where their calls enter the queue for their pool.

A method gets bytes and decodes them itself: what can't be decoded is the sender's mistake and gets a clear answer,
while gRPC would log a traceback. And an exception in a method, which gRPC would log and forget, stops the node.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from raftkv.service import Refusal, Service
from raftkv.wire import raft_pb2 as wire

Request = TypeVar("Request", bound=Message)

SERVE_CLIENT: Final = "/RaftNode/ServeClient"
_ASIDE_THREADS: Final = 2


class CannotListen(Exception):
    """The address can't be listened on. The text is one line with the mend."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    client_threads: int
    max_waiting_calls: int
    """Client calls in the node, those that are being worked on included."""
    max_message_bytes: int
    """Of a request."""


class Pool(ThreadPoolExecutor):
    """A pool of threads that knows how many calls it has taken and not finished."""

    def __init__(self, name: str, threads: int) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self.calls = 0
        self._lock = threading.Lock()

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._lock:
            self.calls += 1
        future = super().submit(*args, **kwargs)
        future.add_done_callback(self._finished)
        return future

    def _finished(self, _: Future[Any]) -> None:
        with self._lock:
            self.calls -= 1


class _Admission(grpc.ServerInterceptor):
    """Refuses clients' calls while too many wait. Runs in gRPC's own thread, before the call is queued."""

    def __init__(self, clients: Pool, aside: Pool, max_calls: int) -> None:
        self._clients = clients
        self._max_calls = max_calls
        self._refusal: Any = grpc.unary_unary_rpc_method_handler(_in_pool(aside, self._refuse))

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        if details.method == SERVE_CLIENT and self._clients.calls >= self._max_calls:
            return self._refusal
        return continuation(details)

    def _refuse(self, _: bytes, context: grpc.ServicerContext) -> None:
        context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{self._max_calls} calls wait already (MAX_WAITING_CALLS); nothing has been done: try again later",
        )


class Server:
    """Listens on one address and has a `Service` answer."""

    def __init__(self, limits: ServerLimits, peers: int, fail: Callable[[BaseException], None]) -> None:
        """`fail` is called when a method raises what it should not, and is to stop the node."""
        self._fail = fail
        self._peer_pool = Pool("peer", 2 * peers + 2)
        self._client_pool = Pool("client", limits.client_threads)
        self._aside_pool = Pool("aside", _ASIDE_THREADS)
        self._server = grpc.server(
            self._client_pool,
            interceptors=[_Admission(self._client_pool, self._aside_pool, limits.max_waiting_calls)],
            options=[
                # gRPC's default lets a second server share the port, and the calls (hazard 57).
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Peers probe idle connections often; without these two that would count as abuse.
                ("grpc.http2.min_ping_interval_without_data_ms", 10),
                ("grpc.http2.max_ping_strikes", 0),
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

    def serve(self, service: Service) -> None:
        """Answer calls from now on."""
        methods = {
            "AppendEntries": self._handler(self._peer_pool, wire.AppendEntriesRequest, service.append_entries),
            "RequestVote": self._handler(self._peer_pool, wire.RequestVoteRequest, service.request_vote),
            "ServeClient": self._handler(self._client_pool, wire.ServeClientRequest, service.serve_client),
            "Status": self._handler(self._aside_pool, wire.StatusRequest, service.status),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("RaftNode", methods),))
        self._server.start()

    def stop(self, grace: float) -> threading.Event:
        """Take no more calls, and give up those that are still in flight after `grace` seconds. The event is set when
        all have been answered or given up."""
        return self._server.stop(grace)

    def _handler(
        self,
        pool: Pool,
        request_type: type[Request],
        method: Callable[[Request, grpc.ServicerContext], Message],
    ) -> grpc.RpcMethodHandler[bytes, Message]:
        def answer(data: bytes, context: grpc.ServicerContext) -> Message:
            try:
                return method(request_type.FromString(data), context)
            except DecodeError:
                refusal = Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"not a {request_type.DESCRIPTOR.name}")
            except Refusal as error:
                refusal = error
            except BaseException as bug:
                self._fail(bug)
                raise
            context.abort(refusal.code, refusal.details)
            raise AssertionError("abort() raises")

        return grpc.unary_unary_rpc_method_handler(
            _in_pool(pool, answer), response_serializer=lambda reply: reply.SerializeToString()
        )


def _in_pool(pool: Pool, method: Callable[..., Any]) -> Callable[..., Any]:
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
        raise CannotListen(f"cannot listen on {address}: {host} is no known host ({error.strerror})") from None
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
