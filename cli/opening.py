"""Opening the log or the app a command works on, and the edge where database errors become ours.

No command but `init` makes a SQLite file: one that is not there is a mistyped path, or a log nobody has made yet.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from eventlog.cli.settings import DEFAULT_URL, Settings
from eventlog.database import Database, translated
from eventlog.errors import EventLogError, SchemaMissingError, UsageError
from eventlog.log import EventLog
from eventlog.schema.migrate import SchemaState, schema_state
from eventlog.schema.tables import DEFAULT_SCHEMA
from eventlog.shown_urls import shown_url
from eventlog.subscribers.registration import SHADOW_MARK, is_registered, read_subscriber

if TYPE_CHECKING:
    from eventlog.subscribers.app import App  # with all that runs handlers, which most commands do not

FRAMES_SHOWN = 5
_PACKAGE = Path(__file__).parent.parent
_MACHINERY = (f"{_PACKAGE}{os.sep}", f"{Path(str(importlib.__file__)).parent}{os.sep}", "<frozen import")


@contextmanager
def opened_log(settings: Settings) -> Iterator[EventLog]:
    """Lend the log, its tables checked. Raises `DatabaseError` of one kind or another when they are not there."""
    log = named_log(settings)
    with database_errors(log):
        _check(log)
        yield log


@contextmanager
def opened_app(settings: Settings) -> Iterator["App"]:
    """Lend the app, its log's tables checked. Raises `UsageError` when its log is not the one named as well."""
    app = load_app(settings)
    _refuse_another_log(settings, app)
    with database_errors(app.log):
        _check(app.log)
        yield app


@contextmanager
def opened_database(settings: Settings, subscriber: str | None) -> Iterator[Database]:
    """Lend the database that a subscriber's rows are in: the log's, or if it is not there the one its app declares.

    Raises `UnknownSubscriberError` before anything is asked or done.
    """
    with opened_log(settings) as log:
        home = None if subscriber is None or settings.app is None else _home(settings, log, subscriber)
        try:
            database = home or log.database
            if subscriber is not None:
                with translated(database), database.reader() as connection:
                    read_subscriber(connection, database, subscriber)
            yield database
        finally:
            if home is not None:
                home.engine.dispose()


@contextmanager
def opened_databases(settings: Settings, subscriber: str | None = None) -> Iterator[Sequence[Database]]:
    """Lend the log's database and, where an app is named, the others that its subscribers have their rows in.

    With a subscriber, the one that its rows are in; see `opened_database`. One that has no tables yet is left out:
    nothing has been registered there.
    """
    if subscriber is not None:
        with opened_database(settings, subscriber) as database:
            yield [database]
        return
    with opened_log(settings) as log:
        homes = [] if settings.app is None else load_app(settings).homes[1:]
        try:
            yield [log.database, *filter(_has_tables, homes)]
        finally:
            for home in homes:
                home.engine.dispose()


def _has_tables(home: Database) -> bool:
    if _is_missing_file(home.engine.url):
        return False
    with translated(home), home.reader() as connection:
        return schema_state(connection, schema=home.schema) is not SchemaState.MISSING


def _home(settings: Settings, log: EventLog, subscriber: str) -> Database | None:
    name = subscriber.partition(SHADOW_MARK)[0]
    with log.database.reader() as connection:
        if is_registered(connection, log.database, name):
            return None
    app = load_app(settings)
    _refuse_another_log(settings, app)
    declared = app.subscribers.get(name)
    return None if declared is None or declared.database is None else app.home_of(declared)


def named_log(settings: Settings) -> EventLog:
    """Make the log the settings mean; nothing is connected yet."""
    if settings.url is None and settings.app is not None:
        app = load_app(settings)
        _refuse_another_log(settings, app)
        return app.log
    return EventLog(settings.url or DEFAULT_URL, schema=settings.schema or DEFAULT_SCHEMA)


@contextmanager
def database_errors(log: EventLog) -> Iterator[None]:
    """Turn the driver's errors into ours while the block runs, and let the connections go at its end."""
    try:
        yield
    except DBAPIError as error:
        ours = log.database.translate(error)
        said = str(error.orig).strip() or type(error.orig).__name__
        raise ours or EventLogError(f"the database failed: {said}", remedy="--verbose shows more") from error
    finally:
        log.engine.dispose()


