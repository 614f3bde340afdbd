"""A proxy before a server that treats connections as bad networks do: it cuts, freezes, delays and swallows them.

`cut` resets every connection, `freeze` passes nothing on until `thaw`, `delay_seconds` is added each way, `lead_to`
sends connections that come from then on to another server, as an address does that moves. `swallow` is a network that
is gone without a word: from then on what the client sends is dropped before TCP sees it, so that nothing is
acknowledged, no reset comes, and only the client's own time-outs find out. It is done by a socket filter that lets no
packet pass, which needs no rights.
"""

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import make_url

SO_ATTACH_FILTER = 26
RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A filter of one instruction: keep no byte of any packet."""

Ends = tuple[socket.socket, socket.socket]


class FaultProxy:
    """Passes connections on, and does to them what a test asks for."""

    def __init__(self, entrance: socket.socket, host: str, port: int) -> None:
        self.delay_seconds = 0.0
        self.accepted = 0
        self._server = (host, port)
        self._entrance = entrance
        self._flows = threading.Event()
        self._flows.set()
        self._open: list[Ends] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._entrance.getsockname()[1])

    def lead_to(self, port: int) -> None:
        """Send whoever connects from now on to another port."""
        self._server = (self._server[0], port)

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        with self._lock:
            ends, self._open = self._open, []
        for end in (end for both in ends for end in both):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                end.shutdown(socket.SHUT_RD)
            end.close()

    def freeze(self) -> None:
        """Pass nothing on; everybody's packets are acknowledged all the same."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def swallow(self) -> None:
        """Let the network to those who are connected now be gone."""
        keep_nothing = ctypes.create_string_buffer(RETURN_NOTHING)
        program = struct.pack("HL", 1, ctypes.addressof(keep_nothing))
        with self._lock:
            for client, _server in self._open:
                with suppress(OSError):
                    client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def close(self) -> None:
        self._entrance.close()
        self.thaw()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _address = self._entrance.accept()
                self.accepted += 1
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open.append((client, server))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes from one side; when that ends, by a reset too, the other side is told."""
        with suppress(OSError, ValueError):
            while data := source.recv(65536):
                self._flows.wait()
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                target.sendall(data)
        for end in (target, source):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def fault_proxy(url: str) -> Iterator[tuple[FaultProxy, str]]:
    """Lend a proxy before the server of `url`, and the URL that leads through it."""
    server = make_url(url)
    assert server.host is not None
    assert server.port is not None
    with socket.create_server(("127.0.0.1", 0)) as entrance:
        proxy = FaultProxy(entrance, server.host, server.port)
        query = {**server.query, "sslmode": "disable", "gssencmode": "disable"}
        try:
            through = server.set(host="127.0.0.1", port=proxy.port, query=query)
            yield proxy, through.render_as_string(hide_password=False)
        finally:
            proxy.close()
