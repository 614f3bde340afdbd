"""How everything stands: what an operator reads of the log, its subscribers and their ledgers."""

import pytest
from sqlalchemy import text

from eventlog.errors import UnknownSubscriberError
from eventlog.events import Recorded
from eventlog.subscribers import control, lags
from eventlog.subscribers.app import App
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.status import read_failures, read_status
from tests.subscribers_support import Bench, BugError, Lost, Sent, eventually


def mail_of(app: App, *, broken: tuple[int, ...] = (), on_failure: str = "park", attempts: int = 1) -> App:
    mail = app.subscriber("mail", on_failure=on_failure, retry=Retry(attempts=attempts, first_seconds=1000))

    @mail
    def send(crate: Sent) -> None:
        if crate.number in broken:
            raise BugError

    return app


def test_an_empty_log_stands_at_zero(bench: Bench) -> None:
    found = read_status(bench.log.database)
    assert (found.head, found.high_water_mark, found.held_back_by, found.subscribers) == (0, 0, (), ())


def test_subscribers_are_told_by_name_with_kind_state_and_checkpoint(bench: Bench) -> None:
    sent = bench.send(3)
    app = mail_of(bench.app())
    app.projection("board").on("**")(lambda recorded: None)
    app.drain()
    board, mail = read_status(bench.log.database).subscribers
    assert (board.name, board.kind, board.state) == ("board", "projection", "running")
    assert (mail.name, mail.kind, mail.checkpoint, mail.lag, mail.owner) == ("mail", "effect", sent[-1], 0, None)


def test_lag_counts_the_events_between_checkpoint_and_high_water_mark(bench: Bench) -> None:
    mail_of(bench.app()).drain()
    bench.send(2)
    bench.log.append(Lost(1))
    assert (bench.status("mail").lag, bench.status("mail").lag_exact) == (3, True)


def test_lag_counts_events_and_not_positions(postgres_database_url: str) -> None:
    """What was rolled back has left holes in the positions."""
    bench = Bench(postgres_database_url)
    mail_of(bench.app()).drain()
    with bench.transaction() as connection:
        bench.log.append(*(Sent(number) for number in range(50)), tx=connection)
        connection.rollback()
    bench.send(2)
    found = bench.status("mail")
    bench.close()
    assert (found.lag, found.lag_exact) == (2, True)


def test_a_long_lag_is_estimated_and_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lags, "LAG_EXACT_MAX", 5)
    mail_of(bench.app()).drain()
    bench.send(5)
    assert (bench.status("mail").lag, bench.status("mail").lag_exact) == (5, True)
    bench.send(1, first=6)
    assert (bench.status("mail").lag, bench.status("mail").lag_exact) == (6, False)


def test_failures_are_counted_by_state(bench: Bench) -> None:
    sent = bench.send(4)
    app = mail_of(bench.app(), broken=(1, 2, 3))
    app.drain()
    control.skip(app.log.database, "mail", [sent[0]], reason="no")
    control.retry(app.log.database, "mail", [sent[1]])
    assert bench.status("mail").failures == {"parked": 1, "retrying": 1, "skipped": 1}


@pytest.mark.parametrize(("attempts", "state"), [(1, "halted"), (5, "running")])
def test_a_subscriber_has_halted_when_the_event_it_waits_at_is_parked(bench: Bench, attempts: int, state: str) -> None:
    bench.send(3)
    mail_of(bench.app(), broken=(2,), on_failure="halt", attempts=attempts).drain()
    assert bench.status("mail").state == state


def test_an_effect_that_parks_never_halts(bench: Bench) -> None:
    bench.send(3)
    mail_of(bench.app(), broken=(3,)).drain()
    assert bench.status("mail").state == "running"


def test_the_owner_is_told_while_its_lease_lasts(bench: Bench) -> None:
    app = mail_of(bench.app())
    with app.worker():
        eventually(lambda: bench.status("mail").owner, what="somebody owns it")
    app.register()
    with bench.transaction() as connection:
        connection.execute(bench.log.database.tables.checkpoints.update().values(owner="somebody who died"))
    bench.expire_lease("mail")
    assert bench.status("mail").owner is None


