"""Delivering everything in a test, with failures raised and not only written down."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update

from eventlog.subscribers.app import App
from eventlog.subscribers.declaration import DeclaresSubscriber, Subscriber
from eventlog.subscribers.worker import Drained

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


class HandlersFailedError(AssertionError):
    """Handlers failed during a drain: which, at which events, and with what."""


def drain(app: App, *only: str, allow_failures: bool = False) -> Drained:
    """Deliver everything there is, in this thread, and raise `HandlersFailedError` when a handler fails.

    `App.drain`, but a test should not have to look into the ledger to learn why it fails. With `allow_failures` it is
    `App.drain`: for tests of what happens then.
    """
    before = 0 if allow_failures else _last_attempt(app)
    drained = app.drain(only)
    if drained.failed and not allow_failures:
        raise HandlersFailedError(_told(app, after=before))
    return drained


def make_retries_due(app: App, subscriber: str | Subscriber | DeclaresSubscriber) -> int:
    """Let the time of every waiting retry come; return how many were waiting. The next drain runs them."""
    name = subscriber if isinstance(subscriber, str) else _subscriber(subscriber).name
    table = app.log.database.tables.failures
    with app.log.database.transaction() as connection:
        waiting = update(table).where(table.c.subscriber == name, table.c.next_attempt_at.is_not(None))
        return connection.execute(waiting.values(next_attempt_at=LONG_AGO)).rowcount


def _subscriber(declared: Subscriber | DeclaresSubscriber) -> Subscriber:
    return declared if isinstance(declared, Subscriber) else declared.subscriber


def _last_attempt(app: App) -> int:
    table = app.log.database.tables.attempts
    with app.log.database.reader() as connection:
        return connection.scalar(select(table.c.id).order_by(table.c.id.desc()).limit(1)) or 0


def _told(app: App, *, after: int) -> str:
    table = app.log.database.tables.attempts
    failed = select(table).where(table.c.id > after, table.c.error_type.is_not(None)).order_by(table.c.id).limit(20)
    with app.log.database.reader() as connection:
        rows = connection.execute(failed).all()
    return "handlers failed:\n\n" + "\n\n".join(_attempt(row) for row in rows)


def _attempt(row: Any) -> str:
    head = f"{row.subscriber}, event {row.position}: {row.error_type}: {row.message}"
    return f"{head}\n{row.traceback}" if row.traceback else head
