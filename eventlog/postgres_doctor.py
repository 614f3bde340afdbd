"""What is examined of a log on PostgreSQL beside its tables: server, sequence, poolers, wake-up, clock, rights."""

from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import Connection, text

from eventlog.bell import SilentBellError
from eventlog.clock import utc_now
from eventlog.database import Database, Holder
from eventlog.doctor import Examined, Finding, note, ok, wrong
from eventlog.errors import DatabaseError
from eventlog.postgres_pooler import Pooler

IN_FLIGHT_SECONDS_MAX = 60.0
"""How long a transaction that has appended may stay open before it is called wrong; readers wait for it."""

CLOCK_SECONDS_MAX = 5.0

_POOLER_REMEDY = "give workers listen_url=, or `run --listen-url`: a URL that leads to the same database directly"

_SEQUENCE = """
select seqcache, seqincrement, seqcycle
from pg_sequence where seqrelid = cast(:name as regclass)
"""

_MAY = {
    "read": {"events": "select", "event_tags": "select"},
    "append": {"events": "select, insert", "event_tags": "select"},
    "run handlers and operate": {
        "events": "select, insert",
        "event_tags": "select",
        "attempts": "select, insert",
        "operations": "select, insert",
        **dict.fromkeys(
            (
                "subscribers",
                "checkpoints",
                "failures",
                "floors",
                "receipts",
                "workers",
                "replays",
                "rebuilds",
                "snapshots",
            ),
            "select, insert, update, delete",
        ),
    },
}
"""What a role needs for what, as docs/postgres.md grants it."""


def examinations(database: Database, *, listen_url: str | None) -> list[Examined]:
    """Name what is to be examined."""
    return [
        Examined(name="server", make=_server),
        Examined(name="sequence", make=lambda connection: _sequence(connection, database)),
        Examined(name="in flight", make=lambda connection: _in_flight(connection, database)),
        Examined(name="isolation", make=_isolation),
        Examined(name="pooler", make=lambda connection: _pooler(connection, listen_url=listen_url)),
        Examined(name="wake-up", make=lambda _connection: _wake_up(database, listen_url=listen_url)),
        Examined(name="clock", make=_clock),
        Examined(name="rights", make=lambda connection: _rights(connection, database)),
    ]


def _server(connection: Connection) -> Iterator[Finding]:
    """A standby can be connected to like any server, and neither appends nor reads are possible there."""
    standby, read_only = connection.execute(
        text("select pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'")
    ).one()
    if standby:
        yield wrong(
            "server",
            "it is a standby: it takes no writes, and up to where it is safe to read is not known on it",
            remedy="name the primary; a URL with several hosts finds it by itself with target_session_attrs=read-write",
        )
    elif read_only:
        yield wrong(
            "server",
            "transactions are read-only here unless they say otherwise: nothing can be appended or handled",
            remedy="alter database or role: reset default_transaction_read_only, where it was set",
        )
    else:
        yield ok("server", "it is a primary, and takes writes")


def _sequence(connection: Connection, database: Database) -> Iterator[Finding]:
    """A cache hands out positions that were allocated before the mark of who uses them: appends are refused then."""
    name = f"{database.schema}.events_position_seq"
    cache, increment, cycle = connection.execute(text(_SEQUENCE), {"name": name}).one()
    if (cache, increment, cycle) == (1, 1, False):
        yield ok("sequence", "positions are given out one by one")
        return
    yield wrong(
        "sequence",
        f"cache {cache}, increment {increment}{', cycle' if cycle else ''}: positions have to be given out one by one",
        remedy=f"alter sequence {name} increment 1 cache 1 no cycle;",
    )


def _in_flight(connection: Connection, database: Database) -> Iterator[Finding]:
    now = connection.scalar(text("select clock_timestamp()"))
    holders = database.held_back_by(connection)
    long = [
        one for one in holders if one.since is not None and now - one.since > timedelta(seconds=IN_FLIGHT_SECONDS_MAX)
    ]
    for one in long:
        assert one.since is not None
        yield wrong(
            "in flight",
            f"{_named(one)} has appended and is open for {(now - one.since).total_seconds():,.0f} s: no reader passes"
            f" position {one.position:,}",
            remedy=_end_of(one),
        )
    if not long:
        open_now = f"{len(holders)} open now" if holders else "none is open"
        yield ok("in flight", f"no append stays open for long; {open_now}")


