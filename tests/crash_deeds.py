"""What is killed in the crash matrix: each deed with what stands before it, and what a fresh process does after it.

A step of a deed is a function of the `Site` it works at. `prepare` runs once, and its database is copied for each
point; `act` is killed; `recover` is what a service that is started again does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy
from sqlalchemy import BigInteger, Column, MetaData, Table, insert, select

from eventlog import carried
from eventlog.database import Database
from eventlog.events import Event
from eventlog.ids import new_id
from eventlog.importing import Importing
from eventlog.log import EventLog
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.query import Query
from eventlog.schema.migrate import known_revisions, upgrade
from eventlog.subscribers import control, feed
from eventlog.subscribers.app import App
from eventlog.subscribers.control.exchange import drop_kept, go_back
from eventlog.subscribers.control.rebuilds import begin_rebuild, cancel_rebuild, read_rebuilds
from eventlog.subscribers.control.replays import Range, cancel_replay, read_replays, start_replay
from eventlog.subscribers.replaying import Replaying
from eventlog.testing import make_retries_due
from tests.carried_support import line
from tests.crash_service import CRATES, FAILS_FIRST, IS_PARKED, Site, declare_more, expire_leases, send, service
from tests.subscribers_support import Sent, eventually

Step = Callable[[Site], None]

PAGE_EVENTS = 3
"""Pages are so short in rebuilds, so that a rebuild has several transactions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that is killed, and what comes before and after."""

    prepare: Step
    act: Step
    recover: Step = lambda _site: None


def deed(name: str) -> Deed:
    """Find a deed by its name: a family, and what of it."""
    family, _, which = name.partition(" ")
    return FAMILIES[family](which)


def _nothing(_site: Site) -> None:
    """Do nothing."""


def _drain(kind: str, **options: bool) -> Step:
    def step(site: Site) -> None:
        service(site, kind, **options).drain()

    return step


def _delivery(kind: str) -> Deed:
    def prepare(site: Site) -> None:
        send(site)
        service(site, kind).register()

    return Deed(prepare=prepare, act=_drain(kind), recover=_after_the_end_of_leases(_drain(kind)))


def _after_the_end_of_leases(step: Step) -> Step:
    def recover(site: Site) -> None:
        expire_leases(site.url)
        if (site.folder / "home.db").exists():
            expire_leases(site.home_url)
        step(site)

    return recover


def _heal(kinds: str) -> Deed:
    """An operator has everything tried again that is open, and everything succeeds."""

    def step(site: Site) -> None:
        app = service(site, *kinds.split(), heals=True, partitions=_partitions(site))
        app.drain()
        for _ in range(CRATES):
            if not control.retry(app.log.database, None).entries:
                return
            app.drain()

    return Deed(prepare=_nothing, act=_nothing, recover=step)


def _partitions(site: Site) -> int:
    """How many the subscribers are registered with."""
    tables = _database(site).tables
    with _database(site).reader() as connection:
        return int(connection.scalar(select(tables.subscribers.c.partitions).limit(1)) or 1)


def _retry(kind: str) -> Deed:
    def prepare(site: Site) -> None:
        send(site)
        app = service(site, kind, broken=True, first_seconds=3600)
        app.drain()
        if kind == "once":
            control.retry(app.log.database, kind, [FAILS_FIRST])
        make_retries_due(app, kind)

    def recover(site: Site) -> None:
        make_retries_due(service(site, kind), kind)
        service(site, kind).drain()

    return Deed(prepare=prepare, act=_drain(kind), recover=_after_the_end_of_leases(recover))


def _replay(kind: str) -> Deed:
    def prepare(site: Site) -> None:
        send(site)
        app = service(site, kind, heals=True)
        app.drain()
        start_replay(app.log.database, kind, Range())

    def act(site: Site) -> None:
        app = service(site, kind, heals=True)
        (replay,) = read_replays(app.log.database)
        replaying = Replaying(app.runtime(), app.subscribers[kind], replay.operation)
        while replaying.turn().moved:
            pass
        replaying.release()

    return Deed(prepare=prepare, act=act, recover=_after_the_end_of_leases(act))


def _rebuild(which: str) -> Deed:
    """A new version beside the live one, from its registration until it is in use."""

    def prepare(site: Site) -> None:
        send(site)
        service(site, "board", heals=True).drain()

    def act(site: Site) -> None:
        feed.PAGE_EVENTS = PAGE_EVENTS
        app = service(site, "board", heals=True, version=2)
        if which == "kept" and not read_rebuilds(app.log.database):
            begin_rebuild(app.log.database, app.subscribers["board"], keep=True)
        app.drain()

    return Deed(prepare=prepare, act=act, recover=_after_the_end_of_leases(act))


def _away(_which: str) -> Deed:
    """A projection that lives in another database than the log."""

    def prepare(site: Site) -> None:
        send(site)
        service(site, "away", heals=True).register()

    act = _drain("away", heals=True)
    return Deed(prepare=prepare, act=act, recover=_after_the_end_of_leases(act))


def _worker(_which: str) -> Deed:
    """All of them in one worker, with its threads, until everything that can be done is done."""
    kinds = ("books", "mail", "once")

    def prepare(site: Site) -> None:
        send(site)
        service(site, *kinds, partitions=2).register()

    def act(site: Site) -> None:
        app = service(site, *kinds, partitions=2)
        table = app.log.database.tables.checkpoints
        worker = app.make_worker()
        worker.start()

        def is_through() -> bool:
            with app.log.database.reader() as connection:
                return all(place >= CRATES for place in connection.scalars(select(table.c.position)))

        eventually(is_through, what="everything is done with")
        worker.stop()

    def recover(site: Site) -> None:
        service(site, *kinds, partitions=2).drain()

    return Deed(prepare=prepare, act=act, recover=_after_the_end_of_leases(recover))


LINES = tuple(
    line(position, stream=f"note-{position % 2}", version=number // 2 + 1, tags=["carried"])
    for number, position in enumerate((3, 4, 7, 10, 11, 20))
)
"""Six events of another log, with holes between their positions."""

ORDERS = Table("orders", MetaData(), Column("number", BigInteger, primary_key=True, autoincrement=False))
IDS = tuple(new_id() for _ in range(6))
"""Made once, in the process that all others are forked from: an append that is made again has the ids it had."""


def _append(_which: str) -> Deed:
    def prepare(site: Site) -> None:
        engine = sqlalchemy.create_engine(site.url)
        ORDERS.create(engine)
        engine.dispose()

    return Deed(prepare=prepare, act=append_orders, recover=append_orders)


def append_orders(site: Site) -> None:
    """Append alone, in batches, within a service's own transaction, under a condition; again, it changes nothing."""
    log = EventLog(site.url)
    log.append(_ordered(0), expected="any")
    log.append(_ordered(1), _ordered(2), expected="any")
    with log.database.transaction() as connection:
        if connection.scalar(select(ORDERS.c.number)) is None:
            connection.execute(insert(ORDERS).values(number=1))
            log.append(_ordered(3), _ordered(4), tx=connection)
    log.append(_ordered(5), unless=[Query(tags=("crate-6",), after=0)])


