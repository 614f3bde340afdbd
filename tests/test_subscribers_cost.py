"""What a worker asks of the database again and again is made once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import CacheStats

from eventlog.subscribers import control
from eventlog.subscribers.agenda import Agenda
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Sent, applied_table, note, runtime_of

LOOKS = 5
"""The statements of a look at the tables."""


@contextmanager
def statements(of: Any) -> Iterator[list[tuple[CacheStats, str]]]:
    """Collect what is executed, and how SQLAlchemy came to its text. What we send past SQLAlchemy is not seen."""
    seen: list[tuple[CacheStats, str]] = []

    def execute(_connection: Connection, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:
        if context.compiled is not None:
            seen.append((context.cache_hit, statement))

    event.listen(of, "before_cursor_execute", execute)
    try:
        yield seen
    finally:
        event.remove(of, "before_cursor_execute", execute)


def test_no_statement_is_compiled_anew_each_time(bench: Bench) -> None:
    """One with a construct that SQLAlchemy has no key for is: it took 0.5 to 2 ms each, several times a wake-up.

    Except the ledger's INSERT of several rows, whose text depends on how many there are.
    """
    app = bench.app(lease_seconds=0.5)
    applied = applied_table("costly")
    board = app.projection("board", tables=[applied], retry=Retry(attempts=1))
    fails = {1, 3}

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, applied)

    @app.subscriber("mail", retry=Retry(attempts=2, first_seconds=0), partitions=2)
    def mail(crate: Sent, _ctx: Context) -> None:
        if crate.number in fails:
            raise BugError

    app.register()
    database = app.log.database
    with statements(app.engine) as seen:
        bench.send(4)
        app.drain()
        fails.clear()
        control.retry(database, "mail", sorted(bench.states("mail")))
        app.drain()
        control.rewind(database, "mail", control.after_position(0), resend=True)
        control.undo(database, control.last_move(database, "mail"))
        worker = app.make_worker()
        worker.start()
        try:
            (sent,) = bench.send(1)
            app.wait_for("mail", sent, timeout_seconds=15)
        finally:
            worker.stop()

    without_key = {statement for how, statement in seen if how is CacheStats.NO_CACHE_KEY}
    assert not {one for one in without_key if not one.startswith("INSERT INTO") or "failures (" not in one}
    assert len(seen) > 50


def test_a_look_at_the_tables_makes_no_statement(bench: Bench) -> None:
    app = bench.app()

    @app.subscriber("mail")
    def mail(_crate: Sent) -> None: ...

    app.register()
    runtime = runtime_of(app)
    agenda = Agenda(runtime, app.partitions(runtime))
    agenda.look_at_tables()
    with statements(app.engine) as seen:
        agenda.look_at_tables()

    assert {how for how, _ in seen} == {CacheStats.CACHE_HIT}
    assert len(seen) <= LOOKS
