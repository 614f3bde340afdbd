"""Metrics: what a scrape over HTTP says of a real log, that it never fails, and that an app without pays nothing."""

import json
import re
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from eventlog.cli.metrics_server import exported
from eventlog.errors import UsageError
from eventlog.subscribers import metrics
from eventlog.subscribers.app import App
from eventlog.subscribers.metrics import LogCollector, export_metrics, is_exported, measure_handlers
from eventlog.subscribers.retry import Retry
from tests.docs_support import DOCS
from tests.server_process import free_port
from tests.subscribers_support import Bench, BugError, Sent

DASHBOARD = DOCS / "grafana-dashboard.json"


class Scrape:
    """What one scrape has brought."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._samples = [sample for family in families for sample in family.samples]

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self._samples}

    def value(self, name: str, **labels: str) -> float:
        (found,) = [one.value for one in self._samples if (one.name, one.labels) == (name, labels)]
        return found

    def has(self, name: str) -> bool:
        return any(one.name == name for one in self._samples)


def over_http(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return Scrape(text_string_to_metric_families(answer.read().decode()))


def collected(app: App) -> Scrape:
    registry = CollectorRegistry()
    registry.register(LogCollector(app))
    return Scrape(registry.collect())


def mailer(bench: Bench, *, broken: int = 0) -> App:
    app = bench.app()

    @app.subscriber("mail", retry=Retry(attempts=1))
    def send(crate: Sent) -> None:
        if crate.number == broken:
            raise BugError

    return app


def test_a_scrape_over_http_tells_lag_failures_and_calls(bench: Bench) -> None:
    app, port = mailer(bench, broken=2), free_port()
    app.subscriber("behind", start="beginning").on("crate.*")(lambda recorded: None)
    app.register()
    sent = bench.send(3)
    with exported(app, host="127.0.0.1", port=port):
        app.drain(["mail"])
        found = over_http(port)
    assert (found.value("eventlog_up"), found.value("eventlog_workers")) == (1, 0)
    assert found.value("eventlog_high_water_mark_position") == found.value("eventlog_head_position") == sent[-1]
    assert found.value("eventlog_subscriber_lag_events", subscriber="behind") == 3
    assert found.value("eventlog_subscriber_lag_seconds", subscriber="behind") > 0
    assert found.value("eventlog_subscriber_lag_seconds", subscriber="mail") == 0
    assert found.value("eventlog_subscriber_checkpoint_position", subscriber="mail") == sent[-1]
    assert found.value("eventlog_subscriber_failures", subscriber="mail", state="parked") == 1
    assert found.value("eventlog_subscriber_failures", subscriber="behind", state="parked") == 0
    assert found.value("eventlog_subscriber_state", subscriber="mail", state="running") == 1
    assert found.value("eventlog_subscriber_state", subscriber="mail", state="halted") == 0
    assert found.value("eventlog_handler_events_total", subscriber="mail", outcome="handled") == 2
    assert found.value("eventlog_handler_events_total", subscriber="mail", outcome="failed") == 1
    assert found.value("eventlog_handler_seconds_count", subscriber="mail", outcome="failed") == 1
    assert found.has("python_info"), "what the app itself exports is served as well"


def test_what_an_open_append_holds_back_is_told(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    app = mailer(bench)
    with bench.transaction() as connection:
        bench.log.append(Sent(1), tx=connection)
        bench.send(1, first=2)
        found = collected(app)
    bench.close()
    assert found.value("eventlog_appends_in_flight") == 1
    assert found.value("eventlog_held_back_seconds") > 0


def test_a_database_that_does_not_answer_is_not_up_and_fails_no_scrape(caplog: pytest.LogCaptureFixture) -> None:
    app = App("postgresql://nobody:secret@127.0.0.1:1/nothing")
    for _ in range(2):
        found = collected(app)
        assert (found.names, found.value("eventlog_up")) == ({"eventlog_up", "eventlog_scrape_seconds"}, 0)
    collector = LogCollector(app)
    for _ in range(3):
        list(collector.collect())
    said = [record.getMessage() for record in caplog.records if record.name == "eventlog.metrics"]
    assert len(said) == 3, "once for each collector"
    assert "secret" not in caplog.text


def test_a_scrape_does_not_wait_without_end_for_another_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SCRAPE_SECONDS_MAX", 0.05)
    collector = LogCollector(mailer(bench))
    with collector._one_at_a_time:
        assert Scrape(collector.collect()).value("eventlog_up") == 0
    assert Scrape(collector.collect()).value("eventlog_up") == 1


def test_registering_asks_no_database() -> None:
    app, registry = App("postgresql://nobody@127.0.0.1:1/nothing"), CollectorRegistry(auto_describe=True)
    export_metrics(app, registry=registry)
    assert (is_exported(app, registry=registry), is_exported(app)) == (True, False)
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(LogCollector(app))


def test_an_app_that_exports_nothing_has_nothing_around_its_calls(bench: Bench) -> None:
    """Only then a handler is called as a function, with nothing in between (`Caller.may_call_alone`)."""
    app = mailer(bench)
    assert app.runtime().around == ()
    measure_handlers(app, registry=CollectorRegistry())
    assert len(app.runtime().around) == 1


def test_a_list_of_events_is_one_call(bench: Bench) -> None:
    app, registry = bench.app(), CollectorRegistry()

    @app.subscriber("lists")
    def many(crates: list[Sent]) -> None: ...

    measure_handlers(app, registry=registry)
    bench.send(5)
    app.drain()
    found = Scrape(registry.collect())
    assert found.value("eventlog_handler_events_total", subscriber="lists", outcome="handled") == 5
    assert found.value("eventlog_handler_seconds_count", subscriber="lists", outcome="handled") == 1


def test_a_port_that_is_taken_is_refused(bench: Bench) -> None:
    app, port = mailer(bench), free_port()
    with (
        exported(app, host="127.0.0.1", port=port),
        pytest.raises(UsageError, match=f"cannot be served at 127.0.0.1:{port}"),
        exported(bench.app(), host="127.0.0.1", port=port),
    ):
        pass


def test_every_expression_of_the_dashboard_names_what_is_exported() -> None:
    registry = CollectorRegistry()
    app = App("sqlite:///nothing.db")
    measure_handlers(app, registry=registry)
    exported_names = {metric.name for metric in LogCollector(app).describe()}
    for family in registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}[family.type]
        exported_names |= {f"{family.name}{suffix}" for suffix in suffixes}
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = list(_expressions(dashboard))
    assert len(expressions) >= len(dashboard["panels"])
    for expression in expressions:
        named = set(re.findall(r"\beventlog_\w+", expression))
        assert named, expression
        assert named <= exported_names, expression
    shown = {name for expression in expressions for name in re.findall(r"\beventlog_\w+", expression)}
    forgotten = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported_names - shown}
    forgotten -= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert forgotten <= {"eventlog_head_position", "eventlog_scrape_seconds"}


def _expressions(part: Any) -> Iterator[str]:
    """Every `expr` and every query of a variable, wherever it stands."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name in ("expr", "query") and isinstance(value, str) and "eventlog" in value:
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(part, list):
        for value in part:
            yield from _expressions(value)
