"""Files that events are carried in: `-` is a pipe, a name that ends in .zst is an archive.

A file that is written gets its name when it is whole; one that is read is never held in memory.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

from eventlog.carried import LINE_BYTES_MAX
from eventlog.cli.output import show
from eventlog.errors import NotFoundError, RefusedError, UsageError

PIPE = "-"
_COMPRESSED = ".zst"
_LIBRARIES = ("compression.zstd", "backports.zstd")
"""The first is part of Python from 3.14 on."""


class Lines:
    """The lines of a file, of a bounded length each. `size` is how many bytes it has, None for a pipe."""

    def __init__(self, name: str, source: IO[bytes], raw: IO[bytes] | None) -> None:
        self.size = None if raw is None else os.fstat(raw.fileno()).st_size
        self._name = name
        self._source = source
        self._raw = raw

    def __iter__(self) -> Iterator[bytes]:
        try:
            while line := self._source.readline(LINE_BYTES_MAX + 1):
                yield line
        except (OSError, EOFError, _broken_archive()) as error:
            raise UsageError(
                f"{self._name} cannot be read to its end: {error}",
                remedy="what came before is imported; write the file anew and run the import again",
            ) from error

    @property
    def bytes_read(self) -> int:
        """How far the file has been read, as it lies on disk."""
        return self._raw.tell() if self._raw is not None else 0


@contextmanager
def reading(name: str) -> Iterator[Lines]:
    """Open a file of lines. Raises `NotFoundError`, `UsageError`."""
    if name == PIPE:
        yield Lines("stdin", sys.stdin.buffer, None)
        return
    with _opened(name) as raw:
        yield Lines(name, _decompressed(raw) if name.endswith(_COMPRESSED) else raw, raw)


@contextmanager
def writing(name: str, *, overwrite: bool) -> Iterator[Callable[[bytes], None]]:
    """Lend a function that writes a line. A file gets its name when all is written, and is on disk then.

    Raises `RefusedError` where it is there already, `UsageError` where it cannot be written.
    """
    if name == PIPE:
        yield lambda line: show(line.decode())
        return
    file = Path(name)
    if file.is_dir():
        raise UsageError(f"{name} is a folder", remedy="name a file in it, or - for stdout")
    if file.exists() and not overwrite:
        raise RefusedError(f"{name} is there already", remedy="name another file, or say --overwrite")
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as raw:
            archive = _zstd(name).ZstdFile(raw, "wb") if name.endswith(_COMPRESSED) else None
            target = cast("IO[bytes]", archive) if archive is not None else raw
            yield lambda line: _write(target, line)
            if archive is not None:
                archive.close()
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(file)
    except OSError as error:
        raise UsageError(f"{name} cannot be written: {error.strerror}", remedy="is there room for it?") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _opened(name: str) -> IO[bytes]:
    try:
        return Path(name).open("rb")
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {name}", remedy="name one that `eventlog export` has written") from None
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}", remedy="name a file, or - for stdin") from error


def _write(target: IO[bytes], line: bytes) -> None:
    target.write(line)
    target.write(b"\n")


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    return BufferedReader(_zstd(raw.name).ZstdFile(raw, "rb"))


def _zstd(name: str) -> Any:
    for library in _LIBRARIES:
        with suppress(ImportError):
            return import_module(library)
    raise UsageError(
        f"{name} is a zstd archive, and there is no library for it",
        remedy="pip install 'rewindlog[zstd]', or leave .zst out of the name",
    )


def _broken_archive() -> type[Exception]:
    for library in _LIBRARIES:
        if library in sys.modules:
            error: type[Exception] = sys.modules[library].ZstdError
            return error
    return EOFError
