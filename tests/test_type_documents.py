"""The documents of all event types: valid, and true of what the log prints."""

import gzip
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from msgspec import Meta

from eventlog.cli.event_output import json_line
from eventlog.errors import DeclarationError
from eventlog.event_types import declared_types, event
from eventlog.events import Event
from eventlog.exact_schema import Schema
from eventlog.type_documents import asyncapi_document, json_schema_document
from tests.cli_support import Shop
from tests.log_support import opened

pytestmark = pytest.mark.usefixtures("own_declarations")

ASYNCAPI_SCHEMA = Path(__file__).parent / "asyncapi-3.0.0.schema.json.gz"
"""The AsyncAPI Initiative's own JSON Schema of AsyncAPI 3.0.0, unchanged (Apache-2.0, package @asyncapi/specs)."""


class Card(msgspec.Struct, frozen=True, tag=True):
    number: str


class Cash(msgspec.Struct, frozen=True, tag=True):
    notes: tuple[int, str] = (0, "")


class Line(msgspec.Struct, frozen=True, array_like=True):
    """What was bought."""

    article: str
    price: Decimal


class Paid(msgspec.Struct, frozen=True, rename="camel"):
    """Somebody paid."""

    order_number: int
    paid_on: date
    by: Card | Cash
    lines: list[Line] = []
    rate: Annotated[float, Meta(ge=0, description="of the day", examples=[1.5])] = 1.0
    rest: dict[str, Any] = {}


class Sent(msgspec.Struct, frozen=True):
    number: int


@pytest.fixture
def declared() -> None:
    event("order.paid", version=2, stream="order-{order_number:05}", aliases=("order.settled",))(Paid)
    event("order.sent")(Sent)


@pytest.fixture(scope="module")
def asyncapi_validator() -> Draft7Validator:
    return Draft7Validator(msgspec.json.decode(gzip.decompress(ASYNCAPI_SCHEMA.read_bytes())))


@pytest.fixture
def asyncapi(declared: None) -> Schema:
    return asyncapi_document(declared_types(), title="Orders", version="1.2.0")


@pytest.fixture
def lines(database_url: str, declared: None) -> Iterator[list[Any]]:
    """What the log prints of the events of both types."""
    with opened(database_url) as log:
        paid = Paid(7, date(2013, 1, 1), Card("4711"), [Line("tea", Decimal("1.10"))], 0.5, {"x": [1]})
        log.append(paid, Event(Sent(7), stream="parcel-7"), Paid(8, date(2013, 1, 2), Cash((5, "EUR"))))
        stored = log.read_stored(after=0, until=None, types=(), stream=None, limit=None)
        yield [msgspec.json.decode(json_line(one)) for one in stored]


def test_the_json_schema_is_one_and_describes_what_is_read(lines: list[Any]) -> None:
    document = json_schema_document(declared_types(), title="Orders")
    Draft202012Validator.check_schema(document)
    validator = Draft202012Validator(document, format_checker=Draft202012Validator.FORMAT_CHECKER)

    for line in lines:
        validator.validate(line)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "order.lost"},
        {"type_version": 1},
        {"data": {}},
        {"data": {"orderNumber": "7", "paidOn": "2013-01-01", "by": {"type": "Card", "number": ""}}},
        {"data": {"orderNumber": 7, "paidOn": "2013-01-01", "by": {"type": "Cheque", "number": ""}}},
        {"position": 0},
    ],
)
def test_the_json_schema_refuses_what_no_class_writes(lines: list[Any], change: dict[str, Any]) -> None:
    validator = Draft202012Validator(json_schema_document(declared_types(), title="Orders"))

    with pytest.raises(jsonschema.ValidationError):
        validator.validate(lines[0] | change)


def test_the_asyncapi_document_is_one(asyncapi: Schema, asyncapi_validator: Draft7Validator) -> None:
    asyncapi_validator.validate(asyncapi)


