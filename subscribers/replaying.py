"""Executing replays: under a lease of their own, turn by turn, beside live delivery.

Every transaction of it is fenced on operation, epoch, owner and position, as a partition's is, and on the replay still
running. The modes are those of delivery: at least once, what was in hand when a worker died is handed out again; at
most once, it is counted as failed instead; transactional, each event's writes commit with the replay's place.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, literal, or_, select, update
from sqlalchemy.exc import DBAPIError

from eventlog.bell import ring
from eventlog.errors import LeaseLostError, NotFoundError, RefusedError, UsageError, first_line
from eventlog.schema.timestamps import database_now, seconds_from_now
from eventlog.subscribers.calls import NOT_A_FAILURE, Call, Caller
from eventlog.subscribers.control.lifecycle import RUNNING
from eventlog.subscribers.control.replays import Replay, ReplayState, open_positions, replay_from
from eventlog.subscribers.declaration import Delivery as Mode
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.delivery import INTERRUPTIONS_MAX
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.guard import lent
from eventlog.subscribers.ledger import Attempt, record_attempt
from eventlog.subscribers.outcomes import Skip
from eventlog.subscribers.problems import OUTCOME_UNKNOWN, Problem, problem_of
from eventlog.subscribers.registration import RowLock, check_contract, read_subscriber
from eventlog.subscribers.results import Delivered
from eventlog.subscribers.runtime import Runtime

logger = logging.getLogger("eventlog.worker")

PAGE_EVENTS = 200
SETTLE_SECONDS = 1.0
"""At the latest after so long, and the call at hand, a replay's place is written."""


