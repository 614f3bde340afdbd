"""The proxy of the fault tests tells each side what became of the other; one that hides it has a test hang."""

import socket
import struct
import time

from tests.fault_proxy import fault_proxy


def test_a_reset_by_the_server_is_the_end_for_its_client_too() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as door,
        fault_proxy(f"postgresql://u@127.0.0.1:{door.getsockname()[1]}/d") as (proxy, _url),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client,
    ):
        server, _address = door.accept()
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        # The proxy waits for both sides by now; what is under way would have it see the reset as well.
        time.sleep(0.1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()

        assert client.recv(1) == b""
