"""Run the audit: see the package. Exits with 1 when somebody lost who promises not to, or a control was not caught."""

import argparse
import logging
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import sqlalchemy

from benchmarks.lost_events import report
from benchmarks.lost_events.adapters import NAMES, Adapter, installed, load
from benchmarks.lost_events.adapters.sql_adapter import SqlAdapter
from benchmarks.lost_events.node_writer import NodeWriter
from benchmarks.lost_events.race import Race, RaceFailedError, run_race
from benchmarks.lost_events.shapes import Shape
from benchmarks.lost_events.writing import WRITER_NAME, Writer
from tests.clients import clients
from tests.postgres_server import server_of_the_wheel

SETTINGS = {"max_connections": "300", "max_prepared_transactions": "100"}
"""All else is as PostgreSQL is shipped."""
NODE_CACHE = Path("build/node")
SQLITE_WRITERS_MAX = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit adapters, print what came of it, and return the exit code."""
    options = _options(arguments)
    adapters = [load(name) for name in options.adapters or installed()]
    if missing := [] if options.adapters else [name for name in NAMES if name not in installed()]:
        print(f"left out, since they are not installed: {', '.join(missing)}")
    races = []
    with _quietly(), _server(options) as server:
        where = report.about(server.about, adapters)
        print(f"{where}\nseed {options.seed}, {options.seconds:g} s each, {options.writers} writers", flush=True)
        for adapter in adapters:
            race = _audited(server, adapter, options)
            races.append((race, adapter))
            print(f"{report.line(race)}\n    {report.shapes(race)}", flush=True)
    if options.write_docs:
        report.write_docs(report.PAGE, races, writers=options.writers, where=where)
    return exit_code([race for race, _ in races])


def exit_code(races: Sequence[Race]) -> int:
    """0 when everybody did as is promised of him; controls are promised to lose."""
    return 0 if all(race.is_as_promised for race in races) else 1


class _Place:
    """Where databases can be had, each with nothing in it and dropped after use."""

    def __init__(self, url: str | None, folder: Path) -> None:
        self._url = None if url is None else sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")
        self._folder = folder
        self._count = 0
        self.about = f"PostgreSQL {self._execute('show server_version')}" if self._url is not None else "SQLite"
        self.prepares = self._url is not None and self._execute("show max_prepared_transactions") != "0"

    @contextmanager
    def database(self) -> Iterator[str]:
        self._count += 1
        if self._url is None:
            yield f"sqlite:///{self._folder / f'log-{self._count}.db'}"
            return
        name = f"lost_events_{self._count}_{secrets.token_hex(4)}"
        self._execute(f"create database {name}")
        try:
            yield self._url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._execute(f"drop database {name} with (force)")

    def _execute(self, statement: str) -> str:
        assert self._url is not None
        engine = sqlalchemy.create_engine(self._url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return str(result.scalar()) if result.returns_rows else ""


def _audited(place: _Place, adapter: type[Adapter], options: argparse.Namespace) -> Race:
    with place.database() as url, tempfile.TemporaryDirectory() as folder:
        made = adapter(url)
        made.create()
        shapes = made.shapes if place.prepares else made.shapes - {Shape.PREPARED}
        return run_race(
            made,
            writers=options.writers if made.is_postgres else min(options.writers, SQLITE_WRITERS_MAX),
            seconds=options.seconds,
            seed=options.seed,
            shapes=shapes,
            beside=_node_writers(made, Path(folder), options.seed) if options.node and Shape.NODE in shapes else [],
        )


def _node_writers(adapter: Adapter, folder: Path, seed: int) -> list[Writer]:
    if not isinstance(adapter, SqlAdapter):
        return []
    NODE_CACHE.mkdir(parents=True, exist_ok=True)
    programs = clients(adapter.url, folder, NODE_CACHE.resolve())
    return [NodeWriter(clients=programs, name=f"{WRITER_NAME}-node", seed=seed, schema=adapter.schema)]


@contextmanager
def _quietly() -> Iterator[None]:
    """Connections are ended by the dozen, and everybody would say so."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[_Place]:
    with tempfile.TemporaryDirectory() as folder:
        if options.database == "sqlite":
            yield _Place(None, Path(folder))
            return
        with nullcontext(options.url) if options.url else server_of_the_wheel(SETTINGS) as url:
            yield _Place(url, Path(folder))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lost_events", description="do readers lose events?")
    parser.add_argument(
        "adapters", nargs="*", metavar="ADAPTER", help=f"of {', '.join(NAMES)}, or module:Class; all that are installed"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long writers write, for each adapter (10)")
    parser.add_argument("--writers", type=int, default=16, help="how many (16; at most 4 on SQLite)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="what writers draw from (random)")
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--url", help="a PostgreSQL server, by an account that may create databases; else one is run")
    parser.add_argument("--no-node", dest="node", action="store_false", help="without a writer in Node")
    parser.add_argument("--write-docs", action="store_true", help="write the table into docs/reliability.md")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.adapters if name not in NAMES and ":" not in name]:
        parser.error(f"no adapter {', '.join(unknown)}: choose from {', '.join(NAMES)}")
    if absent := [name for name in options.adapters if name in NAMES and name not in installed()]:
        parser.error(f"not installed: {', '.join(absent)}; `make lost` runs with them")
    if options.database == "sqlite":
        options.adapters = options.adapters or [name for name in NAMES if name.startswith("rewindlog")]
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RaceFailedError as error:
        sys.exit(f"no result: {error}")