def _ordered(place: int) -> Event[Sent]:
    return Event(Sent(place + 1), stream=f"order-{place % 2}", id=IDS[place], tags=(f"crate-{place + 1}",))


def _import(which: str) -> Deed:
    """An import in batches of two, at the positions that events had or at new ones; run again, it goes on."""

    def act(site: Site) -> None:
        carried.BATCH_EVENTS_MAX = 2
        log = EventLog(site.url)
        for _ in Importing(log.database, LINES, new_positions=which == "at new positions").run():
            pass

    return Deed(prepare=_nothing, act=act, recover=act)


def _migration(which: str) -> Deed:
    def prepare(site: Site) -> None:
        if which == "older":
            engine = sqlalchemy.create_engine(site.url)
            upgrade(engine, until=known_revisions()[0])
            engine.dispose()

    def act(site: Site) -> None:
        engine = sqlalchemy.create_engine(site.url)
        upgrade(engine)
        engine.dispose()

    return Deed(prepare=prepare, act=act, recover=act)


def _operator(which: str) -> Deed:
    before, act = OPERATIONS[which]

    def prepare(site: Site) -> None:
        send(site)
        service(site, "mail", broken=True, first_seconds=3600).drain()
        service(site, "board", heals=True).drain()
        for step in before:
            step(site)

    return Deed(prepare=prepare, act=act)


