"""Which log, which app, which form of output: settled once per command.

    flag  >  EVENTLOG_URL, _APP, _SCHEMA, _OUTPUT  >  eventlog.toml, or [tool.eventlog] in pyproject.toml  >  default

The files are those of the current directory. An app brings a log of its own, so a URL and an app may disagree. The
URL is taken from the first of: the flag, the environment, an app named by flag or environment (its own log), the file,
an app named in the file (its own log), `sqlite:///eventlog.db`. Every command looks at the same log therefore, whether
it needs the app or not; and one that executes handlers refuses to start when the log so found is not the app's own.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventlog.cli.options import flags
from eventlog.cli.output import Format
from eventlog.errors import UsageError

DEFAULT_URL = "sqlite:///eventlog.db"
FILE_KEYS = ("url", "app", "schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a command works with. `url` is None where the log is the app's own; `url_from` tells where it was found."""

    url: str | None
    url_from: str
    app: str | None
    schema: str | None
    output: Format
    verbose: bool

    @property
    def json(self) -> bool:
        return self.output is not Format.TABLE


def read_settings() -> Settings:
    """Settle the settings of the command that runs. Raises `UsageError` for one that cannot be read."""
    named, values = read_file(Path.cwd())
    return settle(flags(), os.environ, values, file_name=named)


def settle(
    given: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Mapping[str, str],
    *,
    file_name: str = "eventlog.toml",
) -> Settings:
    """Bring flags, environment and file together."""
    variables = {key: environment.get(f"EVENTLOG_{key.upper()}") or None for key in (*FILE_KEYS, "output")}
    near_app = given.get("app") or variables["app"]
    app = near_app or file.get("app")
    url, url_from = _url(given.get("url"), variables["url"], near_app, file.get("url"), app, file_name=file_name)
    return Settings(
        url=url,
        url_from=url_from,
        app=app,
        schema=given.get("schema") or variables["schema"] or file.get("schema"),
        output=_format(given.get("output") or variables["output"] or Format.TABLE),
        verbose=bool(given.get("verbose")),
    )


def read_file(folder: Path) -> tuple[str, dict[str, str]]:
    """Read `eventlog.toml`, or else `[tool.eventlog]` of `pyproject.toml`; return the file's name and its values."""
    own, project = folder / "eventlog.toml", folder / "pyproject.toml"
    if own.is_file():
        return own.name, _checked(_parsed(own), own.name)
    if project.is_file():
        values = _parsed(project).get("tool", {}).get("eventlog", {})
        return "[tool.eventlog] in pyproject.toml", _checked(values, "[tool.eventlog] in pyproject.toml")
    return own.name, {}


def _url(
    flag: str | None,
    variable: str | None,
    near_app: str | None,
    in_file: str | None,
    app: str | None,
    *,
    file_name: str,
) -> tuple[str | None, str]:
    if flag:
        return flag, "--url"
    if variable:
        return variable, "EVENTLOG_URL"
    if near_app:
        return None, "the app"
    if in_file:
        return in_file, file_name
    return (None, "the app") if app else (DEFAULT_URL, "the default")


def _format(name: str) -> Format:
    try:
        return Format(name)
    except ValueError:
        raise UsageError(
            f"EVENTLOG_OUTPUT={name!r} is no form of output", remedy=f"use one of {', '.join(Format)}"
        ) from None


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{file.name} cannot be read: {error}", remedy="it is TOML: url = 'sqlite:///x.db'") from error


def _checked(values: Any, file_name: str) -> dict[str, str]:
    """A misspelt key would silently mean another database: refuse it."""
    known = f"known are {', '.join(FILE_KEYS)}, each a text"
    if not isinstance(values, dict):
        raise UsageError(f"{file_name} is no table of settings", remedy=known)
    for key, value in values.items():
        if key not in FILE_KEYS or not isinstance(value, str):
            raise UsageError(f"{file_name} sets {key!r} to {value!r}", remedy=known)
    return values