def _named(holder: Holder) -> str:
    if holder.pid is None:
        return f"the prepared transaction {holder.application!r} of {holder.user}"
    return f"pid {holder.pid} ({holder.application or 'no application name'}, user {holder.user})"


def _end_of(holder: Holder) -> str:
    if holder.pid is None:
        return f"commit prepared '{holder.application}'; or rollback prepared '{holder.application}';"
    return f"find out what it does; select pg_terminate_backend({holder.pid}); undoes what it has not committed"


def _isolation(connection: Connection) -> Iterator[Finding]:
    found = connection.scalar(text("select current_setting('default_transaction_isolation')"))
    if found == "read committed":
        yield ok("isolation", "transactions are READ COMMITTED")
    else:
        yield note(
            "isolation",
            f"transactions are {str(found).upper()} unless they say otherwise: ours do, and take one more round trip",
            remedy="set default_transaction_isolation to 'read committed' for this role, if nothing else needs it",
        )


def _pooler(connection: Connection, *, listen_url: str | None) -> Iterator[Finding]:
    if not Pooler().is_before(connection.connection):
        yield ok("pooler", "none is between here and the server")
    elif listen_url is None:
        yield note("pooler", "one is between here and the server: statements are not prepared", remedy=_POOLER_REMEDY)
    else:
        yield ok("pooler", "one is between here and the server, and workers have a way past it")


def _wake_up(database: Database, *, listen_url: str | None) -> Iterator[Finding]:
    """Send a notification to oneself, by each way that workers might listen on."""
    own = _silence(database, None)
    if own is None:
        yield ok("wake-up", "a notification comes through")
    elif listen_url is None:
        yield note(
            "wake-up",
            f"no notification comes through, so workers look four times a second: {own}",
            remedy=_POOLER_REMEDY,
        )
    if listen_url is None:
        return
    by_url = _silence(database, listen_url)
    if by_url is None:
        yield ok("wake-up", "a notification comes through by listen_url")
    else:
        yield wrong(
            "wake-up",
            f"no notification comes through by listen_url: {by_url}",
            remedy="it has to lead to this database and server, and not through a pooler in transaction mode",
        )


def _silence(database: Database, listen_url: str | None) -> str | None:
    """Why nothing comes through; None when it does. Making a bell tests it."""
    try:
        database.bell_maker(listen_url)().close()
    except (SilentBellError, DatabaseError) as error:
        return str(error)
    return None


def _clock(connection: Connection) -> Iterator[Finding]:
    before = utc_now()
    theirs = connection.scalar(text("select clock_timestamp()"))
    after = utc_now()
    apart = (theirs - before - (after - before) / 2).total_seconds()
    if abs(apart) <= CLOCK_SECONDS_MAX:
        yield ok("clock", f"the database's and this machine's are {abs(apart):.1f} s apart")
    else:
        yield wrong(
            "clock",
            f"the database's clock is {abs(apart):,.0f} s {'ahead of' if apart > 0 else 'behind'} this machine's:"
            " --since and the times in ids are off by that; leases and retries follow the database's",
            remedy="have both machines follow a time server",
        )


def _rights(connection: Connection, database: Database) -> Iterator[Finding]:
    role = connection.scalar(text("select current_user"))
    missing = {deed: _missing(connection, database, needed) for deed, needed in _MAY.items()}
    may = [deed for deed, lacks in missing.items() if not lacks]
    if len(may) == len(_MAY):
        yield ok("rights", f"{role} may {', '.join(may)}")
        return
    lacks = "; ".join(f"to {deed}: {', '.join(lacks)}" for deed, lacks in missing.items() if lacks)
    yield note(
        "rights",
        f"{role} may {', '.join(may) or 'do nothing here'}, and lacks what it needs {lacks}",
        remedy="nothing, if it is not meant to; docs/postgres.md has the grants",
    )


def _missing(connection: Connection, database: Database, needed: dict[str, str]) -> list[str]:
    """What of the rights a role lacks, table by table; of a table that is gone none is known, and none is lacking."""
    asked = [(table, right) for table, rights in needed.items() for right in rights.split(", ")]
    question = "select has_schema_privilege(:schema, 'usage') and has_table_privilege(to_regclass(:table), :right)"
    found: list[str] = []
    for table, right in asked:
        values = {"schema": database.schema, "table": f"{database.schema}.{table}", "right": right}
        if connection.scalar(text(question), values) is False:
            found.append(f"{right} on {table}")
    return found
