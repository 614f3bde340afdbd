"""What a subscriber may be declared as, and which handler an event goes to; no database is needed to tell."""

import asyncio
import contextlib
import operator
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table

from eventlog.errors import DeclarationError
from eventlog.events import Recorded
from eventlog.patterns import covers, overlap, specificity
from eventlog.projections import View
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.routing import Handler, handler_of
from tests.subscribers_support import Found, Lost, Sent


class Row(msgspec.Struct, frozen=True):
    """One of a view."""

    number: int


@pytest.fixture
def app() -> Iterator[App]:
    """Nothing connects to its database."""
    app = App("sqlite:///never-opened.db")
    yield app
    app.engine.dispose()


@pytest.fixture
def mail(app: App) -> Subscriber:
    return app.subscriber("mail")


def handler_for(subscriber: Subscriber, event_type: str) -> str | None:
    found = subscriber.routes.find(event_type)
    return found.name.rpartition(".")[2] if found else None


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """What is declared here is refused, and the error says what to do instead."""
    with pytest.raises(DeclarationError) as error:
        yield
    assert str(error.value)
    assert error.value.remedy


def test_a_decorator_returns_the_function_as_it_was(mail: Subscriber) -> None:
    def send(crate: Sent) -> None:
        """Say so."""

    def seen(recorded: Recorded[Any]) -> None:
        """Say so."""

    assert mail(send) is send
    assert mail.on("crate.*")(seen) is seen


def test_a_decorator_without_its_parentheses_is_refused_and_does_not_drop_the_handler(mail: Subscriber) -> None:
    def send(crate: Sent) -> None:
        """Say so."""

    with refused():
        mail.on(send)  # type: ignore[arg-type]
    with refused():
        View("board", row=Row, key="number").on(send)  # type: ignore[arg-type]


def test_a_handler_gets_the_type_it_is_annotated_with(mail: Subscriber) -> None:
    @mail
    def send(crate: Sent) -> None: ...

    assert handler_for(mail, "crate.sent") == "send"
    assert handler_for(mail, "crate.lost") is None


def test_a_union_stands_for_each_of_its_types(mail: Subscriber) -> None:
    @mail
    def send(crate: Sent | Lost) -> None: ...

    assert mail.routes.patterns == ("crate.lost", "crate.sent")


def test_recorded_of_a_class_stands_for_its_type(mail: Subscriber) -> None:
    @mail
    def send(crate: Recorded[Sent | Found]) -> None: ...

    assert mail.routes.patterns == ("crate.found", "crate.sent")


def test_the_most_specific_handler_takes_an_event(mail: Subscriber) -> None:
    @mail.on("**")
    def anything(recorded: Recorded[Any]) -> None: ...

    @mail.on("crate.*")
    def some(recorded: Recorded[Any]) -> None: ...

    @mail
    def one(crate: Sent) -> None: ...

    found = [handler_for(mail, name) for name in ("crate.sent", "crate.lost", "crate", "letter.sent")]
    assert found == ["one", "some", "anything", "anything"]


def test_a_coroutine_is_a_handler(mail: Subscriber) -> None:
    class Awaitable:
        async def __call__(self, crate: Lost) -> None: ...

    @mail
    async def send(crate: Sent) -> None: ...

    mail(Awaitable())
    assert mail.routes.patterns == ("crate.lost", "crate.sent")


@pytest.mark.parametrize("annotated", [list[Sent | Lost], Sequence[Sent | Lost]])
def test_a_list_says_by_its_elements_which_events_it_wants(mail: Subscriber, annotated: Any) -> None:
    def send(crates: Any) -> None: ...

    send.__annotations__["crates"] = annotated
    mail(send)
    assert mail.routes.patterns == ("crate.lost", "crate.sent")


def test_a_handler_declared_for_lists_that_is_annotated_with_one_event_is_refused(mail: Subscriber) -> None:
    with refused():

        @mail(batch=True)
        def send(crate: Sent) -> None: ...


def test_a_list_beside_concurrency_is_refused(app: App) -> None:
    mail = app.subscriber("mail", concurrency=2)
    with refused():

        @mail(batch=True)
        def send(crates: list[Sent]) -> None: ...


