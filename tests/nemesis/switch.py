"""A network of the nemesis's own, packet by packet: theory of operation.

Each node lives in a network namespace whose one interface is a TUN device: what the node sends comes out of a file
descriptor as IP packets, and what is written there reaches the node. A small process holds all of the descriptors and
is the switch between them, one more being the clients'. It forwards each packet at once, or later, or not at all, as
its link says; so the nodes' TCP sees what it would see of a bad network: silence, retransmissions, duplicates, a
connection half open. To reset a connection, the switch answers its packets with an RST for a moment.

The kernel's own means would be nftables and the netem queue; many kernels lack netem, and so delays and loss.

The addresses are from 192.0.2.0/24, which is set aside for documentation: nobody has them.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final

from tests.nemesis.network import Keeper, Link, Links, Pair, say
from tests.nemesis.sandbox import run
from tests.support.processes import ROOT, Cluster

CLIENTS: Final = 254
"""The last byte of the clients' address; a node's is its id."""
_PORT: Final = 50051
_MTU: Final = 16384
_RESET_SECONDS: Final = 0.3
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_TCP: Final = 6
_RST: Final = 0x04
_ACK: Final = 0x10


def _ip(host: int) -> str:
    return f"192.0.2.{host}"


def _namespace(host: int) -> str:
    return f"node-{host}"


class SwitchedNetwork:
    """Namespaces for `size` nodes and the switch between them. Needs a sandbox."""

    name = "namespaces, with a switch between them"
    loses_packets = True

    def __init__(self, size: int) -> None:
        hosts = {host: _open_tun(f"tun-{host}") for host in [*range(1, size + 1), CLIENTS]}
        for host in hosts:
            _plug_in(host, f"tun-{host}")
        self.addresses = [f"{_ip(host)}:{_PORT}" for host in range(1, size + 1)]
        command = [sys.executable, "-m", "tests.nemesis.switch", *(f"{host}={fd}" for host, fd in hosts.items())]
        self._keeper = Keeper(command, cwd=ROOT, pass_fds=tuple(hosts.values()))
        for fd in hosts.values():
            os.close(fd)
        self.change = self._keeper.change
        self.reset = self._keeper.reset
        self.close = self._keeper.close

    def inside(self, host: int) -> list[str]:
        """The words to put before a command that is to run at this host."""
        return ["nsenter", f"--net=/run/netns/{_namespace(host)}", "--"]

    def connect(self, cluster: Cluster) -> None:
        """Have each of the cluster's nodes run at its host."""
        cluster.launcher = lambda node: self.inside(node.id)


def _open_tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def _plug_in(host: int, interface: str) -> None:
    """Move the interface to the host's namespace, and bring it up. The clients' stays where the nemesis is."""
    inside = ["ip"]
    if host != CLIENTS:
        run("ip", "netns", "add", _namespace(host))
        run("ip", "link", "set", interface, "netns", _namespace(host))
        inside = ["ip", "-n", _namespace(host)]
        run(*inside, "link", "set", "lo", "up")
    run(*inside, "addr", "add", f"{_ip(host)}/24", "dev", interface)
    run(*inside, "link", "set", interface, "mtu", str(_MTU), "up")


# ---- the switch's own process ----------------------------------------------------------------------------------------


class Switch:
    """Forwards packets between file descriptors."""

    def __init__(self, ports: dict[int, int]) -> None:
        """`ports`: the descriptor of each host."""
        self._ports = ports
        self._hosts = {fd: host for host, fd in ports.items()}
        self._links = Links()
        self._resetting: dict[Pair, float] = {}
        self._later: list[tuple[float, int, int, bytes]] = []
        """(when, a number to keep the order, to whom, packet)"""
        self._count = itertools.count()
        self._random = random.Random(0)

    def serve(self) -> None:
        """Until the commands end."""
        poll = select.poll()
        for fd in (sys.stdin.fileno(), *self._hosts):
            poll.register(fd, select.POLLIN)
        while True:
            now = time.monotonic()
            wait_ms = max(0.0, self._later[0][0] - now) * 1000 + 1 if self._later else None
            for fd, _ in poll.poll(wait_ms):
                if fd in self._hosts:
                    self._take(self._hosts[fd], os.read(fd, 65536))
                elif not self._obey(sys.stdin.readline()):
                    return
            self._deliver_due()

    def _obey(self, line: str) -> bool:
        if not line:
            return False
        until = time.monotonic() + _RESET_SECONDS
        for a, b in self._links.obey(line):
            self._resetting[a, b] = self._resetting[b, a] = until
        say("ok", sys.stdout)
        return True

    def _take(self, sender: int, packet: bytes) -> None:
        if packet[0] >> 4 != 4:
            return  # the kernel's own IPv6 chatter
        recipient = packet[19]
        if recipient not in self._ports:
            return
        link = self._links[sender, recipient]
        if self._resetting and self._resetting.get((sender, recipient), 0.0) > time.monotonic():
            if answer := reset_for(packet):
                self._write(sender, answer)
        elif not (link.cut or self._random.random() < link.loss):
            self._forward(recipient, packet, link)

    def _forward(self, recipient: int, packet: bytes, link: Link) -> None:
        if not (link.delay or link.jitter):
            self._write(recipient, packet)
            return
        when = time.monotonic() + link.delay + self._random.random() * link.jitter
        heapq.heappush(self._later, (when, next(self._count), recipient, packet))

    def _deliver_due(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, _, recipient, packet = heapq.heappop(self._later)
            self._write(recipient, packet)

    def _write(self, recipient: int, packet: bytes) -> None:
        os.write(self._ports[recipient], packet)


def reset_for(packet: bytes) -> bytes:
    """The packet that breaks the connection which `packet` belongs to, for its sender; empty if there is none."""
    header = (packet[0] & 0x0F) * 4
    if packet[9] != _TCP or len(packet) < header + 20 or packet[header + 13] & _RST:
        return b""
    source, destination, sequence, acknowledged = struct.unpack_from("!HHII", packet, header)
    length = max(1, len(packet) - header - (packet[header + 12] >> 4) * 4)
    # As if the other side had sent it: its next sequence number is what the sender has acknowledged.
    tcp = struct.pack(
        "!HHIIBBHHH", destination, source, acknowledged, sequence + length & 0xFFFFFFFF, 0x50, _RST | _ACK, 0, 0, 0
    )
    here, there = packet[12:16], packet[16:20]
    pseudo = there + here + struct.pack("!BBH", 0, _TCP, len(tcp))
    tcp = tcp[:16] + _checksum(pseudo + tcp) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, _TCP, 0) + there + here
    return ip[:10] + _checksum(ip) + ip[12:] + tcp


def _checksum(data: bytes) -> bytes:
    """The internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(_words(data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _words(data: bytes) -> Iterator[int]:
    return (word for (word,) in struct.iter_unpack("!H", data))


def main(words: Iterable[str]) -> None:
    ports = {int(host): int(fd) for host, _, fd in (word.partition("=") for word in words)}
    say("ready", sys.stdout)
    Switch(ports).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
