"""`status`: what it tells, the keys programs rely on, and the screen that is kept up to date."""

import codecs
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from eventlog.cli import watching as watching_module
from eventlog.subscribers.status import Status, SubscriberStatus
from tests.cli_support import DEADLINE_SECONDS, Shop, command
from tests.log_support import engine_of, wait_until

PINNED = {"head", "high_water_mark", "held_back_by", "subscribers"}
PINNED_OF_EACH = {"name", "kind", "state", "checkpoint", "lag", "lag_exact", "failures", "owner"}
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def test_the_keys_that_are_promised_stay_and_others_were_added(shop: Shop) -> None:
    shop.orders(1, -1)
    shop.drain()
    found = shop.json("status")
    assert set(found) >= PINNED
    assert set(found) - PINNED == {"held_back_seconds", "workers", "rate"}
    mail = next(one for one in found["subscribers"] if one["name"] == "mail")
    assert set(mail) >= PINNED_OF_EACH
    assert set(mail) - PINNED_OF_EACH == {
        "lag_seconds",
        "rate",
        "last_error",
        "partitions",
        "outage_handler",
        "outage_since",
        "log",
        "state_reason",
        "ahead",
    }
    assert set(mail["last_error"]) == {"position", "state", "error_type", "message", "at"}
    assert (mail["rate"], mail["lag_seconds"]) == (None, 0.0)


def test_a_table_in_a_pipe_has_every_column(shop: Shop) -> None:
    shop.orders(1, -1)
    shop.drain()
    titles, board, mail = (re.split(r"\s{2,}", line) for line in shop.cli("status").out.splitlines()[1:])
    assert titles == [
        "SUBSCRIBER",
        "KIND",
        "STATE",
        "CHECKPOINT",
        "LAG",
        "AGE",
        "FAILURES",
        "LAST ERROR",
        "OWNER",
    ]
    assert board == ["board", "projection", "running", "2", "0", "-", "-", "-", "-"]
    assert mail == ["mail", "effect", "running", "2", "0", "-", "1 parked", "ValueError at 2", "-"]


def test_what_lags_has_an_age(shop: Shop) -> None:
    shop.cli("register", "--app", "shop:app")
    shop.orders(1)
    wait_until(lambda: shop.status("mail")["lag_seconds"] > 1, what="a second")
    assert re.search(r"^mail .* 0    1  [ \d]\d s ", shop.cli("status").out, re.MULTILINE)


def test_watching_in_a_pipe_wants_lines(shop: Shop) -> None:
    for words in ((), ("-o", "json")):
        ran = shop.cli("status", "--watch", *words)
        assert ran.code == 2
        assert "--output jsonl" in ran.err


class Screen:
    """A command on a terminal of its own, whose screen is looked at while it runs."""

    def __init__(self, file: int, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.shown = ""

    def shows(self, text: str) -> None:
        """Wait until something stands on the screen that was not there when last asked."""
        began, deadline = len(self.shown), time.monotonic() + DEADLINE_SECONDS
        while text not in SEQUENCE.sub("", self.shown[began:]):
            assert time.monotonic() < deadline, self.shown
            self.read(0.1)

    def read(self, seconds: float) -> None:
        if select.select([self._file], [], [], seconds)[0]:
            self.shown += self._decoder.decode(os.read(self._file, 65_536))

    def types(self, keys: bytes) -> None:
        os.write(self._file, keys)

    def becomes(self, *, columns: int, lines: int) -> None:
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def ends(self) -> int:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self.read(0.05)
        self.read(0.2)
        return self.process.returncode


@contextmanager
def watching(shop: Shop, *words: str) -> Iterator[Screen]:
    """`status --watch` on a terminal of 110 columns."""
    ours, theirs = pty.openpty()
    opening = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(theirs)]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*opening, *command("status", "--watch", "0.3", *words)],
        cwd=shop.folder,
        env={**environment, "TERM": "xterm"},
        start_new_session=True,
    )
    screen = Screen(ours, process)
    screen.becomes(columns=110, lines=30)
    try:
        yield screen
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


