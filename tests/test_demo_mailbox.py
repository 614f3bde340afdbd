"""The demo's own mail server, from the other side of a real conversation."""

import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from email.message import EmailMessage

import pytest

from eventlog.cli.demo.mailbox import MESSAGE_BYTES_MAX, RECIPIENTS_MAX, Mailbox


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as running:
        yield running


@pytest.fixture
def client(mailbox: Mailbox) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP(mailbox.address, local_hostname="localhost", timeout=10) as connected:
        yield connected


def test_a_message_arrives_as_it_was_sent(mailbox: Mailbox, client: smtplib.SMTP) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@flights.example", "b@flights.example", "Verspätet"
    message.set_content("Two hours late.\n")

    client.send_message(message)

    [mail] = mailbox.mails
    assert (mail.sender, mail.recipients, mail.subject) == ("a@flights.example", ("b@flights.example",), "Verspätet")
    assert mail.content.endswith(b"\r\n\r\nTwo hours late.\r\n")


@pytest.mark.parametrize("content", [b".\r\n", b"..\r\n", b"a\r\n.\r\n.b\r\n", b"x" * 10_000 + b".\r\n.\r\n"])
def test_dots_at_the_beginning_of_lines_survive(mailbox: Mailbox, client: smtplib.SMTP, content: bytes) -> None:
    client.sendmail("a@flights.example", ["b@flights.example"], content)
    assert [mail.content for mail in mailbox.mails] == [content]


@pytest.mark.parametrize("place", [4_095, 4_096, 4_097])
def test_a_dot_that_follows_a_cut_in_a_long_line_ends_nothing(
    mailbox: Mailbox, client: smtplib.SMTP, place: int
) -> None:
    content = b"x" * place + b".\r\n"
    client.sendmail("a@flights.example", ["b@flights.example"], content)
    assert [mail.content for mail in mailbox.mails] == [content]


def test_several_messages_and_recipients_go_through_one_conversation(mailbox: Mailbox, client: smtplib.SMTP) -> None:
    for number in range(3):
        client.sendmail("a@flights.example", ["b@flights.example", "c@flights.example"], f"{number}\r\n")
    assert [mail.content for mail in mailbox.mails] == [b"0\r\n", b"1\r\n", b"2\r\n"]
    assert mailbox.count == 3


def test_reset_forgets_the_envelope(client: smtplib.SMTP) -> None:
    client.ehlo()
    client.mail("a@flights.example")
    client.rcpt("b@flights.example")
    assert client.rset()[0] == 250
    assert client.docmd("DATA")[0] == 503


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("HELO localhost", 250),
        ("NOOP", 250),
        ("noop", 250),
        ("VRFY somebody", 500),
        ("MAIL somebody", 501),
        ("RCPT TO:<b@flights.example>", 503),
        ("DATA", 503),
        ("MAIL FROM:<> SIZE=100", 250),
    ],
)
def test_a_command_gets_the_code_of_the_standard(client: smtplib.SMTP, line: str, code: int) -> None:
    assert client.docmd(line)[0] == code


def test_a_second_sender_is_refused(client: smtplib.SMTP) -> None:
    client.mail("a@flights.example")
    assert client.mail("a@flights.example")[0] == 503


def test_more_recipients_than_the_limit_are_refused(client: smtplib.SMTP) -> None:
    client.mail("a@flights.example")
    codes = [client.rcpt("b@flights.example")[0] for _ in range(RECIPIENTS_MAX + 1)]
    assert codes == [250] * RECIPIENTS_MAX + [452]


def test_a_message_over_the_limit_is_refused_and_the_next_one_taken(mailbox: Mailbox, client: smtplib.SMTP) -> None:
    client.helo()  # without EHLO the client does not know the limit, and sends
    too_much = (b"x" * 998 + b"\r\n") * (MESSAGE_BYTES_MAX // 1_000 + 1)
    with pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail("a@flights.example", ["b@flights.example"], too_much)
    client.sendmail("a@flights.example", ["b@flights.example"], b"short\r\n")
    assert refused.value.smtp_code == 552
    assert [mail.content for mail in mailbox.mails] == [b"short\r\n"]


def test_a_client_that_hangs_up_in_the_middle_leaves_no_message(mailbox: Mailbox) -> None:
    host, port = mailbox.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nhalf")
        client.shutdown(socket.SHUT_WR)
        while client.recv(4_096):
            pass
    assert mailbox.count == 0


def test_it_runs_in_a_terminal_and_names_what_it_takes() -> None:
    words = [sys.executable, "-m", "eventlog.cli.demo.mailbox", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[3].rstrip(",")
        with smtplib.SMTP(address, local_hostname="localhost", timeout=10) as client:
            client.sendmail("a@flights.example", ["b@flights.example"], b"Subject: Late\r\n\r\nVery.\r\n")
        assert process.stdout.readline() == "b@flights.example: Late\n"
        process.terminate()
