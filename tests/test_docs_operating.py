"""docs/operating.md is done as it is told, and its alerts are about metrics that there are."""

import re
from pathlib import Path

from eventlog.subscribers.app import App
from eventlog.subscribers.metrics import LogCollector
from tests.docs_support import DOCS, assert_page_holds

PAGE = DOCS / "operating.md"


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    assert_page_holds(PAGE, tmp_path)


def test_every_metric_stands_on_the_page_and_every_alert_is_about_one() -> None:
    names = {metric.name for metric in LogCollector(App("sqlite:///nothing.db")).describe()}
    names |= {"eventlog_handler_events_total", "eventlog_handler_seconds"}
    text = PAGE.read_text().replace("`..._lag_seconds`", "eventlog_subscriber_lag_seconds")
    assert names <= set(re.findall(r"eventlog_\w+", text))
    alerts = re.findall(r"^  expr: (.+)$", text, re.MULTILINE)
    assert len(alerts) == 5
    assert {name for alert in alerts for name in re.findall(r"eventlog_\w+", alert)} <= names
