"""Where there are no namespaces: a TCP proxy for each ordered pair of nodes: theory of operation.

Node `a` reaches node `b` through a port that nobody else uses, so the proxy knows both ends of every connection: what
comes from `a` travels on the link (a, b), what comes back on (b, a). On a link that is cut, bytes are held and go on
when it is whole again, as TCP would do with its retransmissions; a slow link holds each piece for its delay.
Connections are reset by closing them hard. Nothing can be lost or come twice: that takes packets (`switch.py`).

All the nodes have one list of addresses, the real ones, since they compare it. That a connection goes to a proxy
instead is arranged in the node's process (`proxied_node.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from tests.nemesis.network import Keeper, Links, Pair, all_pairs, say
from tests.support.processes import ROOT, Cluster, free_addresses

PROXIES: Final = "RAFTKV_NEMESIS_PROXIES"
"""The environment variable with a JSON object for a node: the proxy's address for each address."""

_PIECE_BYTES: Final = 65536
_LOOK_SECONDS: Final = 0.01
"""How often a held piece looks whether it may go on."""
_HARD_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: close sends an RST."""


class ProxiedNetwork:
    """Proxies between the nodes at `addresses`, on the loopback."""

    name = "loopback, with a proxy for each pair of nodes"
    loses_packets = False

    def __init__(self, size: int) -> None:
        self.addresses = free_addresses(size)
        targets = dict(enumerate(self.addresses, start=1))
        self._keeper = Keeper([sys.executable, "-m", "tests.nemesis.proxy", json.dumps(targets)], cwd=ROOT)
        self._ports: dict[Pair, int] = {(a, b): port for a, b, port in self._keeper.greeting}
        self.change = self._keeper.change
        self.reset = self._keeper.reset
        self.close = self._keeper.close

    def proxies_of(self, node_id: int) -> dict[str, str]:
        """Where this node has to connect to, for each address."""
        return {self.addresses[b - 1]: f"127.0.0.1:{port}" for (a, b), port in self._ports.items() if a == node_id}

    def connect(self, cluster: Cluster) -> None:
        """Have the cluster's nodes use the proxies."""
        cluster.program = ["-m", "tests.nemesis.proxied_node"]
        cluster.environment["PYTHONPATH"] = str(ROOT)
        cluster.launcher = lambda node: ["env", f"{PROXIES}={json.dumps(self.proxies_of(node.id))}"]


# ---- the proxies' own process ----------------------------------------------------------------------------------------


class Proxies:
    """All of them, in one event loop."""

    def __init__(self) -> None:
        self._links = Links()
        self._connections: dict[Pair, set[asyncio.StreamWriter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, targets: Mapping[int, str]) -> None:
        """Until the commands end."""
        ports = [(a, b, await self._listen((a, b), targets[b])) for a, b in all_pairs(targets)]
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        say(ports, sys.stdout)
        while line := await commands.readline():
            for a, b in self._links.obey(line.decode()):
                self._reset((a, b))
                self._reset((b, a))
            say("ok", sys.stdout)

    async def _listen(self, pair: Pair, target: str) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connect(pair, target, reader, writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    def _reset(self, pair: Pair) -> None:
        for writer in self._connections.get(pair, set()):
            _close_hard(writer)

    async def _connect(self, pair: Pair, target: str, from_a: asyncio.StreamReader, to_a: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        await self._pass(pair)  # a SYN needs the link too
        try:
            from_b, to_b = await asyncio.open_connection(host, int(port))
        except OSError:
            _close_hard(to_a)
            return
        writers = self._connections.setdefault(pair, set())
        writers |= {to_a, to_b}
        back = (pair[1], pair[0])
        await asyncio.gather(self._pump(pair, from_a, to_b), self._pump(back, from_b, to_a))
        writers -= {to_a, to_b}

    async def _pump(self, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes in one direction, until either end is gone."""
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await self._pass(pair)
                writer.write(piece)
                await writer.drain()
        await self._pass(pair)
        _close_hard(writer)

    async def _pass(self, pair: Pair) -> None:
        """Wait as long as the link makes a piece wait."""
        while self._links[pair].cut:
            await asyncio.sleep(_LOOK_SECONDS)
        link = self._links[pair]
        if link.delay or link.jitter:
            await asyncio.sleep(link.delay + random.random() * link.jitter)


def _close_hard(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HARD_CLOSE)
    writer.transport.abort()


def main(words: Sequence[str]) -> None:
    targets = {int(node_id): address for node_id, address in json.loads(words[0]).items()}
    asyncio.run(Proxies().serve(targets))


if __name__ == "__main__":
    main(sys.argv[1:])
