"""What a worker writes on stderr: one line for each thing that happens, as text or as JSON.

An app that has set up logging by itself keeps its own way, unless the command line asks for one (`--log`). What a line
carries beside its text is in `subscribers/log_lines.py`; what handlers put into `extra=` stands in the JSON as well.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

FORMS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

_ROOT = "eventlog"
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Logs:
    """The set-up of one command. `form` is None where the command line does not say one."""

    def __init__(self, *, form: str | None, level: int, with_process: bool = False) -> None:
        self.form = form
        self._level = level
        self._formatter = _JsonLines() if form == "json" else _text(with_process=with_process)
        self._handler: logging.Handler = logging.StreamHandler(sys.stderr)
        self._handler.setFormatter(self._formatter)

    def insist(self) -> None:
        """Be what is written to, if the command line asked for it: importing an app may have set up logging anew."""
        if self.form is None:
            return
        logging.getLogger().handlers = [self._handler]
        self._set_levels()
        for name, logger in logging.getLogger().manager.loggerDict.items():
            if name.startswith(_ROOT) and isinstance(logger, logging.Logger):
                logger.disabled = False

    def line(self, message: str) -> bytes:
        """Write a line that goes to stderr by itself: a signal handler may not ask a logger for its lock."""
        if self.form != "json":
            return f"{message}\n".encode()
        record = logging.makeLogRecord({"name": "eventlog.worker", "levelno": logging.INFO, "levelname": "INFO"})
        record.msg = message
        return f"{self._formatter.format(record)}\n".encode()

    @contextmanager
    def written(self) -> Iterator[None]:
        """Write our log and the handlers' while the block runs."""
        root, ours = logging.getLogger(), logging.getLogger(_ROOT)
        before = (list(root.handlers), root.level, ours.level)
        if self.form is not None or not root.handlers:
            root.handlers = [self._handler]
        self._set_levels()
        try:
            yield
        finally:
            root.handlers = before[0]
            root.setLevel(before[1])
            ours.setLevel(before[2])

    def _set_levels(self) -> None:
        root = logging.getLogger()
        if self._handler in root.handlers:
            root.setLevel(logging.WARNING)
        logging.getLogger(_ROOT).setLevel(self._level)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN_ATTRIBUTES}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


def _text(*, with_process: bool) -> logging.Formatter:
    return logging.Formatter(f"%(asctime)s {'[%(process)d] ' if with_process else ''}%(levelname)s %(message)s")
