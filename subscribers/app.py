"""The application: one log, and the subscribers a service declares on it."""

import asyncio
import dataclasses
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Engine, Table, make_url
from sqlalchemy.engine import URL

from eventlog.database import Database, initialise, open_database, translated
from eventlog.errors import DeclarationError, RefusedError, UnknownSubscriberError, with_remedy
from eventlog.event_types import check_declarations
from eventlog.log import EventLog
from eventlog.nearest import did_you_mean
from eventlog.schema.tables import DEFAULT_SCHEMA
from eventlog.subscribers.beginnings import log_beginning
from eventlog.subscribers.control.rebuilds import RebuildState, read_rebuilds
from eventlog.subscribers.declaration import (
    FAILURES_MAX,
    OUTAGE_AFTER,
    DeclaresSubscriber,
    Delivery,
    Kind,
    OnFailure,
    Subscriber,
)
from eventlog.subscribers.feed import Feed
from eventlog.subscribers.handler_threads import HandlerThreads
from eventlog.subscribers.keys import KeyFunction
from eventlog.subscribers.lifespan import Lifespan, lifespan_of
from eventlog.subscribers.not_in_use import why_not_in_use
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.problems import Redact
from eventlog.subscribers.rebuilding import begin_declared, run_rebuild
from eventlog.subscribers.registration import Registration, register
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.runtime import LEASE_SECONDS, Around, Runtime
from eventlog.subscribers.waiting import wait_for
from eventlog.subscribers.worker import Drained, Worker, Workers, all_drained, all_refused, drain

logger = logging.getLogger("eventlog.worker")

A = TypeVar("A", bound=Callable[..., Iterator[Any]])
S = TypeVar("S", bound=Subscriber | DeclaresSubscriber)