def test_a_star_covers_one_segment_and_two_cover_any_number(mail: Subscriber) -> None:
    @mail.on("crate.*")
    def one(recorded: Recorded[Any]) -> None: ...

    @mail.on("letter.**")
    def any_number(recorded: Recorded[Any]) -> None: ...

    asked = ("crate", "crate.a", "crate.a.b", "letter", "letter.a", "letter.a.b", "letters")
    assert [handler_for(mail, name) for name in asked] == [None, "one", None, *["any_number"] * 3, None]


def test_two_handlers_of_one_type_are_refused(mail: Subscriber) -> None:
    @mail
    def first(crate: Sent | Lost) -> None: ...

    with refused():

        @mail
        def second(crate: Sent) -> None: ...


@pytest.mark.parametrize(
    ("one", "other"), [("crate.*", "*.sent"), ("a.**.b", "a.b.**"), ("crate.*", "crate.*"), ("**", "**")]
)
def test_two_patterns_that_are_equally_specific_for_some_type_are_refused(
    mail: Subscriber, one: str, other: str
) -> None:
    @mail.on(one)
    def first(recorded: Recorded[Any]) -> None: ...

    with refused():

        @mail.on(other)
        def second(recorded: Recorded[Any]) -> None: ...


def test_a_refused_handler_leaves_the_others_as_they_were(mail: Subscriber) -> None:
    @mail
    def first(crate: Sent) -> None: ...

    with contextlib.suppress(DeclarationError):

        @mail
        def second(crate: Lost | Sent) -> None: ...

    assert (handler_for(mail, "crate.sent"), handler_for(mail, "crate.lost")) == ("first", None)


SEGMENTS = st.sampled_from(["a", "b", "*", "**"])
PATTERNS = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
TYPES = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5).map(".".join)


@given(one=PATTERNS, other=PATTERNS, event_type=TYPES)
def test_no_type_is_covered_by_two_patterns_that_were_allowed_side_by_side(
    one: str, other: str, event_type: str
) -> None:
    if covers(one, event_type) and covers(other, event_type) and specificity(one) == specificity(other):
        assert overlap(one, other)


def no_parameter() -> None: ...
def not_annotated(crate) -> None: ...  # type: ignore[no-untyped-def]  # the point of the test
def not_declared(crate: int) -> None: ...
def only_partly_declared(crate: Sent | int) -> None: ...
def optional(crate: Sent | None) -> None: ...
def bare_recorded(crate: Recorded) -> None: ...  # type: ignore[type-arg]  # the point of the test
def three(crate: Sent, ctx: Context, more: int) -> None: ...
def keyword(crate: Sent, *, ctx: Context) -> None: ...
def only_keywords(**crate: Sent) -> None: ...
def unknown_name(crate: "Crate") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def generator(crate: Sent) -> Iterator[int]:
    yield 1


async def generator_of_coroutines(crate: Sent) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    "function",
    [
        no_parameter,
        not_annotated,
        not_declared,
        only_partly_declared,
        optional,
        bare_recorded,
        three,
        keyword,
        only_keywords,
        unknown_name,
        generator,
        generator_of_coroutines,
    ],
    ids=lambda function: function.__name__,
)
def test_a_function_that_cannot_handle_events_is_refused(mail: Subscriber, function: Callable[..., Any]) -> None:
    with refused():
        mail(function)
    assert mail.routes.patterns == ()


@pytest.mark.parametrize("pattern", ["", "crate..sent", ".crate", "crate.", "par*", "crate sent", "***", "a" * 300])
def test_what_is_no_pattern_is_refused(mail: Subscriber, pattern: str) -> None:
    with refused():

        @mail.on(pattern)
        def seen(recorded: Recorded[Any]) -> None: ...


def test_a_pattern_that_does_not_cover_the_annotation_is_refused(mail: Subscriber) -> None:
    with refused():

        @mail.on("letter.*")
        def seen(crate: Sent) -> None: ...


