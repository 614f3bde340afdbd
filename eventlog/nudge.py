"""Ends a wait from another thread: a pair of sockets, one end of which lies among what is waited for."""

import selectors
import socket


class Nudge:
    """Something to wait for together with other sockets. `give` may be called from any thread, and after `close`."""

    def __init__(self) -> None:
        self._hears, self._speaks = socket.socketpair()
        self._hears.settimeout(0)
        self._speaks.settimeout(0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._hears, selectors.EVENT_READ)

    def watch(self, file: int) -> None:
        """Wait for this descriptor too."""
        self._selector.register(file, selectors.EVENT_READ)

    def give(self) -> None:
        try:
            self._speaks.send(b".")
        except OSError:
            # Nudged often enough already, or nobody waits any more.
            return

    def wait(self, seconds: float) -> bool:
        """Wait for a nudge or a watched descriptor, at most so long; return whether there was a nudge."""
        self._selector.select(seconds)
        try:
            return bool(self._hears.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._selector.close()
        self._hears.close()
        self._speaks.close()