class Replaying:
    """One replay in one process. One thread at a time may call `turn`; `renew` is the heartbeat's."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber, operation: int) -> None:
        self.subscriber = subscriber
        self.operation = operation
        self._runtime = runtime
        self._caller = Caller(runtime, subscriber)
        self._database = runtime.database
        self._table = runtime.database.tables.replays
        self._replay: Replay | None = None
        self._in_hand = 0
        self._interrupted = (0, 0)
        self._epoch = 0
        self._valid_until = 0.0

    def turn(self) -> Delivered:
        """Replay a page at the most, and write how far it has come; nothing while another worker has it."""
        try:
            if not self._hold():
                return Delivered()
            return self._advance()
        except LeaseLostError as error:
            self._say(logger.info, "%s", error)
        except (RefusedError, NotFoundError) as error:
            self._say(logger.error, "%s", error)
        except DBAPIError as error:
            if not self._database.passing(error):
                raise
            self._say(logger.info, "the database interrupted it: %s", first_line(error))
        self._replay = None
        return Delivered()

    def renew(self, connection: Connection) -> None:
        """Push the expiry of its lease out."""
        if self._replay is None:
            return
        began = self._runtime.clock.monotonic()
        renewed = connection.execute(
            update(self._table)
            .where(*self._ours())
            .values(expires_at=seconds_from_now(literal(self._runtime.lease_seconds)))
        )
        if renewed.rowcount == 1:
            self._valid_until = began + self._runtime.lease_seconds

    def release(self) -> None:
        """Let others have it at once, and wake them. What a call was interrupted in stays in hand."""
        if self._replay is None:
            return
        self._replay = None
        with self._database.transaction() as connection:
            connection.execute(update(self._table).where(*self._ours()).values(owner=None, expires_at=None))
            ring(connection, self._database.tables)

    def _say(self, say: Callable[..., None], message: str, *details: object, **told: object) -> None:
        fields = {"subscriber": self.subscriber.name, "operation": self.operation, **told}
        say(f"replay %d of %s: {message}", self.operation, self.subscriber.name, *details, extra=fields)

    def _hold(self) -> bool:
        """Have the lease, while the subscriber runs and this code may run it. A pause waits until we let it go."""
        if self._replay is not None:
            with self._database.reader() as connection:
                runs = read_subscriber(connection, self._database, self.subscriber.name).state == RUNNING
            if not runs:
                self.release()
            return runs
        began = self._runtime.clock.monotonic()
        with self._database.transaction() as connection:
            row = read_subscriber(connection, self._database, self.subscriber.name, lock=RowLock.SHARED)
            check_contract(row, self.subscriber, self._database)
            if row.state != RUNNING:
                return False
            found = self._take(connection)
        if found is None:
            return False
        self._caller.key_name = row.first_name or row.name
        self._replay, self._in_hand = replay_from(found), found.in_hand
        self._valid_until = began + self._runtime.lease_seconds
        self._say(logger.info, "goes on after %d", self._replay.position)
        return True

    def _take(self, connection: Connection) -> Row[tuple[object, ...]] | None:
        table = self._table
        owner = self._runtime.owner
        free = or_(table.c.owner.is_(None), table.c.owner == owner, table.c.expires_at <= database_now())
        running = (table.c.operation == self.operation) & (table.c.state == ReplayState.RUNNING)
        found = connection.execute(select(table).where(running, free).with_for_update()).one_or_none()
        if found is None:
            return None
        self._epoch = self._database.next_epoch(connection)
        expires = seconds_from_now(literal(self._runtime.lease_seconds))
        connection.execute(
            update(table)
            .where(table.c.operation == self.operation)
            .values(epoch=self._epoch, owner=owner, expires_at=expires)
        )
        return found

    def _advance(self) -> Delivered:
        replay = self._held()
        if self._in_hand > replay.position and self.subscriber.delivery is Mode.AT_MOST_ONCE:
            return self._leave_in_doubt(replay)
        items, through = self._page(replay)
        done = Delivered()
        began = self._runtime.clock.monotonic()
        for batch in self._batches(items):
            done = done.and_then(self._deliver(batch))
            if self._held().position < batch[-1].position:
                return done  # it was cut short, and the rest of it comes in the next turn
            late = self._runtime.clock.monotonic() - began > SETTLE_SECONDS
            if self._runtime.stop.is_set() or (late and batch[-1] is not items[-1]):
                return done
        self._settle(through, ends=through >= replay.until)
        return done.and_then(Delivered(moved=True))

    def _page(self, replay: Replay) -> tuple[list[FeedItem], int]:
        """Read what is meant of the next stretch, and how far that reaches."""
        selection = replay.chosen.selection()
        asked = selection.page(after=replay.position, until=replay.until, limit=PAGE_EVENTS, backwards=False)
        with self._database.reader() as connection:
            rows = self._database.page(connection, asked) if selection.possible else []
            through = rows[-1].position if len(rows) == PAGE_EVENTS else replay.until
            left_out = set(
                open_positions(connection, self._database, replay.subscriber, after=replay.position, until=through)
            )
        routes = self.subscriber.routes
        wanted = (row for row in rows if selection.wants(row) and row.position not in left_out)
        return [FeedItem(row) for row in wanted if routes.find(row.type) is not None], through

    def _batches(self, items: Sequence[FeedItem]) -> Iterator[Sequence[FeedItem]]:
        """At least once, one announcement serves for a page; in the other modes each event has its own transaction."""
        if self.subscriber.delivery is Mode.AT_LEAST_ONCE:
            if items:
                yield items
            return
        yield from ([item] for item in items)

    def _deliver(self, batch: Sequence[FeedItem]) -> Delivered:
        if self.subscriber.delivery is Mode.TRANSACTIONAL:
            return self._within(batch[0])
        self._announce(batch[-1])
        attempts: list[Attempt] = []
        through = done = 0
        began = self._runtime.clock.monotonic()
        for item in batch:
            attempt = self._outside(item)
            done, through = done + 1, item.position
            if attempt is not None:
                attempts.append(attempt)
            if self._runtime.stop.is_set() or self._runtime.clock.monotonic() - began > SETTLE_SECONDS:
                break
        return self._settle(through, attempts=attempts, done=done)

    def _outside(self, item: FeedItem) -> Attempt | None:
        began = self._runtime.clock.monotonic()
        try:
            self._check()
            self._caller.call(self._call(item, connection=None))
        except NOT_A_FAILURE:
            raise
        except BaseException as error:
            return self._attempt(item.position, error, began)
        return None

    def _within(self, item: FeedItem) -> Delivered:
        began, before = self._runtime.clock.monotonic(), self._held()
        handler_is_through = False
        try:
            with self._database.transaction() as connection:
                self._database.guard_owner(connection, seconds=self._runtime.lease_seconds)
                with lent(connection, self.subscriber.renamed_tables):
                    self._check()
                    self._caller.call(self._call(item, connection=connection))
                if not self._database.transaction_is_usable(connection):
                    raise UsageError(
                        "the handler returned, but it had broken the transaction it was called in",
                        remedy="leave ctx.connection's transaction alone, and let database errors out of the handler",
                    )
                handler_is_through = True
                return self._write(connection, item.position, done=1)
        except NOT_A_FAILURE:
            raise
        except Exception as error:
            if isinstance(error, DBAPIError) and self._is_bad_luck(error, item, handler_is_through):
                raise
            attempt = self._attempt(item.position, error, began)
        self._replay = before
        return self._settle(item.position, attempts=[attempt], done=1)

    def _is_bad_luck(self, error: DBAPIError, item: FeedItem, handler_is_through: bool) -> bool:
        """Whether the database has failed and not the handler: not what it sent, and not always at this event."""
        database = self._database
        if database.ended_idle(error) or (database.timed_out(error) and not handler_is_through):
            return False
        position, times = self._interrupted
        self._interrupted = (item.position, times + 1 if position == item.position else 1)
        return database.passing(error) and self._interrupted[1] < INTERRUPTIONS_MAX

    def _leave_in_doubt(self, replay: Replay) -> Delivered:
        """At most once: what a dead worker had in hand is not handed out again."""
        attempt = self._attempt(self._in_hand, OUTCOME_UNKNOWN, self._runtime.clock.monotonic())
        done = self._settle(self._in_hand, attempts=[attempt], done=1)
        self._in_hand = replay.position
        return done

    def _call(self, item: FeedItem, *, connection: Connection | None) -> Call:
        return Call(
            handler=self._caller.handler_of(item),
            items=(item,),
            attempt=1,
            redelivery=True,
            epoch=self._epoch,
            connection=connection,
            key_suffix=f":replay-{self.operation}" if self._held().new_keys else "",
            replay=self.operation,
        )

    def _attempt(self, position: int, error: BaseException | Problem, began: float) -> Attempt:
        problem = error if isinstance(error, Problem) else problem_of(error, redact=self.subscriber.redact)
        return Attempt(
            position=position,
            number=1,
            worker=self._runtime.owner,
            epoch=self._epoch,
            duration_seconds=self._runtime.clock.monotonic() - began,
            problem=problem,
            skipped=isinstance(error, Skip),
            operation=self.operation,
        )

    def _announce(self, last: FeedItem) -> None:
        with self._fenced(in_hand=last.position):
            pass

    def _settle(
        self, through: int, *, attempts: Sequence[Attempt] = (), done: int = 0, ends: bool = False
    ) -> Delivered:
        with self._database.transaction() as connection:
            delivered = self._write(connection, through, attempts=attempts, done=done, ends=ends)
        for attempt in attempts:
            self._say_failed(attempt)
        if ends:
            self._say_done(self._held())
            self._replay = None
        return delivered

    def _write(
        self,
        connection: Connection,
        through: int,
        *,
        attempts: Sequence[Attempt] = (),
        done: int = 0,
        ends: bool = False,
    ) -> Delivered:
        replay = self._held()
        failed = sum(not one.skipped for one in attempts)
        values: dict[str, object] = {
            "position": through,
            "in_hand": through,
            "handled": replay.handled + done - failed,
            "failed": replay.failed + failed,
        }
        if ends:
            values |= {"state": str(ReplayState.DONE), "owner": None}
        self._fence(connection, values)
        for attempt in attempts:
            record_attempt(connection, self._database.tables, attempt, subscriber=self.subscriber.name, round_number=0)
        if ends:
            ring(connection, self._database.tables)
        self._replay = msgspec.structs.replace(
            replay, position=through, handled=replay.handled + done - failed, failed=replay.failed + failed
        )
        return Delivered(handled=done - failed, failed=failed, moved=True)

    def _say_failed(self, attempt: Attempt) -> None:
        if attempt.problem is not None and not attempt.skipped:
            kind = attempt.problem.error_type
            told = {"position": attempt.position, "error_type": kind}
            self._say(logger.warning, "event %d failed: %s", attempt.position, kind, **told)

    def _say_done(self, replay: Replay) -> None:
        hint = f"; `eventlog replays --failed {self.operation}` lists what it failed at" if replay.failed else ""
        say = logger.warning if replay.failed else logger.info
        self._say(say, "done: %d handled, %d failed%s", replay.handled, replay.failed, hint)

    @contextmanager
    def _fenced(self, *, in_hand: int) -> Iterator[None]:
        with self._database.transaction() as connection:
            self._fence(connection, {"in_hand": in_hand})
            yield

    def _fence(self, connection: Connection, values: Mapping[str, object]) -> None:
        began = self._runtime.clock.monotonic()
        expires = seconds_from_now(literal(self._runtime.lease_seconds))
        moved = connection.execute(
            update(self._table)
            .where(*self._ours(), self._table.c.position == self._held().position)
            .values(**{"expires_at": expires, **values})
        )
        if moved.rowcount != 1:
            raise self._lost("it was cancelled, or another worker has taken it over")
        self._valid_until = began + self._runtime.lease_seconds

    def _ours(self) -> tuple[ColumnElement[bool], ...]:
        table = self._table
        return (
            table.c.operation == self.operation,
            table.c.epoch == self._epoch,
            table.c.owner == self._runtime.owner,
            table.c.state == ReplayState.RUNNING,
        )

    def _check(self) -> None:
        if self._runtime.clock.monotonic() >= self._valid_until:
            raise self._lost("its time ran out before it was renewed")

    def _held(self) -> Replay:
        if self._replay is None:
            raise self._lost("it was given up")
        return self._replay

    def _lost(self, why: str) -> LeaseLostError:
        return LeaseLostError(f"the lease is lost: {why}", remedy="nothing to do: it is taken again when it is free")


class Replays:
    """The replays that one worker may execute, one at a time. Used by the worker's own thread, and the heartbeat."""

    def __init__(self, runtime: Runtime, subscribers: Mapping[str, Subscriber]) -> None:
        self._runtime = runtime
        self._subscribers = subscribers
        self._question = self._free_ones()
        self._waiting: list[tuple[int, str]] = []
        self._now: Replaying | None = None
        self._busy = False

    def look(self, connection: Connection) -> None:
        """Read which replays could be executed here, and which has to be let go: one query."""
        self._waiting = [(row.operation, row.subscriber) for row in connection.execute(self._question)]

    def next(self) -> Replaying | None:
        """Return the one that is to have a turn now; nothing while one has it."""
        if self._busy or not self._waiting:
            return None
        operation, name = self._waiting[0]
        if self._now is None or self._now.operation != operation:
            self._now = Replaying(self._runtime, self._subscribers[name], operation)
        return self._now

    def began(self) -> None:
        self._busy = True

    def ended(self, done: Delivered | None) -> None:
        """Note that the turn is over; one that did nothing is asked again after the next look."""
        self._busy = False
        if done is None or not done.moved:
            self._waiting = self._waiting[1:]

    def renew(self, connection: Connection) -> None:
        """Keep the lease of the one that is executed."""
        if self._now is not None:
            self._now.renew(connection)

    def release(self) -> None:
        if self._now is not None:
            self._now.release()

    def _free_ones(self) -> Select[Any]:
        table = self._runtime.database.tables.replays
        owner = self._runtime.owner
        free = or_(table.c.owner.is_(None), table.c.owner == owner, table.c.expires_at <= database_now())
        subscribers = self._runtime.database.tables.subscribers
        return (
            select(table.c.operation, table.c.subscriber)
            .join(subscribers, subscribers.c.name == table.c.subscriber)
            .where(
                table.c.state == ReplayState.RUNNING,
                or_(subscribers.c.state == RUNNING, table.c.owner == owner),
                table.c.subscriber.in_(list(self._subscribers)),
                free,
            )
            .order_by(table.c.operation)
        )
