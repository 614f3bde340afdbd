"""A projection whose new version is not in use: a drain delivers to all others, and says what is true of it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from eventlog.errors import RefusedError
from eventlog.projections import View
from eventlog.subscribers.app import App
from eventlog.subscribers.control.exchange import go_back
from eventlog.subscribers.control.rebuilds import begin_rebuild, cancel_rebuild, read_rebuilds
from eventlog.subscribers.not_in_use import why_not_in_use
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.worker import drain
from tests.subscribers_support import Bench, BugError, Sent, runtime_of


class Crate(msgspec.Struct, frozen=True):
    number: int
    weight: int = 0


def service(bench: Bench, *, version: int, broken: bool = False) -> tuple[App, list[int], list[int]]:
    """Make an app with a subscriber, a view, and another subscriber, declared in this order."""
    app, first, last = bench.app(), list[int](), list[int]()
    app.subscriber("first")(noting(first))
    view: View[Any] = app.add(View("crates", row=Crate, key="number", version=version, retry=Retry(attempts=1)))

    @view
    def weigh(row: Crate | None, sent: Sent) -> Crate:
        if broken:
            raise BugError
        return Crate(sent.number, sent.weight)

    app.subscriber("last")(noting(last))
    return app, first, last


def noting(seen: list[int]) -> Callable[[Sent], None]:
    def note(sent: Sent) -> None:
        seen.append(sent.number)

    return note


def live(bench: Bench) -> App:
    bench.send(1)
    app, _, _ = service(bench, version=1)
    app.drain()
    bench.send(1, first=2)
    return app


def refused_drain(app: App) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        app.drain()
    return refused.value


def test_a_version_whose_rebuild_was_cancelled_keeps_nobody_else_from_being_drained(bench: Bench) -> None:
    live(bench)
    app, first, last = service(bench, version=2)
    begun = begin_rebuild(bench.log.database, app.subscribers["crates"])
    cancel_rebuild(bench.log.database, "crates")

    refused = refused_drain(app)

    assert (first, last, bench.position("crates")) == ([2], [2], 1)
    assert "'crates' is at version 1, this code declares version 2" in str(refused)
    assert f"and rebuild {begun.operation} of that was cancelled" in str(refused)
    assert "`eventlog rebuild crates --app module:app` makes it anew" in refused.remedy


def test_a_version_that_was_brought_back_says_so_and_the_others_are_drained(bench: Bench) -> None:
    live(bench)
    app, first, last = service(bench, version=2)
    begin_rebuild(bench.log.database, app.subscribers["crates"], keep=True)
    app.drain()
    go_back(bench.log.database, "crates")
    bench.send(1, first=3)

    refused = refused_drain(app)

    assert (first, last) == ([2, 3], [2, 3])
    assert "and was brought back from that to the tables of before" in str(refused)
    assert "`eventlog rebuild crates --app module:app`" in refused.remedy


def test_a_rebuild_that_waits_at_a_failure_says_where_and_the_others_are_drained(bench: Bench) -> None:
    live(bench)
    app, first, last = service(bench, version=2, broken=True)

    refused = refused_drain(app)

    assert (first, last) == ([2], [2])
    begun = read_rebuilds(bench.log.database)[0]
    assert f"rebuild {begun.operation} of that waits at event 1, at which it failed" in str(refused)
    assert f"`eventlog failures {begun.shadow}`" in refused.remedy
    mended, _, _ = service(bench, version=2)
    assert "waits at event 1" in str(refused_drain(mended))


def test_older_code_drains_what_it_may_and_says_what_it_may_not(bench: Bench) -> None:
    live(bench)
    newer, _, _ = service(bench, version=2)
    newer.drain()
    bench.send(1, first=3)
    older, first, last = service(bench, version=1)

    refused = refused_drain(older)

    assert (first, last) == ([3], [3])
    assert "deploy the newest code" in refused.remedy


def test_a_drain_whose_code_is_overtaken_meanwhile_goes_on_with_the_others(bench: Bench) -> None:
    bench.send(1)
    older, first, last = service(bench, version=1)
    older.drain()
    runtime = runtime_of(older)
    partitions = older.partitions(runtime)
    newer, _, _ = service(bench, version=2)
    newer.drain()
    bench.send(1, first=2)

    with pytest.raises(RefusedError, match="is at version 2, this code declares version 1"):
        drain(runtime, partitions)

    assert (first, last) == ([1, 2], [1, 2])


def test_several_that_are_refused_are_all_named(bench: Bench) -> None:
    live(bench)
    app, _, _ = service(bench, version=2, broken=True)
    other: View[Any] = app.add(View("more", row=Crate, key="number"))

    @other
    def weigh(row: Crate | None, sent: Sent) -> Crate:
        return Crate(sent.number)

    app.register("more")
    again, _, last = service(bench, version=2, broken=True)

    class Other(msgspec.Struct, frozen=True):
        number: int
        text: str = ""

    changed: View[Any] = again.add(View("more", row=Other, key="number"))

    @changed
    def tell(row: Other | None, sent: Sent) -> Other:
        return Other(sent.number)

    refused = refused_drain(again)

    assert last == [2]
    assert "'crates' is at version 1" in str(refused)
    assert "'more' was made with other columns" in str(refused)


def test_a_rebuild_of_another_version_is_named(bench: Bench) -> None:
    live(bench)
    second, _, _ = service(bench, version=2)
    begun = begin_rebuild(bench.log.database, second.subscribers["crates"])
    third, first, last = service(bench, version=3)

    said = str(refused_drain(third))

    assert (first, last) == ([2], [2])
    assert f"rebuild {begun.operation}" in said
    why = why_not_in_use(bench.log.database, third.subscribers["crates"])
    assert f"this code declares version 3; rebuild {begun.operation} makes version 2" in str(why)


def test_a_rebuild_of_this_version_with_other_columns_is_not_waited_for(bench: Bench) -> None:
    """This code may not fill its tables: a drain that ran it would not come to an end."""

    class Other(msgspec.Struct, frozen=True):
        number: int
        text: str = ""

    live(bench)
    other = bench.app()
    view: View[Any] = other.add(View("crates", row=Other, key="number", version=2))

    @view
    def tell(row: Other | None, sent: Sent) -> Other:
        return Other(sent.number)

    begun = begin_rebuild(bench.log.database, view.subscriber)
    app, first, last = service(bench, version=2)

    refused = refused_drain(app)

    assert (first, last) == ([2], [2])
    assert f"rebuild {begun.operation} of that makes other columns" in str(refused)