def _database(site: Site) -> Database:
    return App(site.url).log.database


def _rewind(site: Site) -> None:
    control.rewind(_database(site), "mail", control.after_position(1), resend=True)


def _undo(site: Site) -> None:
    control.undo(_database(site), control.last_move(_database(site), "mail"))


def _start_replay(site: Site) -> None:
    start_replay(_database(site), "mail", Range())


def _cancel_replay(site: Site) -> None:
    (running,) = read_replays(_database(site))
    cancel_replay(_database(site), running.operation)


def _begin_rebuild(site: Site) -> None:
    app = service(site, "board", version=2)
    begin_rebuild(app.log.database, app.subscribers["board"], keep=True)


def _finish_rebuild(site: Site) -> None:
    service(site, "board", heals=True, version=2).drain()


def _three_more(site: Site) -> None:
    send(site, 3, first=CRATES + 1)


OPERATIONS: dict[str, tuple[Sequence[Step], Step]] = {
    "rewind": ((), _rewind),
    "undo": ((_rewind,), _undo),
    "seek": ((), lambda site: _done(control.seek(_database(site), "mail", control.after_position(4), resend=True))),
    "advance": (
        (_three_more,),
        lambda site: _done(control.advance(_database(site), "mail", control.after_position(CRATES + 2))),
    ),
    "retry": ((), lambda site: _done(control.retry(_database(site), None))),
    "skip": ((), lambda site: _done(control.skip(_database(site), "mail", [IS_PARKED], reason="enough"))),
    "pause": ((), lambda site: _done(control.pause(_database(site), "mail"))),
    "resume": (
        (lambda site: _done(control.pause(_database(site), "mail")),),
        lambda site: _done(control.resume(_database(site), "mail")),
    ),
    "partitions": ((), lambda site: _done(control.repartition(_database(site), "mail", 3))),
    "rename": ((), lambda site: _done(control.rename(_database(site), "mail", "post"))),
    "remove": ((), lambda site: _done(control.remove(_database(site), "mail"))),
    "start a replay": ((), _start_replay),
    "cancel a replay": ((_start_replay,), _cancel_replay),
    "register": ((), lambda site: _done(service(site, "books").register())),
    "register more": ((), lambda site: _done(declare_more(service(site, "mail")).register())),
    "empty": ((), lambda site: _done(rebuild_in_place(_database(site), "board"))),
    "begin a rebuild": ((), _begin_rebuild),
    "cancel a rebuild": ((_begin_rebuild,), lambda site: _done(cancel_rebuild(_database(site), "board"))),
    "go back": ((_begin_rebuild, _finish_rebuild), lambda site: _done(go_back(_database(site), "board"))),
    "drop what was kept": ((_begin_rebuild, _finish_rebuild), lambda site: _done(drop_kept(_database(site), "board"))),
}
"""What operators do, by its name: what is done before it, and the deed. Each is one transaction."""


def _done(_result: object) -> None:
    """A step returns nothing."""


FAMILIES: dict[str, Callable[[str], Deed]] = {
    "deliver": _delivery,
    "retry": _retry,
    "replay": _replay,
    "rebuild": _rebuild,
    "away": _away,
    "worker": _worker,
    "append": _append,
    "import": _import,
    "migrate": _migration,
    "operator": _operator,
    "heal": _heal,
}
