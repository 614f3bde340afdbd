"""What `run` is asked for."""

from dataclasses import dataclass
from pathlib import Path

from eventlog.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where metrics are served."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be run, and how it is to be watched."""

    only: tuple[str, ...]
    drains: bool
    processes: int
    listen_url: str | None
    level: str | None
    health_file: Path | None
    metrics: Address | None


def address(text: str) -> Address:
    """Read `PORT`, on this machine alone, or `HOST:PORT`. Raises `UsageError`."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise UsageError(
            f"--metrics-port {text!r} is neither PORT nor HOST:PORT", remedy="write 9464, or 0.0.0.0:9464 for everybody"
        )
    return Address(host=host.strip("[]") or "127.0.0.1", port=int(port))
