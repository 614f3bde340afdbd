"""Which URLs and engines a log is opened with: those of async engines too, beside which it has an engine of its own."""

import pytest
from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from eventlog.errors import UsageError
from eventlog.log import EventLog
from eventlog.subscribers.app import App
from tests.log_support import note, opened, said


def async_url(url: str) -> URL:
    """The URL of an async engine for the same database."""
    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg_async"}
    return make_url(url).set(drivername=driver[make_url(url).get_backend_name()])


def test_the_url_of_an_async_engine_opens_the_log_of_its_database(database_url: str) -> None:
    with opened(database_url) as log:
        log.append(note("hello"))
    beside = EventLog(create_async_engine(async_url(database_url)).url)
    assert said(list(beside.read())) == ["hello"]
    assert not beside.engine.dialect.is_async
    beside.engine.dispose()


def test_the_url_of_an_async_engine_may_be_a_text(database_url: str) -> None:
    app = App(async_url(database_url).render_as_string(hide_password=False))
    assert app.log.head() == 0
    app.engine.dispose()


def test_an_async_engine_is_refused_with_what_to_do_instead(database_url: str) -> None:
    with pytest.raises(UsageError, match="AsyncEngine") as refused:
        App(create_async_engine(async_url(database_url)))  # type: ignore[arg-type]
    assert "App(async_engine.url)" in refused.value.remedy


@pytest.mark.parametrize("url", ["postgresql+asyncpg://h/d", "postgresql+psycopg2://h/d", "sqlite+pysqlcipher:///f.db"])
def test_a_driver_that_is_not_spoken_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not spoken"):
        EventLog(url)