def test_an_open_append_is_named_as_what_holds_the_high_water_mark_back(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    sent = bench.send(1)
    with bench.transaction() as connection:
        connection.execute(text("set application_name = 'nightly import'"))
        pid = connection.scalar(text("select pg_backend_pid()"))
        bench.log.append(Sent(2), tx=connection)
        bench.send(1, first=3)
        found = read_status(bench.log.database)
    afterwards = read_status(bench.log.database)
    bench.close()
    assert (found.high_water_mark, found.head) == (sent[0], sent[0] + 2)
    assert [(one.pid, one.application) for one in found.held_back_by] == [(pid, "nightly import")]
    assert found.held_back_by[0].since is not None
    assert (afterwards.high_water_mark, afterwards.held_back_by) == (sent[0] + 2, ())


def test_an_event_behind_an_open_append_waits_for_it(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    app = bench.app()
    positions: list[int] = []

    @app.subscriber("reader").on("**")
    def read(recorded: Recorded[object]) -> None:
        positions.append(recorded.position)

    with bench.transaction() as connection:
        first = bench.log.append(Sent(1), tx=connection)[0].position
        second = bench.send(1, first=2)
        app.drain()
        assert positions == []
    app.drain()
    bench.close()
    assert positions == [first, *second]


def test_failures_are_listed_by_subscriber_state_and_limit(bench: Bench) -> None:
    sent = bench.send(3)
    app = mail_of(bench.app(), broken=(1, 2, 3))
    app.drain()
    control.skip(app.log.database, "mail", [sent[0]], reason="no")
    database = bench.log.database
    assert [entry.position for entry in read_failures(database, states=("parked",))] == sent[1:]
    assert [entry.position for entry in read_failures(database, subscriber="mail", limit=2)] == sent[:2]
    with pytest.raises(UnknownSubscriberError):
        read_failures(database, subscriber="nobody")


def test_the_last_error_is_the_latest_of_the_open_failures(bench: Bench) -> None:
    sent = bench.send(4)
    app = mail_of(bench.app(), broken=(1, 3))
    app.drain()
    last = bench.status("mail").last_error
    assert last is not None
    assert (last.position, last.state, last.error_type) == (sent[2], "parked", "tests.subscribers_support.BugError")
    control.skip(app.log.database, "mail", [sent[2]], reason="no")
    last = bench.status("mail").last_error
    assert last is not None
    assert last.position == sent[0]
    control.skip(app.log.database, "mail", [sent[0]], reason="no")
    assert bench.status("mail").last_error is None


def test_one_subscribers_error_is_not_anothers(bench: Bench) -> None:
    app = mail_of(bench.app(), broken=(1,))
    app.subscriber("log").on("**")(lambda recorded: None)
    bench.send(1)
    app.drain()
    assert (bench.status("mail").last_error is None, bench.status("log").last_error) == (False, None)


def test_living_workers_are_counted(bench: Bench) -> None:
    app = mail_of(bench.app())
    assert read_status(bench.log.database).workers == 0
    with app.worker():
        eventually(lambda: read_status(bench.log.database).workers == 1, what="it has joined")
    assert read_status(bench.log.database).workers == 0


def test_what_an_open_append_keeps_from_being_read_has_an_age(postgres_database_url: str) -> None:
    """Of the events that are committed: while there is none, nobody waits, however long the transaction is open."""
    bench = Bench(postgres_database_url)
    with bench.transaction() as connection:
        bench.log.append(Sent(1), tx=connection)
        assert (
            read_status(bench.log.database).held_back_seconds,
            len(read_status(bench.log.database).held_back_by),
        ) == (
            0.0,
            1,
        )
        bench.send(1, first=2)
        eventually(lambda: read_status(bench.log.database).held_back_seconds > 0.05, what="it grows older")
    found = read_status(bench.log.database)
    bench.close()
    assert (found.held_back_seconds, found.held_back_by) == (0.0, ())
