"""A mail server of the demo's own: it speaks SMTP, takes every message, and delivers none.

So the demo's mails go through a real conversation, and nobody gets one. It listens on the loopback interface only,
keeps the last messages in memory, and counts all of them. `python -m eventlog.cli.demo.mailbox` runs it in a terminal.

The commands are those of RFC 5321 that a client needs for plain delivery, and each limit that is met is answered with
the code the standard has for it.
"""

import argparse
import socketserver
import threading
from collections import deque
from collections.abc import Callable
from email import message_from_bytes, policy

import msgspec

HOST = "127.0.0.1"
PORT = 2525
KEPT_MAX = 1_000
RECIPIENTS_MAX = 100
LINE_BYTES_MAX = 4_096
MESSAGE_BYTES_MAX = 1_000_000
IDLE_SECONDS_MAX = 60.0


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it was received: the envelope, and the content with its lines unstuffed."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes

    @property
    def subject(self) -> str:
        """The subject line, for people."""
        return str(message_from_bytes(self.content, policy=policy.default)["Subject"] or "(no subject)")


class Mailbox:
    """The server. Use it as a context manager; `address` is where it listens, on a free port unless one is named.

    Raises `OSError` when the port is taken.
    """

    def __init__(self, *, port: int = 0, received: Callable[[Mail], None] | None = None) -> None:
        self._received = received
        self._lock = threading.Lock()
        self._server = _Server((HOST, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, name="eventlog-mailbox", daemon=True)
        self.count = 0
        self.mails: deque[Mail] = deque(maxlen=KEPT_MAX)

    @property
    def address(self) -> str:
        return f"{HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> "Mailbox":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def keep(self, mail: Mail) -> None:
        """Take a message in; called by the conversations, each in a thread of its own."""
        with self._lock:
            self.count += 1
            self.mails.append(mail)
        if self._received is not None:
            self._received(mail)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], mailbox: Mailbox) -> None:
        super().__init__(address, _Conversation)
        self.mailbox = mailbox


class _Conversation(socketserver.StreamRequestHandler):
    """One client. The envelope is built by MAIL and RCPT, and gone after DATA, RSET or a new greeting."""

    server: _Server
    timeout = IDLE_SECONDS_MAX

    def handle(self) -> None:
        try:
            self._converse()
        except (OSError, EOFError):
            return  # the client has gone, or has been silent for too long

    def _converse(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._reply("220 the flights' mailbox, ESMTP")
        verb = ""
        while verb != "QUIT":
            line = self._line()
            verb, _, argument = line.partition(" ")
            verb = verb.upper()
            self._reply(self._answers.get(verb, _Conversation._unknown)(self, argument.strip()))

    def _hello(self, _argument: str) -> str:
        self._forget()
        return f"250 {HOST}"

    def _extended_hello(self, _argument: str) -> str:
        self._forget()
        return f"250-{HOST}\r\n250-8BITMIME\r\n250 SIZE {MESSAGE_BYTES_MAX}"

    def _mail(self, argument: str) -> str:
        sender = _path(argument, "FROM:")
        if sender is None:
            return "501 write MAIL FROM:<address>"
        if self._sender is not None:
            return "503 a mail is begun already"
        self._sender = sender
        return "250 ok"

    def _rcpt(self, argument: str) -> str:
        recipient = _path(argument, "TO:")
        if not recipient:
            return "501 write RCPT TO:<address>"
        if self._sender is None:
            return "503 MAIL comes first"
        if len(self._recipients) >= RECIPIENTS_MAX:
            return "452 too many recipients"
        self._recipients.append(recipient)
        return "250 ok"

    def _data(self, _argument: str) -> str:
        if self._sender is None or not self._recipients:
            return "503 MAIL and RCPT come first"
        self._reply("354 end with a dot on a line of its own")
        content = self._content()
        if content is None:
            self._forget()
            return f"552 more than {MESSAGE_BYTES_MAX} bytes"
        mail = Mail(sender=self._sender, recipients=tuple(self._recipients), content=content)
        self._forget()
        self.server.mailbox.keep(mail)
        return "250 taken"

    def _reset(self, _argument: str) -> str:
        self._forget()
        return "250 ok"

    def _noop(self, _argument: str) -> str:
        return "250 ok"

    def _quit(self, _argument: str) -> str:
        return "221 bye"

    def _unknown(self, _argument: str) -> str:
        return "500 not known here"

    _answers: dict[str, Callable[["_Conversation", str], str]] = {  # noqa: RUF012  # a table of methods, never changed
        "HELO": _hello,
        "EHLO": _extended_hello,
        "MAIL": _mail,
        "RCPT": _rcpt,
        "DATA": _data,
        "RSET": _reset,
        "NOOP": _noop,
        "QUIT": _quit,
    }

    def _content(self) -> bytes | None:
        """Read to the lone dot. A line that began with a dot was sent with two; None when there was too much of it."""
        pieces: list[bytes] = []
        size = 0
        line_begins = True
        while (piece := self._piece()) != b".\r\n" or not line_begins:
            size += len(piece)
            if size <= MESSAGE_BYTES_MAX:
                pieces.append(piece.removeprefix(b".") if line_begins else piece)
            line_begins = piece.endswith(b"\r\n")
        return b"".join(pieces) if size <= MESSAGE_BYTES_MAX else None

    def _line(self) -> str:
        return self._piece().decode("utf-8", "replace").rstrip("\r\n")

    def _piece(self) -> bytes:
        """Read a line, or as much of it as is held in memory at once."""
        piece = self.rfile.readline(LINE_BYTES_MAX)
        if not piece:
            raise EOFError
        return piece

    def _reply(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())

    def _forget(self) -> None:
        self._sender = None
        self._recipients = []


def _path(argument: str, keyword: str) -> str | None:
    """Read `FROM:<address> SIZE=...`; the address may be empty, as that of a bounce is."""
    if argument[: len(keyword)].upper() != keyword:
        return None
    address = argument[len(keyword) :].strip().split(" ")[0]
    return address[1:-1] if address[:1] == "<" and address[-1:] == ">" else None


def main() -> None:
    """Run the server until ^C, and print a line for each message."""
    parser = argparse.ArgumentParser(prog="python -m eventlog.cli.demo.mailbox", description=main.__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"where to listen on {HOST} (default: {PORT})")
    with Mailbox(port=parser.parse_args().port, received=_print) as mailbox:
        print(f"Taking mail at {mailbox.address}, and delivering none. ^C ends it.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"\n{mailbox.count} messages taken.")


def _print(mail: Mail) -> None:
    print(f"{', '.join(mail.recipients)}: {mail.subject}", flush=True)


if __name__ == "__main__":
    main()
