"""Stored rows that somebody has edited by hand: whatever reads them says so with an error of ours, or goes on.

One value of one row is changed behind the back of triggers and checks, in each of the log's tables; then commands that
read are called, a worker, and `verify`. `EVENTLOG_SOAK=N` in the environment makes a fifth of so many changes.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from eventlog.cli import exits
from eventlog.cli.exits import Exit
from eventlog.log import EventLog
from eventlog.subscribers import control
from tests.cli_support import Shop
from tests.damage import lay_bare, tampering
from tests.log_support import opened

EXAMPLES = {"sqlite": int(os.environ.get("EVENTLOG_SOAK", "70")) // 5, "postgresql": 7}
if "EVENTLOG_SOAK" in os.environ:
    EXAMPLES["postgresql"] = EXAMPLES["sqlite"] // 3

READERS = (
    "read",
    "read -o jsonl",
    "read --backwards --where total<0",
    "show 2",
    "streams",
    "stats",
    "export out.jsonl --overwrite",
    "status",
    "status -o json",
    "check --max-lag 1",
    "doctor",
    "verify",
    "verify --all",
    "verify mail board --app shop:app",
    "subscribers",
    "workers",
    "failures",
    "failures mail --all -o json",
    "failures --group-by error",
    "failure mail 2",
    "replays",
    "rebuilds",
    "types",
    "types check --app shop:app",
    "retry mail --dry-run",
    "skip mail 2 --reason x --dry-run",
    "rewind mail --by 1 --dry-run",
    "rewind mail --to-start --resend --dry-run",
    "advance mail --to-end --dry-run",
    "seek board --to-start --dry-run --app shop:app",
    "undo mail --dry-run",
    "partitions mail 3 --dry-run",
    "rename mail post --dry-run",
    "remove mail --dry-run",
    "replay mail --from 1 --dry-run --app shop:app",
    "rebuild board --dry-run --app shop:app",
    "rebuild board --in-place --dry-run",
    "register --app shop:app",
    "run --drain --app shop:app",
)

BIG = 2**62
NUMBERS = (0, -1, 7, 99, 2**31 - 1)
WIDE = (*NUMBERS, BIG)
TEXTS = ("", " ", "x", "'", "\u2028", "x" * 300, "{", "null", "*")
DOCUMENTS = ("", "{", "null", "[]", "1", '"x"', "{}", '{"number": "x"}', '{"number": 1' + "0" * 400 + "}", "[" * 3000)
JSON_DOCUMENTS = tuple(one for one in DOCUMENTS if one not in ("", "{") and not one.startswith("[["))
TIMES = ("yesterday", "", "0000-00-00", "2024-01-01T00:00:00+99:00", "9999-12-31 23:59:59")
POSTGRES_TIMES = ("infinity", "-infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 00:00:00+00", "epoch")
PLACES = (
    '{"positions": "x"}',
    '{"positions": [1, 2, 3]}',
    '{"positions": [null]}',
    '{"operation": 1, "positions": []}',
)
DECLARATION = (
    '{"patterns":["clishop.placed"],"key":"stream","partitions":1,"delivery":"at-least-once","on_failure":"park",'
    '"tables":[],"idempotent":false}'
)
DECLARATIONS = (
    *DOCUMENTS,
    DECLARATION.replace("at-least-once", "now and then"),
    DECLARATION.replace('"partitions":1', '"partitions":0'),
    DECLARATION.replace('"partitions":1', '"partitions":-3'),
    DECLARATION.replace("clishop.placed", "..*"),
    DECLARATION.replace('["clishop.placed"]', "[]"),
    DECLARATION.replace('"tables":[]', '"tables":["none","a.b.c",""]'),
    DECLARATION.replace('"stream"', '"shop.key"'),
    DECLARATION.replace("park", "halt"),
)
SHAPES = (*DOCUMENTS, '{"shop_totals": ["number integer"]}', '{"shop_totals": {"columns": [1]}}')

VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "events": {
        "data": DOCUMENTS,
        "metadata": (*DOCUMENTS, '{"correlation_id": 5}'),
        "type": TEXTS,
        "type_version": NUMBERS,
        "stream": TEXTS,
        "version": WIDE,
        "id": TEXTS,
        "recorded_at": TIMES,
        "tags": (*DOCUMENTS, '["red"]', "[1]"),
    },
    "checkpoints": {
        **dict.fromkeys(("position", "in_hand", "handled_through", "epoch"), WIDE),
        "partition": NUMBERS,
        **dict.fromkeys(("owner", "outage_handler", "event_id"), TEXTS),
        **dict.fromkeys(("expires_at", "outage_since"), TIMES),
    },
    "failures": {
        **dict.fromkeys(("position", "closed_by"), WIDE),
        **dict.fromkeys(("partition", "attempts", "round", "revision"), NUMBERS),
        **dict.fromkeys(
            ("key", "state", "error_type", "message", "fingerprint", "reason", "state_before", "handler"), TEXTS
        ),
        **dict.fromkeys(("next_attempt_at", "first_failed_at", "last_failed_at"), TIMES),
    },
    "attempts": {
        **dict.fromkeys(("round", "attempt"), NUMBERS),
        **dict.fromkeys(("position", "epoch", "operation"), WIDE),
        **dict.fromkeys(("outcome", "error_type", "message", "traceback", "worker"), TEXTS),
        "at": TIMES,
    },
    "subscribers": {
        **dict.fromkeys(("kind", "start", "state", "state_reason", "log", "first_name"), TEXTS),
        "start_position": WIDE,
        **dict.fromkeys(("partitions", "version"), NUMBERS),
        "declaration": DECLARATIONS,
        "shape": SHAPES,
        "registered_at": TIMES,
    },
    "operations": {
        **dict.fromkeys(("action", "actor", "reason", "undo"), TEXTS),
        **dict.fromkeys(("before", "after"), (*DOCUMENTS, *PLACES)),
        "at": TIMES,
    },
    "floors": {**dict.fromkeys(("partition", "partitions"), NUMBERS), "position": WIDE},
    "workers": {"owner": TEXTS, "process": WIDE, "subscribers": DOCUMENTS, **dict.fromkeys(("started_at",), TIMES)},
    "replays": {
        "state": TEXTS,
        "chosen": DOCUMENTS,
        **dict.fromkeys(("position", "in_hand", "until", "handled", "failed", "epoch"), WIDE),
        "owner": TEXTS,
        "expires_at": TIMES,
    },
    "rebuilds": {
        **dict.fromkeys(("shadow", "state", "kept"), TEXTS),
        "shape": SHAPES,
        "version": NUMBERS,
        **dict.fromkeys(("started_at", "ended_at"), TIMES),
    },
}
"""By table and column: what is put there."""

EDITS = tuple((table, column) for table, columns in VALUES.items() for column in columns)
TIME_COLUMNS = {
    (table, column) for table, columns in VALUES.items() for column, values in columns.items() if values is TIMES
}


@st.composite
def edits(draw: st.DrawFn, *, sqlite: bool) -> tuple[str, str, Any]:
    """Choose a column, and what is put there. PostgreSQL takes no documents, ids or times that are none, and its checks
    stay in place.
    """
    table, column = draw(st.sampled_from(EDITS))
    values: tuple[Any, ...] = VALUES[table][column]
    if not sqlite:
        if (table, column) in TIME_COLUMNS:
            values = POSTGRES_TIMES
        elif (table, column) in (("events", "data"), ("events", "metadata")):
            values = JSON_DOCUMENTS
        elif (table, column) == ("events", "id"):
            values = ("00000000-0000-0000-0000-000000000000",)
        elif (table, column) == ("events", "tags"):
            values = ("{}", "{red}", "{NULL}")
        elif table == "events":
            values = tuple(one for one in values if one not in ("", 0, -1))
    return table, column, draw(st.sampled_from(values))


class Edited:
    """A shop with something in every table, whose rows are edited and put back."""

    def __init__(self, shop: Shop, log: EventLog) -> None:
        self.shop, self.log = shop, log
        self.bugs: list[Exception] = []
        found, record = exits.Report.of_bug, self.bugs.append

        def of_bug(report: exits.Report, error: Exception) -> Exit:
            record(error)
            return found(report, error)

        shop.monkeypatch.setattr(exits.Report, "of_bug", of_bug)
        shop.orders(1, -1, 1)
        shop.drain()
        shop.orders(1)
        control.advance(log.database, "mail", control.after_position(log.head()))
        with tampering(log.database) as connection:
            self.fill(connection)
            self.kept = self.rows(connection)

    def fill(self, connection: Connection) -> None:
        """What only a worker, a replay, a rebuild or a change of partitions would have left."""
        name = self.log.database.tables.sql_name
        at = "'2024-01-01 00:00:00+00'"
        for table, columns, values in (
            ("floors", "subscriber, partition, partitions, position", "'mail', 0, 2, 1"),
            ("workers", "owner, process, subscribers, started_at, expires_at", f"'w', 1, '[\"mail\"]', {at}, {at}"),
            (
                "replays",
                "operation, subscriber, state, chosen, new_keys, position, in_hand, until, handled, failed, epoch",
                "1, 'mail', 'done', '{}', false, 1, 1, 2, 1, 0, 1",
            ),
            (
                "rebuilds",
                "operation, subscriber, shadow, state, version, shape, keep",
                "2, 'board', 'board@rebuild-2', 'done', 1, '{}', false",
            ),
        ):
            connection.exec_driver_sql(f"insert into {name(table)} ({columns}) values ({values})")

    def rows(self, connection: Connection) -> dict[str, list[Any]]:
        tables = self.log.database.tables
        names = [*VALUES, "event_tags", "receipts"]
        return {
            name: [dict(row._mapping) for row in connection.execute(text(f"select * from {tables.sql_name(name)}"))]
            for name in names
        }

    @contextmanager
    def edit(self, table: str, column: str, value: Any, *, last: bool) -> Iterator[None]:
        """Change one row, of several the first or the last; put everything back afterwards."""
        name = self.log.database.tables.sql_name(table)
        with tampering(self.log.database) as connection:
            row = "ctid" if connection.dialect.name == "postgresql" else "rowid"
            order = {"events": "abs(position - 2)", "subscribers": "name"}.get(table, column)
            chosen = f"select {row} from {name} order by {order} {'desc' if last else 'asc'} limit 1"
            put = f"update {name} set {column} = :value where {row} = ({chosen})"
            if connection.dialect.name == "postgresql":
                put = put.replace(":value", f"cast(cast(:value as text) as {self.type_of(connection, name, column)})")
            connection.execute(text(put), {"value": str(value) if "cast(" in put else value})
        yield
        with self.log.engine.connect() as connection:
            lay_bare_again = lay_bare(connection, self.log.database)
            self.restore(connection)
            for statement in lay_bare_again:
                connection.exec_driver_sql(statement)
            connection.commit()

    def type_of(self, connection: Connection, name: str, column: str) -> str:
        question = text(
            "select format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = cast(:name as regclass) and attname = :column"
        )
        return str(connection.scalar(question, {"name": name, "column": column}))

    def restore(self, connection: Connection) -> None:
        tables = self.log.database.tables
        for name in ("rebuilds", "replays", "workers", "floors", "operations", "attempts", "failures", "checkpoints"):
            connection.exec_driver_sql(f"delete from {tables.sql_name(name)}")
        for name in ("receipts", "subscribers", "event_tags", "events"):
            connection.exec_driver_sql(f"delete from {tables.sql_name(name)}")
        for name in ("events", "event_tags", "subscribers", "receipts", "checkpoints", "failures", "attempts"):
            self.put_back(connection, name)
        for name in ("operations", "floors", "workers", "replays", "rebuilds"):
            self.put_back(connection, name)

    def put_back(self, connection: Connection, name: str) -> None:
        table = self.log.database.tables.sql_name(name)
        for row in self.kept[name]:
            columns = ", ".join(row)
            overriding = " overriding system value" if connection.dialect.name == "postgresql" else ""
            marks = ", ".join(f":{column}" for column in row)
            values = dict(row)
            if overriding and name == "events":
                values |= {one: json.dumps(row[one]) for one in ("data", "metadata")}
                marks = marks.replace(":data", "cast(:data as json)").replace(":metadata", "cast(:metadata as json)")
            connection.execute(text(f"insert into {table} ({columns}){overriding} values ({marks})"), values)

    def look(self, words: str) -> None:
        self.shop.monkeypatch.delitem(sys.modules, "shop", raising=False)
        ran = self.shop.cli(*words.split())
        assert ran.code in set(Exit)
        if self.bugs:
            raise AssertionError(f"{words} ended with an error that is not ours") from self.bugs.pop()


def test_rows_that_were_edited_by_hand_end_with_an_error_of_ours(shop: Shop) -> None:
    sqlite = shop.url.startswith("sqlite")
    with opened(shop.url) as log:
        edited = Edited(shop, log)

        @hypothesis.settings(max_examples=EXAMPLES["sqlite" if sqlite else "postgresql"], deadline=None, database=None)
        @hypothesis.given(
            edit=edits(sqlite=sqlite),
            last=st.booleans(),
            readers=st.lists(st.sampled_from(READERS), min_size=4, max_size=8, unique=True),
        )
        def run(edit: tuple[str, str, Any], last: bool, readers: list[str]) -> None:
            with edited.edit(*edit, last=last):
                for words in readers:
                    edited.look(words)

        run()


@pytest.mark.parametrize("stored", ['{"shop_totals": ["number integer"]}', "[1]", "{"])
def test_a_shape_of_tables_that_cannot_be_read_is_an_error_whose_remedy_helps(shop: Shop, stored: str) -> None:
    """As builds before the first release wrote it, among others."""
    shop.orders(1, 1)
    shop.drain()
    with opened(shop.url) as log, tampering(log.database) as connection:
        table = log.database.tables.sql_name("subscribers")
        connection.execute(text(f"update {table} set shape = :shape where name = 'board'"), {"shape": stored})
    ran = shop.cli("run", "--drain", "--app", "shop:app", "-o", "json")
    assert (ran.code, ran.error["code"]) == (Exit.FAILED, "damaged_row")
    assert "`eventlog rebuild NAME --app module:app`" in ran.error["remedy"]
    assert shop.cli("rebuild", "board", "--app", "shop:app", "--yes").code == Exit.OK
    assert (shop.drain()["failed"], shop.rows()) == (0, 2)