@pytest.fixture
def quiet_shop(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shop:
    shop = Shop.open(tmp_path, sqlite_url, monkeypatch=monkeypatch, capsys=capsys)
    shop.cli("register", "--app", "shop:app")
    return shop


def test_a_document_an_interval_until_the_reader_goes(quiet_shop: Shop) -> None:
    process = subprocess.Popen(command("status", "--watch", "0.1", "-o", "jsonl"), stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        first, second = (msgspec.json.decode(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    assert first["at"] < second["at"]
    assert (first["rate"], second["rate"]) == (None, 0.0)
    assert [one["name"] for one in second["subscribers"]] == ["board", "mail"]
    assert [one["rate"] for one in second["subscribers"]] == [0.0, 0.0]


def test_the_screen_follows_the_log_and_the_window_and_leaves_the_terminal_as_it_was(quiet_shop: Shop) -> None:
    with watching(quiet_shop) as screen:
        screen.shows("Head 0, high-water mark 0")
        before = termios.tcgetattr(screen._file)
        quiet_shop.orders(1, -1)
        screen.shows("Head 2, high-water mark 2")
        quiet_shop.drain()
        screen.shows("ValueError at 2")
        screen.becomes(columns=60, lines=8)
        screen.shows("and 1 more")
        screen.types(b"q")
        assert screen.ends() == 0
        assert before[3] & termios.ICANON == 0
        assert termios.tcgetattr(screen._file)[3] & termios.ICANON
    assert screen.shown.count("\x1b[?1049h") == screen.shown.count("\x1b[?1049l") == 1


def test_a_narrow_screen_has_row_under_row_as_status_has_and_says_what_to_do(quiet_shop: Shop) -> None:
    """The board halts; nothing of it is cut off at 60 columns, and its hint is there."""
    quiet_shop.orders(*[1] * 12)
    with engine_of(quiet_shop.url) as engine, engine.begin() as connection:
        connection.exec_driver_sql(
            "create trigger no before insert on shop_totals begin select raise(abort, 'no'); end"
        )
    source = (quiet_shop.folder / "shop.py").read_text()
    quiet_shop.module("shop", source.replace("tables=[totals]", "tables=[totals], retry=Retry(attempts=1)"))
    quiet_shop.drain()
    with watching(quiet_shop) as screen:
        screen.becomes(columns=60, lines=30)
        screen.shows("subscriber  board")
        screen.shows("board is halted at a failure: `eventlog failures board`")
        assert "…" not in screen.shown.rpartition("subscriber  board")[2]
        screen.types(b"q")
        assert screen.ends() == 0


def status_of(*subscribers: SubscriberStatus) -> Status:
    return Status(
        head=9, high_water_mark=9, held_back_by=(), held_back_seconds=0.0, workers=0, subscribers=tuple(subscribers)
    )


def standing(name: str, state: str) -> SubscriberStatus:
    return SubscriberStatus(
        name=name,
        kind="effect",
        state=state,
        checkpoint=123_456,
        lag=3_210,
        lag_exact=True,
        lag_seconds=99.0,
        failures={"parked": 1_200, "blocked": 5},
        last_error=None,
        owner="somebody@somewhere/4711",
        partitions=1,
        outage_handler="notify",
        outage_since=datetime(2026, 11, 23, 12, tzinfo=UTC),
    )


@pytest.mark.parametrize(("columns", "lines"), [(40, 12), (60, 24), (80, 10), (100, 30), (200, 8)])
def test_whatever_the_window_the_screen_fits_it_and_has_what_is_urgent_first(columns: int, lines: int) -> None:
    found = status_of(
        standing("well", "running"),
        standing("away", "outage"),
        standing("stuck", "halted"),
        standing("restored-some-time-ago", "ahead"),
    )
    console = Console(width=columns, height=lines, file=io.StringIO(), color_system=None)
    console.print(watching_module._screen(watching_module._Seen(status=found, at="12:00:00"), console, interval=2.0))
    screen = console.file.getvalue()  # type: ignore[attr-defined]  # it is the buffer of above
    assert len(screen.splitlines()) <= lines, screen
    assert max(map(len, screen.splitlines())) <= columns
    assert "…" not in screen
    assert ("`eventlog verify restored-some-time-ago`" in screen.replace("\n", " ")) is (lines >= 24)
    assert "restored-some-time-ago" in screen
    assert screen.rstrip().endswith("q leaves")


def test_a_database_that_fails_is_waited_for_and_control_c_leaves_the_screen(quiet_shop: Shop) -> None:
    with watching(quiet_shop) as screen:
        screen.shows("Head 0")
        with engine_of(quiet_shop.url) as engine, engine.begin() as connection:
            connection.exec_driver_sql("alter table workers rename to workers_away")
        screen.shows("is not in")
        with engine_of(quiet_shop.url) as engine, engine.begin() as connection:
            connection.exec_driver_sql("alter table workers_away rename to workers")
        screen.read(1)
        screen.shown = ""
        screen.shows("q leaves")
        assert "is not in" not in screen.shown
        screen.types(b"\x03")
        assert screen.ends() == 130
    assert screen.shown.rstrip().endswith("Interrupted.")
    assert screen.shown.count("\x1b[?1049l") == 1