class App:
    """One log, and the subscribers declared on it.

    `url_or_engine` is a PostgreSQL or SQLite URL, or an SQLAlchemy engine; beside an async engine, give its URL.
    `schema` names the log within the database. `lease_seconds` is how long a partition of a worker that died stays his.
    `listen_url` is a direct way to the same PostgreSQL database, on which workers are woken, where `url_or_engine` goes
    through a pooler that lets no notification through; without it they would poll. Declaring connects to nothing.
    """

    def __init__(
        self,
        url_or_engine: str | URL | Engine,
        *,
        schema: str = DEFAULT_SCHEMA,
        listen_url: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.log = EventLog(url_or_engine, schema=schema, listen_url=listen_url)
        self.listen_url = listen_url
        self.lease_seconds = lease_seconds
        self._subscribers: dict[str, Subscriber] = {}
        self._around: list[Around] = []
        self._handler_threads = HandlerThreads()
        self._homes: dict[Any, Database] = {}

    @property
    def engine(self) -> Engine:
        return self.log.engine

    @property
    def subscribers(self) -> dict[str, Subscriber]:
        """The declared subscribers by name."""
        return dict(self._subscribers)

    def subscriber(
        self,
        name: str,
        *,
        start: str | int = "beginning",
        delivery: str = Delivery.AT_LEAST_ONCE,
        on_failure: str = OnFailure.PARK,
        retry: Retry | None = None,
        partitions: int = 1,
        key: KeyFunction | str | None = None,
        concurrency: int = 1,
        timeout_seconds: float | None = None,
        outage_after: int = OUTAGE_AFTER,
        failures_max: int = FAILURES_MAX,
        redact: Redact = False,
    ) -> Subscriber:
        """Declare an effect: a subscriber whose handlers touch the outside world.

        `start` is where it begins when it is first registered: `"beginning"`, `"now"`, or a position to begin after.
        `partitions` share the events by their `key` (their stream, unless it names a field or is a function of the
        recorded event), so that so many workers can take part; `concurrency` is how many events one of them handles at
        a time, the events of a key one after the other. `timeout_seconds` limits each call. After `outage_after`
        failures of a handler in a row the partition waits at its place; with `failures_max` open ones it waits for an
        operator. `redact` keeps values out of the messages and tracebacks that the ledger holds. Raises
        `DeclarationError`, also for a name that is declared already.
        """
        return self.add(
            Subscriber(
                name,
                kind=Kind.EFFECT,
                start=start,
                delivery=delivery,
                on_failure=on_failure,
                retry=retry,
                partitions=partitions,
                key=key,
                concurrency=concurrency,
                timeout_seconds=timeout_seconds,
                outage_after=outage_after,
                failures_max=failures_max,
                redact=redact,
            )
        )

    def projection(
        self,
        name: str,
        *,
        tables: Sequence[Table] = (),
        version: int = 1,
        database: str | URL | Engine | None = None,
        start: str | int = "beginning",
        on_failure: str = OnFailure.HALT,
        retry: Retry | None = None,
        partitions: int = 1,
        key: KeyFunction | str | None = None,
        idempotent: bool = False,
        timeout_seconds: float | None = None,
        outage_after: int = OUTAGE_AFTER,
        failures_max: int = FAILURES_MAX,
        redact: Redact = False,
    ) -> Subscriber:
        """Declare a projection: a subscriber that writes a read model in this database, each event exactly once.

        Its handlers write through `ctx.connection`. `tables` are those it owns: made when it is registered, and emptied
        when it is rewound to its start. A higher `version` has them made anew beside the live ones, which serve until
        the new ones have caught up. With `database` they are in another database than the log, and so is everything
        that is kept of the subscriber: its checkpoint, its failures. `idempotent` says that its handlers may see an
        event again and the tables still come out right, so that it may be rewound to any position. The other arguments
        are those of `subscriber`.
        """
        return self.add(
            Subscriber(
                name,
                kind=Kind.PROJECTION,
                start=start,
                delivery=Delivery.TRANSACTIONAL,
                on_failure=on_failure,
                retry=retry,
                partitions=partitions,
                key=key,
                tables=tables,
                version=version,
                database=database,
                idempotent=idempotent,
                timeout_seconds=timeout_seconds,
                outage_after=outage_after,
                failures_max=failures_max,
                redact=redact,
            )
        )

    def add(self, declared: S) -> S:
        """Take up a subscriber, or a view. Raises `DeclarationError` when its name, or a table of it, is taken."""
        subscriber = declared if isinstance(declared, Subscriber) else declared.subscriber
        if subscriber.name in self._subscribers:
            raise DeclarationError(
                f"subscriber {subscriber.name!r} is declared twice", remedy="give each subscriber a name of its own"
            )
        for other in self._subscribers.values():
            for table in {one.fullname for one in other.tables} & {one.fullname for one in subscriber.tables}:
                raise DeclarationError(
                    f"projections {other.name!r} and {subscriber.name!r} both own table {table!r}",
                    remedy="give each projection tables of its own",
                )
        self._subscribers[subscriber.name] = subscriber
        return declared

    def around(self, function: A) -> A:
        """Declare what runs around every handler, as a generator function of the `Context` that yields once.

        The place for tracing, logging, or choosing a tenant; the first declared is the outermost. What it raises is
        the event's failure. A failure of the handler is thrown in at the yield, and counts whatever is done about it.
        Around a coroutine it runs in the event loop. Raises `DeclarationError` for another kind of function.
        """
        declared: A = function
        if not inspect.isgeneratorfunction(function):
            raise DeclarationError(
                f"{getattr(function, '__qualname__', function)!r} is not a generator function",
                remedy="write a plain function of the context with one `yield`, where the handler is to run",
            )
        self._around.append(function)
        return declared

    def on_database(self, url_or_engine: str | URL | Engine) -> "App":
        """Make an application with the same subscribers, what runs around them and what goes with appends, on the log
        of another database.

        For tests, and for one log per tenant. Handlers that append by themselves have to do so by `ctx.append`. What is
        in another database than this log is beside the other one.
        """
        other = App(url_or_engine, schema=self.log.database.schema, lease_seconds=self.lease_seconds)
        other._subscribers = {name: one.beside_log() for name, one in self._subscribers.items()}
        other._around = list(self._around)
        other.log.with_metadata_of(self.log)
        return other

    def register(self, *only: str) -> dict[str, Registration]:
        """Register the declared subscribers in the database, and make the tables of projections.

        Where they begin is fixed by this. `drain`, `worker` and `eventlog run` do it for what is not registered yet.
        For a projection that is registered at an earlier version, a rebuild beside the live one is begun, unless that
        version has been tried before; the workers run it. Raises `RefusedError` where an older release of the code runs
        than the one registered, and `DeclarationError` where event types and upcasters do not fit together.
        """
        with translated(self.log.database):
            self._check()
            return {one.name: self._register(one) for one in self.chosen(only)}

    def drain(
        self,
        only: Sequence[str] = (),
        *,
        waiting: Callable[[str], None] | None = None,
        runtime: Runtime | None = None,
    ) -> Drained:
        """Deliver up to the high-water mark at the call, in this thread, with the retries that are due.

        Returns what was handled and what failed, by subscriber. Retries that are not due yet are not waited for. Where
        another worker holds a subscriber it is waited for; `waiting` is then told its name. A rebuild that is begun is
        run until it is in use, or waits at a failure. Raises `RefusedError` at the end, when all others have been
        delivered to, for those that this code may not run.
        """
        refused: list[RefusedError] = []
        around = runtime or self.runtime()
        drained = []
        with translated(self.log.database):
            registered = self._registered(only, refused)
            for at_home, subscribers in self._by_home(around, registered):
                ready = [one for one in subscribers if self._drain_rebuild(at_home, one, refused)]
                partitions = self._partitions_of(at_home, ready)
                drained.append(drain(at_home, partitions, waiting=waiting, refused=refused))
        if refused:
            raise all_refused(refused)
        return all_drained(drained)

    def wait_for(
        self, subscriber: str | Subscriber | DeclaresSubscriber, position: int, *, timeout_seconds: float = 10.0
    ) -> None:
        """Return when a subscriber is done with everything up to a position: what was appended can then be read.

        Some worker has to run it. Raises `NotHandledError` when the event is parked, blocked or skipped, or the
        subscriber has halted before it; `WaitTimeoutError` when the time is over; `UsageError` in the transaction that
        has appended the event, which nobody can see yet; `UnknownSubscriberError`.
        """
        declared = self._declared(subscriber)
        wait_for(self._runtime_of(self.runtime(), declared), declared, position, timeout_seconds=timeout_seconds)

    async def wait_for_async(
        self, subscriber: str | Subscriber | DeclaresSubscriber, position: int, *, timeout_seconds: float = 10.0
    ) -> None:
        """Wait from a coroutine: `wait_for`, in a thread, which ends when the coroutine is cancelled."""
        declared = self._declared(subscriber)
        runtime = self._runtime_of(self.runtime(), declared)
        wait = partial(wait_for, runtime, declared, position, timeout_seconds=timeout_seconds)
        try:
            await asyncio.to_thread(wait)
        finally:
            runtime.stop.set()

    @contextmanager
    def worker(self, only: Sequence[str] = ()) -> Iterator[Worker | Workers]:
        """Run a worker in threads of this process while the block runs; stops after the events at hand."""
        worker = self.make_worker(only)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop()

    def lifespan(self, only: Sequence[str] = ()) -> Lifespan:
        """Make the lifespan of an ASGI application that runs a worker: `FastAPI(lifespan=app.lifespan())`.

        A service that has a lifespan of its own enters this one within it: `async with app.lifespan()(application)`.
        Where the database cannot be reached at startup, the application fails to start, with the error that says so.
        """
        return lifespan_of(lambda: self.make_worker(only))

    def make_worker(self, only: Sequence[str] = (), *, runtime: Runtime | None = None) -> Worker | Workers:
        """Register what is not registered, and make a worker that is not running yet.

        Where subscribers are in several databases, it is one for each of these, under one stop.
        """
        for name in self._chosen_names(only):
            self._register_or_say(name)
        around = runtime or self.runtime()
        workers = [
            Worker(one, self._partitions_of(one, those)) for one, those in self._by_home(around, self.chosen(only))
        ]
        return workers[0] if len(workers) == 1 else Workers(workers)

    def home_of(self, subscriber: Subscriber) -> Database:
        """Return the database that the rows of a subscriber are in: the log's, or the one it declares."""
        given = subscriber.database
        if given is None:
            return self.log.database
        key = given if isinstance(given, Engine) else make_url(given)
        if key not in self._homes:
            home = open_database(given, schema=self.log.database.schema)
            home.follows = self.log.database
            self._homes[key] = home
        return self._homes[key]

    @property
    def homes(self) -> list[Database]:
        """The databases that its subscribers' rows are in, the log's first."""
        others = [self.home_of(one) for one in self._subscribers.values() if one.database is not None]
        return list(dict.fromkeys([self.log.database, *others]))

    def runtime(self) -> Runtime:
        """Make the surroundings of a new worker."""
        return Runtime(
            log=self.log,
            feed=Feed(self.log),
            lease_seconds=self.lease_seconds,
            around=tuple(self._around),
            handler_threads=self._handler_threads,
        )

    def partitions(self, runtime: Runtime, only: Sequence[str] = ()) -> list[Partition]:
        """Make the partitions a worker runs."""
        return self._partitions_of(runtime, self.chosen(only))

    def chosen(self, only: Sequence[str]) -> list[Subscriber]:
        """Return the declared subscribers of these names, all of them for none. Raises `UnknownSubscriberError`."""
        return [self._subscribers[name] for name in self._chosen_names(only)]

    def _check(self) -> None:
        check_declarations()
        with self.log.database.reader() as connection:
            self.log.check(connection)

    def _registered(self, only: Sequence[str], refused: list[RefusedError]) -> list[Subscriber]:
        """Register those of these names; return who may be run, and add why the others may not."""
        self._check()
        ready = []
        for subscriber in self.chosen(only):
            try:
                self._register(subscriber)
                ready.append(subscriber)
            except RefusedError as error:
                refused.append(error)
        return ready

    def _register(self, subscriber: Subscriber) -> Registration:
        database = self.home_of(subscriber)
        if database.follows is not None:
            initialise(database)
        done = register(database, subscriber)
        if done is Registration.CREATED:
            log_beginning(database, subscriber)
        if done is Registration.OUTDATED:
            begin_declared(database, subscriber)
        return done

    def _drain_rebuild(self, runtime: Runtime, subscriber: Subscriber, refused: list[RefusedError]) -> bool:
        """Run the rebuild of a subscriber, if there is one; return whether its version is in use, and add why not."""
        if not subscriber.tables:
            return True
        declared = (subscriber.version, subscriber.shape(runtime.database.engine.dialect))
        for rebuild in read_rebuilds(runtime.database, subscriber=subscriber.name):
            if rebuild.state is RebuildState.RUNNING and (rebuild.version, rebuild.shape) == declared:
                run_rebuild(runtime, subscriber, rebuild)
        why = None if runtime.stop.is_set() else why_not_in_use(runtime.database, subscriber)
        if why is not None:
            refused.append(why)
        return why is None

    def _by_home(self, runtime: Runtime, subscribers: Sequence[Subscriber]) -> list[tuple[Runtime, list[Subscriber]]]:
        """Subscribers by the database that their rows are in, each with its surroundings."""
        found: dict[int, tuple[Runtime, list[Subscriber]]] = {}
        for subscriber in subscribers:
            key = id(self.home_of(subscriber))
            if key not in found:
                found[key] = (self._runtime_of(runtime, subscriber), [])
            found[key][1].append(subscriber)
        return list(found.values()) or [(runtime, [])]

    def runtime_for(self, subscriber: Subscriber) -> Runtime:
        """Make the surroundings of a worker for one subscriber, wherever its rows are."""
        return self._runtime_of(self.runtime(), subscriber)

    def _runtime_of(self, runtime: Runtime, subscriber: Subscriber) -> Runtime:
        home = self.home_of(subscriber)
        if home.follows is None:
            return runtime
        return dataclasses.replace(runtime, home=home, feed=Feed(self.log, only_to_events=True))

    def _partitions_of(self, runtime: Runtime, subscribers: Sequence[Subscriber]) -> list[Partition]:
        return [Partition(runtime, one, number) for one in subscribers for number in range(one.partitions)]

    def _declared(self, subscriber: str | Subscriber | DeclaresSubscriber) -> Subscriber:
        if isinstance(subscriber, str):
            return self.chosen([subscriber])[0]
        return subscriber if isinstance(subscriber, Subscriber) else subscriber.subscriber

    def _chosen_names(self, only: Sequence[str]) -> list[str]:
        for name in only:
            if name not in self._subscribers:
                declared = ", ".join(sorted(self._subscribers)) or "none"
                hint = did_you_mean(name, self._subscribers)
                raise UnknownSubscriberError(
                    f"no subscriber {name!r} is declared" + (f".{hint}" if hint else ""),
                    remedy=f"declared are: {declared}",
                )
        return list(only or self._subscribers)

    def _register_or_say(self, name: str) -> None:
        """A worker whose code is older runs what it may; each partition says why it gets no lease."""
        try:
            self.register(name)
        except RefusedError as error:
            logger.error("%s", with_remedy(error))