def load_app(settings: Settings) -> "App":
    """Import the app, also from the current directory. Raises `UsageError`, which says what is wrong with it."""
    if settings.app is None:
        raise UsageError(
            "this command runs your handlers, and no app is named",
            remedy="say --app module:attribute, or put app = 'module:attribute' into eventlog.toml",
        )
    module_name, colon, attribute = settings.app.partition(":")
    if not (module_name and colon and attribute) or "/" in module_name or module_name.endswith(".py"):
        raise UsageError(
            f"{settings.app!r} does not name an app",
            remedy="write module:attribute, like shop.events:app for `app` in shop/events.py",
        )
    found = _attribute(_module(module_name, settings.app), attribute, settings.app)
    return _as_app(found, settings.app)


def _module(name: str, named: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"there is no module {error.name!r} (looking for the app {named!r})",
                remedy=f"modules are looked for in {here} and where Python finds its own",
            ) from error
        raise _failed(error, f"the app {named!r} fails when it is imported") from error
    except (Exception, SystemExit) as error:
        raise _failed(error, f"the app {named!r} fails when it is imported") from error


def _attribute(module: Any, path: str, named: str) -> Any:
    from eventlog.subscribers.app import App

    found = module
    for name in path.split("."):
        if not hasattr(found, name):
            apps = [one for one, value in vars(module).items() if isinstance(value, App)]
            hint = f"it has {', '.join(f'{module.__name__}:{one}' for one in apps)}" if apps else "name your App there"
            raise UsageError(f"{module.__name__!r} has no {path!r} (looking for the app {named!r})", remedy=hint)
        found = getattr(found, name)
    return found


def _as_app(found: Any, named: str) -> "App":
    from eventlog.subscribers.app import App

    if not isinstance(found, App) and callable(found) and not isinstance(found, type):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise _failed(error, f"{named!r} fails when it is called to make the app") from error
    if not isinstance(found, App):
        raise UsageError(
            f"{named!r} is a {type(found).__qualname__}, not an App",
            remedy="name what App(...) returned, or a function without arguments that returns it",
        )
    return found


def _failed(error: BaseException, what: str) -> UsageError:
    """Show where the app's own code failed: without our frames, and without the import machinery's."""
    lines = traceback.format_list(_shown(error)) + traceback.format_exception_only(error)
    remedy = getattr(error, "remedy", "") or "repair it; importing an app must work before its handlers can run"
    return UsageError(f"{what}\n{''.join(lines).rstrip()}", remedy=remedy)


def _shown(error: BaseException) -> list[traceback.FrameSummary]:
    """The innermost frames, among them the app's own last one, however deep in a library it went wrong."""
    from sysconfig import get_path  # nobody needs it where all is well

    installed = tuple(f"{get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib"))
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(_MACHINERY)]
    shown = frames[-FRAMES_SHOWN:]
    own = [one for one in frames if not one.filename.startswith(installed)] or frames
    return shown if not own or own[-1] in shown else [own[-1], *shown[1:]]


def _refuse_another_log(settings: Settings, app: "App") -> None:
    """Handlers run on the app's own log; a URL that means another one would be ignored without a word."""
    own = app.engine.url
    if settings.url is not None and settings.app is not None:
        named = EventLog(settings.url).engine.url
        if _place(named) != _place(own):
            raise UsageError(
                f"{settings.url_from} says {shown_url(named)}, and the app {settings.app!r} has its log in"
                f" {shown_url(own)}",
                remedy="leave the URL out, or have the app read the same setting",
            )
    if settings.schema is not None and settings.schema != app.log.database.schema:
        raise UsageError(
            f"the schema {settings.schema!r} is asked for, and the app's log is {app.log.database.schema!r}",
            remedy="leave the schema out, or have the app say App(..., schema=...)",
        )


def _check(log: EventLog) -> None:
    refuse_missing_file(log)
    with log.database.reader() as connection:
        log.check(connection)


def refuse_missing_file(log: EventLog) -> None:
    """Raise `SchemaMissingError` rather than have SQLite make an empty file."""
    if _is_missing_file(log.engine.url):
        raise SchemaMissingError(
            f"there is no log in {log.engine.url.database}: no such file",
            remedy="run `eventlog init` to make it here, or name another one with --url",
        )


def _is_missing_file(url: URL) -> bool:
    is_file = url.get_backend_name() == "sqlite" and url.database is not None and not url.database.startswith("file:")
    return is_file and not Path(url.database or "").exists()


def _place(url: URL) -> tuple[object, ...]:
    """What two URLs must share to mean one database: not the role, nor the options."""
    if url.get_backend_name() == "sqlite":
        return ("sqlite", str(Path(url.database or "").absolute()))
    return ("postgresql", url.host or url.query.get("host"), url.port or 5432, url.database)
