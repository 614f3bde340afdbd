"""Traces by OpenTelemetry (`pip install rewindlog[otel]`): which request an event comes from, and what handled it.

    from eventlog.subscribers.traces import trace_events

    trace_events(app)

Where a span is active when an event is appended, its context goes into the event's metadata as `traceparent` (and
`tracestate`), in the W3C form. No baggage: what is recorded stays for good, and is read by whoever reads the log. A
call of a handler is a span of a trace of its own, linked to the spans its events were appended in and never their
child: an event may be handled seconds later or, in a replay, after a year, and must not make its trace longer.

The names are those of OpenTelemetry's conventions for messaging, which its Python packages do not have as constants
yet. A span tells the type of an error, not its message: that stands in the failure ledger, at the event's position.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from eventlog.events import Recorded
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context

FIELDS = ("traceparent", "tracestate")
"""What of an event's metadata belongs to traces."""

LINKS_MAX = 100
"""A list of events may come from a thousand requests; so many of them are linked to."""

_PROPAGATOR = TraceContextTextMapPropagator()


def trace_events(app: App, *, tracer_provider: TracerProvider | None = None) -> None:
    """Note traces with the app's appends, and trace the calls of its handlers, from now on. Once for each app.

    Call it before what is declared by `app.around`, to have that inside of the span, and before a worker is made. The
    provider is the process's own unless one is given.
    """
    tracer = trace.get_tracer("eventlog", tracer_provider=tracer_provider)
    log_name = app.log.database.schema
    app.log.metadata_from(current_trace)

    @app.around
    def traced(ctx: Context) -> Iterator[None]:
        with tracer.start_as_current_span(
            f"process {ctx.subscriber}",
            context=TraceContext(),
            kind=SpanKind.CONSUMER,
            links=_links(ctx.events),
            attributes=_attributes(ctx, log_name),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                kind = type(error).__qualname__
                span.set_attribute("error.type", kind)
                span.set_status(Status(StatusCode.ERROR, kind))
                raise


def current_trace() -> Mapping[str, str]:
    """Return what an append's metadata says of the active span; nothing where there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier


def _links(events: Sequence[Recorded[Any]]) -> list[Link]:
    """One for each span that events were appended in, in their order."""
    found: dict[tuple[int, int], Link] = {}
    for event in events:
        carrier = {name: value for name in FIELDS if isinstance(value := event.metadata.get(name), str)}
        if not carrier:
            continue
        span = trace.get_current_span(_PROPAGATOR.extract(carrier, TraceContext())).get_span_context()
        if span.is_valid:
            found.setdefault((span.trace_id, span.span_id), Link(span))
        if len(found) == LINKS_MAX:
            break
    return list(found.values())


def _attributes(ctx: Context, log_name: str) -> dict[str, str | int | bool]:
    attributes: dict[str, str | int | bool] = {
        "messaging.system": "eventlog",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": log_name,
        "messaging.consumer.group.name": ctx.subscriber,
        "eventlog.position": ctx.event.position,
        "eventlog.attempt": ctx.attempt,
        "eventlog.redelivery": ctx.redelivery,
    }
    if len(ctx.events) == 1:
        attributes |= {"messaging.message.id": str(ctx.event.id), "eventlog.type": ctx.event.type}
    else:
        attributes["messaging.batch.message_count"] = len(ctx.events)
    if ctx.replay is not None:
        attributes["eventlog.replay"] = ctx.replay
    return attributes