def test_a_pattern_for_something_that_is_no_event_is_refused(mail: Subscriber) -> None:
    with refused():

        @mail.on("crate.*")
        def seen(crate: int) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        lambda crate: None,
        lambda crate, ctx: None,
        lambda crate, ctx=None: None,
        lambda crate, other=1: None,
        lambda crate, *more: None,
    ],
    ids=["alone", "ctx", "ctx_with_default", "other_with_default", "more"],
)
def test_the_context_is_given_to_those_who_take_it(function: Callable[..., Any]) -> None:
    handler = handler_of(function, pattern="crate.*")
    assert handler.takes_context == ("ctx" in function.__code__.co_varnames)


def test_a_method_is_a_handler_like_a_function(mail: Subscriber) -> None:
    class Post:
        def __init__(self) -> None:
            self.sent: list[int] = []

        def send(self, crate: Sent) -> None:
            self.sent.append(crate.number)

    post = Post()
    mail(post.send)
    found = mail.routes.find("crate.sent")
    assert isinstance(found, Handler)
    found.function(Sent(1))
    assert post.sent == [1]


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "a\0", "ä", "-a", ".a", "a" * 101, "a\n", None, 7])
def test_a_name_that_cannot_be_typed_everywhere_is_refused(app: App, name: Any) -> None:
    with refused():
        app.subscriber(name)


def test_two_subscribers_of_one_name_are_refused(app: App) -> None:
    app.subscriber("mail")
    with refused():
        app.projection("mail")


def test_a_table_owned_by_two_projections_is_refused(app: App) -> None:
    app.projection("one", tables=[Table("delays", MetaData(), Column("id", Integer, primary_key=True))])
    with refused():
        app.projection("two", tables=[Table("delays", MetaData(), Column("id", Integer, primary_key=True))])


@pytest.mark.parametrize(
    "options",
    [
        {"delivery": "exactly-once"},
        {"delivery": None},
        {"on_failure": "ignore"},
        {"start": "end"},
        {"start": -1},
        {"start": 1.5},
        {"start": True},
        {"partitions": 0},
        {"partitions": 2.5},
        {"partitions": True},
        {"partitions": 100_000},
        {"key": 7},
        {"key": "not a field"},
        {"concurrency": 0},
        {"concurrency": 2, "delivery": "transactional"},
        {"concurrency": 2, "on_failure": "halt"},
        {"timeout_seconds": 0},
        {"timeout_seconds": "soon"},
        {"outage_after": 0},
        {"failures_max": 0},
        {"timeout_seconds": True},
        {"timeout_seconds": float("inf")},
        {"timeout_seconds": float("nan")},
        {"outage_after": None},
        {"failures_max": "many"},
        {"concurrency": "2"},
        {"retry": 3},
        {"retry": 0},
        {"retry": {"attempts": 3}},
        {"retry": {}},
        {"retry": Retry},
        {"redact": "no"},
        {"redact": None},
        {"key": lambda: "nobody's"},
        {"key": lambda recorded, ctx: "everybody's"},
        {"key": asyncio.sleep},
        {"start": "Now"},
        {"start": None},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_nobody_knows_is_refused(app: App, options: dict[str, Any]) -> None:
    with refused():
        app.subscriber("mail", **options)
    assert "mail" not in app.subscribers


@pytest.mark.parametrize(
    "options",
    [
        {"tables": "totals"},
        {"tables": Table("totals", MetaData())},
        {"tables": ["totals"]},
        {"tables": None},
        {"version": 0},
        {"version": "2"},
        {"idempotent": "no"},
        {"database": 7},
        {"retry": 0},
        {"timeout_seconds": -1},
        {"redact": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_of_a_projection_nobody_knows_is_refused(app: App, options: dict[str, Any]) -> None:
    with refused():
        app.projection("board", **options)
    assert "board" not in app.subscribers


def test_what_says_how_to_try_again_and_what_to_redact_is_taken_as_it_is(app: App) -> None:
    retry = Retry(attempts=3)
    mail = app.subscriber("mail", retry=retry, redact=str.upper, key=operator.attrgetter("stream"), timeout_seconds=1)
    assert (mail.retry, mail.redact, mail.timeout_seconds) == (retry, str.upper, 1.0)
    assert app.subscriber("post").retry == Retry()


def test_a_subscriber_without_handlers_is_refused_when_it_is_registered(sqlite_url: str) -> None:
    app = App(sqlite_url)
    app.subscriber("mail")
    with refused():
        app.register()
    app.engine.dispose()