def test_the_asyncapi_schema_refuses_what_is_none(asyncapi: Schema, asyncapi_validator: Draft7Validator) -> None:
    with pytest.raises(jsonschema.ValidationError):
        asyncapi_validator.validate(asyncapi | {"info": {"title": "no version"}})


def test_each_type_is_a_message_in_the_channel_of_its_streams(asyncapi: Schema) -> None:
    assert asyncapi["channels"] == {
        "order.paid": {
            "address": "order-{order_number}",
            "messages": {"order.paid": {"$ref": "#/components/messages/order.paid"}},
            "parameters": {"order_number": {"location": "$message.payload#/orderNumber"}},
        },
        "order.sent": {
            "address": None,
            "messages": {"order.sent": {"$ref": "#/components/messages/order.sent"}},
            "description": "Each append names its stream.",
        },
    }
    assert asyncapi["components"]["messages"]["order.paid"] == {
        "name": "order.paid",
        "title": "order.paid",
        "payload": {"$ref": "#/components/schemas/Paid"},
        "x-version": 2,
        "x-aliases": ["order.settled"],
    }


def test_every_reference_of_the_asyncapi_document_leads_somewhere(asyncapi: Schema) -> None:
    references = list(references_in(asyncapi))

    assert len(references) > 6
    for reference in references:
        found: Any = asyncapi
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def test_the_payloads_of_the_asyncapi_document_describe_the_data(asyncapi: Schema, lines: list[Any]) -> None:
    for line in lines:
        payload = asyncapi["components"]["messages"][line["type"]]["payload"]
        schema = {"components": asyncapi["components"], "allOf": [payload]}
        Draft7Validator(without_discriminators(schema)).validate(line["data"])


def test_a_tuple_is_described_place_by_place_in_either_document(asyncapi: Schema) -> None:
    cash = asyncapi["components"]["schemas"]["Cash"]["properties"]["notes"]
    validator = Draft7Validator(cash)

    assert validator.is_valid([5, "EUR"])
    assert not validator.is_valid(["EUR", 5])
    assert not validator.is_valid([5, "EUR", 1])


def test_names_that_asyncapi_does_not_allow_as_keys_are_kept_apart(asyncapi_validator: Draft7Validator) -> None:
    for number, name in enumerate(["räder.an", "röder.an", "r/der.an"]):
        event(name)(msgspec.defstruct(f"Wheel{number}", [("x", int)]))

    document = asyncapi_document(declared_types(), title="Wheels", version="1")

    asyncapi_validator.validate(document)
    names = {one["name"] for one in document["components"]["messages"].values()}
    assert names == {"räder.an", "röder.an", "r/der.an"}


def test_a_class_without_a_schema_is_named() -> None:
    event("odd.thing")(msgspec.defstruct("Odd", [("what", complex)]))

    with pytest.raises(DeclarationError, match="Odd has no JSON Schema"):
        json_schema_document(declared_types(), title="Odd")


def test_the_command_prints_either_document_without_a_database(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asyncapi_validator: Draft7Validator,
) -> None:
    shop = Shop.open(tmp_path, "postgresql://nobody@127.0.0.1:1/no", monkeypatch=monkeypatch, capsys=capsys)

    schema = shop.cli("types", "export", "--app", "shop:app")
    asyncapi = shop.cli("types", "export", "--app", "shop:app", "--format", "asyncapi", "--title", "The shop")

    assert [one["title"] for one in schema.json["oneOf"]] == ["clishop.placed"]
    asyncapi_validator.validate(asyncapi.json)
    assert asyncapi.json["info"] == {"title": "The shop", "version": "1.0.0"}


def references_in(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from references_in(value)
    elif isinstance(part, list):
        for value in part:
            yield from references_in(value)


def without_discriminators(part: Any) -> Any:
    """What a plain validator does not know of, and AsyncAPI adds."""
    if isinstance(part, dict):
        return {key: without_discriminators(value) for key, value in part.items() if key != "discriminator"}
    return [without_discriminators(value) for value in part] if isinstance(part, list) else part
