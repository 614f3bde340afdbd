"""Serving metrics from `run`: over HTTP, with what the app itself exports by prometheus_client's registry.

Several processes write what they count to files of one folder, and the process that keeps them running serves the sum,
by prometheus_client's own way of doing it. A process that is started again goes on with its files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eventlog.errors import UsageError
from eventlog.subscribers.app import App

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client looks for the folder, when it is imported."""


@contextmanager
def exported(app: App, *, host: str, port: int) -> Iterator[None]:
    """Count the app's calls of handlers, and serve all there is, while the block runs. Raises `UsageError`."""
    with _extra():
        from prometheus_client import REGISTRY
        from prometheus_client.registry import CollectorRegistry

        from eventlog.subscribers.metrics import export_metrics, is_exported
    registry = CollectorRegistry()
    registry.register(REGISTRY)
    if not is_exported(app, registry=REGISTRY):
        export_metrics(app, registry=registry)
    with _served(registry, host=host, port=port):
        yield


@contextmanager
def exported_of_several(app: App, folder: Path, *, host: str, port: int) -> Iterator[None]:
    """Serve what processes count in a folder, and the log's own metrics, while the block runs. Raises `UsageError`."""
    with _extra():
        from prometheus_client.multiprocess import MultiProcessCollector
        from prometheus_client.registry import CollectorRegistry

        from eventlog.subscribers.metrics import LogCollector
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    registry.register(LogCollector(app))
    with _served(registry, host=host, port=port):
        yield


def count_as(number: int) -> None:
    """Have this process count in files with a number of ours, not with its own, which changes with each start."""
    with _extra():
        from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def measured(app: App) -> None:
    """Count the app's calls of handlers, unless it does so already."""
    from prometheus_client import REGISTRY

    from eventlog.subscribers.metrics import is_exported, measure_handlers

    if not is_exported(app, registry=REGISTRY):
        measure_handlers(app)


@contextmanager
def _served(registry: "CollectorRegistry", *, host: str, port: int) -> Iterator[None]:
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise UsageError(
            f"metrics cannot be served at {host}:{port}: {error.strerror or error}",
            remedy="name a port that is free, and a host of this machine",
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise UsageError(
            "metrics need prometheus-client, which is not installed", remedy="pip install 'rewindlog[metrics]'"
        ) from error
