"""Traces: an append notes the span it is in, and a handler's span is linked to it, never its child."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from eventlog.events import Event
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.traces import trace_events
from tests.subscribers_support import Bench, BugError, Sent


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield provider
    provider.shutdown()


@pytest.fixture
def tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("the service")


@pytest.fixture
def app(bench: Bench, provider: TracerProvider) -> App:
    app = bench.app()
    trace_events(app, tracer_provider=provider)
    return app


def test_a_handlers_span_is_linked_to_the_append_and_begins_a_trace(
    bench: Bench, app: App, tracer: Tracer, spans: InMemorySpanExporter
) -> None:
    @app.subscriber("mail")
    def send(crate: Sent) -> None: ...

    with tracer.start_as_current_span("POST /crates") as request:
        (sent,) = app.log.append(Sent(1))
    with tracer.start_as_current_span("a tick of the worker"):
        app.drain()
    (span,) = [one for one in spans.get_finished_spans() if one.name == "process mail"]
    context = request.get_span_context()
    assert (span.kind, span.parent) == (SpanKind.CONSUMER, None)
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [
        (context.trace_id, context.span_id)
    ]
    assert span.context is not None
    assert span.context.trace_id != context.trace_id
    assert dict(span.attributes or {}) == {
        "messaging.system": "eventlog",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "eventlog",
        "messaging.consumer.group.name": "mail",
        "messaging.message.id": str(sent.id),
        "eventlog.position": sent.position,
        "eventlog.type": "crate.sent",
        "eventlog.attempt": 1,
        "eventlog.redelivery": False,
    }


def test_the_context_goes_into_the_metadata_in_the_w3c_form(app: App, tracer: Tracer) -> None:
    with tracer.start_as_current_span("POST /crates") as request:
        app.log.append(Sent(1), metadata={"actor": "ada"})
    context = request.get_span_context()
    (recorded,) = app.log.read()
    assert recorded.metadata == {
        "traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}",
        "actor": "ada",
    }


def test_what_the_append_says_goes_before_the_active_span(app: App, tracer: Tracer) -> None:
    """An event that is brought here from elsewhere may come with a context of its own."""
    with tracer.start_as_current_span("a relay"):
        app.log.append(Event({}, type="t", stream="s", metadata={"traceparent": "of the event"}))
        app.log.append(Event({}, type="t", stream="s"), metadata={"traceparent": "of the append"})
    assert [one.metadata["traceparent"] for one in app.log.read()] == ["of the event", "of the append"]


def test_without_an_active_span_nothing_is_noted_and_nothing_linked(
    app: App, bench: Bench, spans: InMemorySpanExporter
) -> None:
    app.subscriber("mail").on("**")(lambda recorded: None)
    app.log.append(Sent(1))
    app.log.append(Sent(2), metadata={"traceparent": "not one at all"})
    app.drain()
    assert next(iter(app.log.read())).metadata == {}
    assert [list(span.links) for span in spans.get_finished_spans()] == [[], []]


def test_an_app_that_does_not_trace_notes_nothing(bench: Bench, tracer: Tracer) -> None:
    with tracer.start_as_current_span("POST /crates"):
        bench.send(1)
    assert next(iter(bench.log.read())).metadata == {}


def test_a_coroutines_append_has_its_span(app: App, tracer: Tracer) -> None:
    async def request() -> None:
        with tracer.start_as_current_span("POST /crates"):
            await app.log.append_async(Sent(1))

    asyncio.run(request())
    assert "traceparent" in next(iter(app.log.read())).metadata


def test_a_failed_call_tells_the_type_of_its_error_and_no_more(app: App, spans: InMemorySpanExporter) -> None:
    mail = app.subscriber("mail", retry=Retry(attempts=1))

    @mail
    def send(crate: Sent) -> None:
        raise BugError("a customer's address")

    app.log.append(Sent(1))
    assert app.drain().failed == 1
    (span,) = spans.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "BugError")
    assert (span.attributes or {})["error.type"] == "BugError"
    assert "address" not in span.to_json()


def test_a_list_is_one_span_with_a_link_to_each_request(app: App, tracer: Tracer, spans: InMemorySpanExporter) -> None:
    @app.subscriber("lists")
    def many(crates: list[Sent]) -> None: ...

    for first in (1, 3):
        with tracer.start_as_current_span("POST /crates"):
            app.log.append(Sent(first), Sent(first + 1))
    app.drain()
    (span,) = [one for one in spans.get_finished_spans() if one.name == "process lists"]
    assert len(span.links) == 2
    assert (span.attributes or {})["messaging.batch.message_count"] == 4


def test_what_a_handler_appends_is_in_its_own_span(app: App, tracer: Tracer, spans: InMemorySpanExporter) -> None:
    @app.subscriber("mail")
    def send(crate: Sent, ctx: Context) -> None:
        ctx.append(Event({}, type="mail.sent", stream="mails"))

    with tracer.start_as_current_span("POST /crates"):
        app.log.append(Sent(1))
    app.drain()
    (span,) = [one for one in spans.get_finished_spans() if one.name == "process mail"]
    _first, second = app.log.read()
    assert span.context is not None
    assert f"{span.context.span_id:016x}" in second.metadata["traceparent"]
    assert "causation_id" in second.metadata


def test_a_rewind_is_traces_of_its_own(bench: Bench, app: App, tracer: Tracer, spans: InMemorySpanExporter) -> None:
    @app.subscriber("mail")
    def send(crate: Sent) -> None: ...

    with tracer.start_as_current_span("POST /crates"):
        app.log.append(Sent(1))
    app.drain()
    control.rewind(bench.log.database, "mail", control.to_start, resend=True, reason="a test")
    app.drain()
    first, again = [one for one in spans.get_finished_spans() if one.name == "process mail"]
    assert first.context is not None
    assert again.context is not None
    assert first.context.trace_id != again.context.trace_id
    assert [link.context for link in first.links] == [link.context for link in again.links]
    assert ((first.attributes or {})["eventlog.redelivery"], (again.attributes or {})["eventlog.redelivery"]) == (
        False,
        True,
    )
