"""A TCP proxy whose connections can stop to carry anything, as behind a middlebox that has forgotten them: both ends
are acknowledged what they send, and neither hears of the other again. New connections work."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class StallingProxy:
    def __init__(self, target: str, port: int) -> None:
        host, _, target_port = target.rpartition(":")
        self._target = host, int(target_port)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._stalled: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._sockets) // 2

    def stall(self) -> None:
        """Those that there are."""
        self._stalled.update(self._sockets)

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if source not in self._stalled:
                    sink.sendall(data)
            if source not in self._stalled:
                sink.shutdown(socket.SHUT_WR)


@contextmanager
def stalling_proxy(target: str, port: int = 0) -> Iterator[StallingProxy]:
    """To `target`, at this port, or at any."""
    proxy = StallingProxy(target, port)
    try:
        yield proxy
    finally:
        proxy.close()
