"""A proxy before PostgreSQL that passes everything on but notifications, as a pooler in transaction mode does.

Whatever the client says goes through as it is. What the server says is taken apart into messages: one byte of type,
four of length; those of type `A` (NotificationResponse) are dropped.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import make_url

HEADER_BYTES = 5
NOTIFICATION = b"A"


@contextmanager
def deaf_proxy(url: str) -> Iterator[str]:
    """Lend the URL of a proxy before the server of `url`."""
    server = make_url(url)
    with socket.create_server(("127.0.0.1", 0)) as entrance:
        threading.Thread(target=_accept, args=[entrance, (server.host, server.port)], daemon=True).start()
        port = entrance.getsockname()[1]
        query = {**server.query, "sslmode": "disable", "gssencmode": "disable"}
        yield server.set(host="127.0.0.1", port=port, query=query).render_as_string(hide_password=False)


def _accept(entrance: socket.socket, server: tuple[str, int]) -> None:
    with suppress(OSError):
        while True:
            client, _address = entrance.accept()
            upstream = socket.create_connection(server)
            for work, ends in ((_pass_all, (client, upstream)), (_pass_but_notifications, (upstream, client))):
                threading.Thread(target=work, args=ends, daemon=True).start()


def _pass_all(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError), source, target:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


def _pass_but_notifications(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError, EOFError), source, target:
        while True:
            header = _exactly(source, HEADER_BYTES)
            body = _exactly(source, int.from_bytes(header[1:], "big") - 4)
            if header[:1] != NOTIFICATION:
                target.sendall(header + body)


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
