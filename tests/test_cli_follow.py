"""`read --follow`: a process of its own, which prints what comes and ends when it is told to."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from sqlalchemy import make_url, text

from tests.cli_support import DEADLINE_SECONDS, Shop, on_terminal, started
from tests.log_support import Background, backend, engine_of, note, notes, opened


class Follower:
    """A running `read --follow`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def line(self) -> str:
        """Wait for the next line on stdout."""
        assert self.process.stdout is not None
        reading = Background(self.process.stdout.readline)
        assert reading.ends_within(DEADLINE_SECONDS), "no line came"
        return str(reading.result()).removesuffix("\n")

    def said(self) -> str:
        """What the next event says, which must be a note in JSON."""
        return str(msgspec.json.decode(self.line())["data"]["said"])

    def complaint(self) -> str:
        """Wait for the next line on stderr."""
        assert self.process.stderr is not None
        reading = Background(self.process.stderr.readline)
        assert reading.ends_within(DEADLINE_SECONDS), "no line came"
        return str(reading.result()).removesuffix("\n")

    def ends(self) -> int:
        return self.process.wait(timeout=DEADLINE_SECONDS)


@contextmanager
def following(shop: Shop, *options: str | int) -> Iterator[Follower]:
    words = ("read", "--follow", *options)
    process = started(*words, cwd=shop.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield Follower(process)
        finally:
            process.kill()


def test_an_event_is_printed_as_it_comes(shop: Shop) -> None:
    with opened(shop.url) as log, following(shop, "-o", "jsonl") as follower:
        for words in ("first", "second"):
            log.append(note(words))
            assert follower.said() == words


def test_a_table_is_printed_as_events_come(sqlite_shop: Shop) -> None:
    with opened(sqlite_shop.url) as log, following(sqlite_shop) as follower:
        assert follower.line().split() == ["POSITION", "RECORDED", "STREAM", "TYPE", "DATA"]
        log.append(note("hello"))
        assert follower.line().endswith('{"said":"hello"}')


@pytest.mark.parametrize(("options", "begins"), [((), 6), (("-n", "2"), 14), (("--from", "4"), 4)])
def test_the_last_events_come_first(shop: Shop, options: tuple[str, ...], begins: int) -> None:
    with opened(shop.url) as log:
        log.append(*notes(15))
        with following(shop, "-o", "jsonl", *options) as follower:
            shown = [follower.said() for _ in range(begins, 16)]
            log.append(note("new"))
            assert [*shown, follower.said()] == [*(f"note-1 {n}" for n in range(begins, 16)), "new"]


def test_none_of_the_last_is_only_what_is_new(shop: Shop) -> None:
    with opened(shop.url) as log:
        log.append(*notes(3))
        # The table's head tells that the follower has looked where the log ends.
        with following(shop, "-n", 0) as follower:
            follower.line()
            log.append(note("new"))
            assert "new" in follower.line()


def test_what_is_followed_is_narrowed_down(shop: Shop) -> None:
    with opened(shop.url) as log, following(shop, "-o", "jsonl", "--stream-prefix", "desk-") as follower:
        log.append(note("other"), note("wanted", stream="desk-1"))
        assert follower.said() == "wanted"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it(shop: Shop, number: signal.Signals, code: int) -> None:
    with following(shop) as follower:
        follower.line()
        follower.process.send_signal(number)
        assert follower.ends() == code
        assert follower.process.stderr is not None
        assert "Traceback" not in follower.process.stderr.read()


def test_it_ends_when_its_reader_has_gone_though_nothing_comes(shop: Shop) -> None:
    with following(shop) as follower:
        follower.line()
        assert follower.process.stdout is not None
        follower.process.stdout.close()
        assert follower.ends() == 0


@pytest.mark.parametrize("end", [("--until", "5"), ("--before", "2h"), ("--backwards",)])
def test_what_follows_has_no_end(shop: Shop, end: tuple[str, ...]) -> None:
    assert shop.cli("read", "--follow", *end).code == 2


def test_a_database_that_is_not_there_at_the_start_is_an_error(shop: Shop) -> None:
    missing = "sqlite:///nowhere.db" if "sqlite" in shop.url else "postgresql://127.0.0.1:9/nothing"
    assert shop.cli("read", "--follow", "--url", missing).code == 5


def test_it_goes_on_where_it_was_when_the_database_is_back(postgres_shop: Shop) -> None:
    """Connections are refused for a while, as by a restart; events of that time come once, in order."""
    with opened(postgres_shop.url) as log, following(postgres_shop, "-o", "jsonl") as follower:
        log.append(note("before"))
        assert follower.said() == "before"
        with away(postgres_shop.url), log.engine.begin() as connection:
            log.append(note("meanwhile"), tx=connection)
            cut_connections(postgres_shop.url, but=backend(connection))
            assert "does not answer" in follower.complaint()
            assert "goes on after position 1" in follower.complaint()
        assert [follower.said(), follower.complaint().strip()] == ["meanwhile", "it answers again"]


def test_a_log_restored_to_an_earlier_point_is_not_read_on(postgres_shop: Shop) -> None:
    """It gives positions out again: events of another history would follow those that were printed."""
    with opened(postgres_shop.url) as log, following(postgres_shop, "-o", "json") as follower:
        log.append(*notes(2))
        assert [follower.said(), follower.said()] == ["note-1 1", "note-1 2"]
        with away(postgres_shop.url):
            with log.engine.begin() as connection:
                connection.execute(text("select setval('eventlog.events_position_seq', 1)"))
            cut_connections(postgres_shop.url)
            assert "does not answer" in follower.complaint()
        assert follower.ends() == 1
        assert follower.process.stderr is not None
        assert "restored to an earlier point" in follower.process.stderr.read()


@contextmanager
def away(url: str) -> Iterator[None]:
    """Let nobody connect to a PostgreSQL database while the block runs; who is connected stays so."""
    administer(url, f"alter database {_name(url)} with allow_connections false")
    try:
        yield
    finally:
        administer(url, f"alter database {_name(url)} with allow_connections true")


def cut_connections(url: str, *, but: int = 0) -> None:
    cut = "select pg_terminate_backend(pid) from pg_stat_activity"
    administer(url, f"{cut} where datname = '{_name(url)}' and pid <> {but}")


def administer(url: str, statement: str) -> None:
    server = url.replace(_name(url), "postgres")
    with engine_of(server, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        connection.execute(text(statement))


def _name(url: str) -> str:
    return str(make_url(url).database)


def test_a_person_ends_it_with_control_c(shop: Shop) -> None:
    with opened(shop.url) as log:
        log.append(note("x" * 200))
    ran = on_terminal("read", "--follow", cwd=shop.folder, asked="x…", answer=b"\x03")
    assert (ran.code, "Interrupted." in ran.out) == (130, True)
    assert max(len(line) for line in ran.out.splitlines()) <= 80


def test_what_was_appended_before_the_first_look_is_not_lost(shop: Shop) -> None:
    """With a place to begin at, everything from there on comes, however it was appended."""
    with opened(shop.url) as log:
        log.append(*notes(2_500))
        with following(shop, "-o", "jsonl", "--after", 0) as follower:
            shown = [follower.said() for _ in range(2_500)]
            log.append(note("last"))
            assert [*shown[-1:], follower.said()] == ["note-1 2500", "last"]
