"""docs/faults.md: the tests it names are there, its code runs, and its statement ends a lease."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

import eventlog
from eventlog.errors import DatabaseError
from eventlog.ids import new_id
from tests.docs_support import DOCS
from tests.subscribers_support import Bench, Sent

PAGE = (DOCS / "faults.md").read_text()
URL, APPEND = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(ENDS_LEASE,) = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


class OrderPlaced(msgspec.Struct, frozen=True):
    number: int


def test_the_tests_it_names_are_there() -> None:
    named = set(re.findall(r"(test_\w+\.py)(?:::(test_\w+))?", PAGE))
    assert len(named) > 15
    for file, test in named:
        text = (Path(__file__).parent / file).read_text()
        assert not test or f"def {test}(" in text, f"{file} has no {test}"


def test_the_address_of_two_servers_is_one_that_the_driver_takes() -> None:
    names: dict[str, object] = {"App": eventlog.App}
    exec(compile(URL, "docs/faults.md", "exec"), names)
    app = names["app"]
    assert isinstance(app, eventlog.App)
    _, options = app.engine.dialect.create_connect_args(app.engine.url)
    assert (options["host"], options["port"]) == ("one,other", "5432,5432")
    assert options["target_session_attrs"] == "read-write"


@pytest.mark.usefixtures("own_declarations")
def test_an_append_that_is_made_again_is_there_once(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first two answers are lost: the one append was carried out, the other was not."""
    app = eventlog.App(sqlite_url)
    append, times = app.log.append, 0

    def losing(*events: object) -> object:
        nonlocal times
        times += 1
        if times == 1:
            raise DatabaseError("away")
        done = append(*events)
        if times == 2:
            raise DatabaseError("the answer is lost")
        return done

    monkeypatch.setattr(app.log, "append", losing)
    event = eventlog.event("order.placed")(OrderPlaced)
    names = {"app": app, "Event": eventlog.Event, "OrderPlaced": event, "new_id": new_id}
    exec(compile(APPEND, "docs/faults.md", "exec"), {**names, "DatabaseError": DatabaseError, "time": time})
    assert (times, len(list(app.log.read()))) == (3, 1)
    app.engine.dispose()


def test_the_statement_ends_a_lease(sqlite_url: str) -> None:
    bench = Bench(sqlite_url)
    app = bench.app()

    @app.subscriber("mail")
    def send(_crate: Sent) -> None:
        return

    app.drain()
    sent = bench.send(1)
    table = bench.log.database.tables.checkpoints
    with bench.transaction() as connection:
        connection.execute(table.update().values(owner="a dead one", expires_at=datetime(2999, 1, 1, tzinfo=UTC)))
        connection.exec_driver_sql(ENDS_LEASE)
    app.drain()
    assert bench.position("mail") == sent[-1]
    bench.close()
