"""Passwords never show: not in a message, not in a traceback, whoever wrote it.

Our own messages have no passwords in them to begin with. This is for what others write: a driver that quotes what it
was given, a traceback that ends in it.
"""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from eventlog.shown_urls import SECRETS

MASK = "***"

_IN_URL = re.compile(r"(\w+://[^\s:/@'\"]*:)([^\s'\"]*)@")
_IN_QUERY = re.compile(rf"((?:{'|'.join(SECRETS)})=)([^\s&'\"]+)")
_DELIMITERS = re.compile(r"[@:/?#]")
"""What has to be escaped in a password, and where it is not cuts it in two: a driver takes the rest for the host."""

_LENGTH_MIN = 4
"""A shorter one is hidden in URLs only: it could be a part of any word."""


def hide(text: str, given: Sequence[str] = ()) -> str:
    """Mask passwords in a text: those that look like ones, and those of the URLs this process was started with."""
    for secret in _known(given):
        text = text.replace(secret, MASK)
    text = _IN_URL.sub(rf"\1{MASK}@", text)
    return _IN_QUERY.sub(rf"\1{MASK}", text)


def _known(given: Sequence[str]) -> list[str]:
    """The passwords in the arguments, the environment and the settings file, the longest first."""
    found = {secret for text in _sources(given) for secret in _secrets(text)}
    return sorted((secret for secret in found if len(secret) >= _LENGTH_MIN), key=len, reverse=True)


def _sources(given: Sequence[str]) -> Iterable[str]:
    yield from given
    yield from (os.environ.get(name, "") for name in ("EVENTLOG_URL", "EVENTLOG_LISTEN_URL"))
    for name in ("eventlog.toml", "pyproject.toml"):
        with suppress(OSError, UnicodeDecodeError):
            yield Path(name).read_text(encoding="utf-8")


def _secrets(text: str) -> Iterable[str]:
    for begin, secret in (*_IN_URL.findall(text), *_IN_QUERY.findall(text)):
        ordinary = {begin.partition("://")[2].rstrip(":"), "postgres", "postgresql", "eventlog"}
        yield from {secret, unquote(secret), *_DELIMITERS.split(secret)} - ordinary
