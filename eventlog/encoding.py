"""JSON, the form in which events are kept.

Data is written once by msgspec and stored as that text, byte for byte. What JSON cannot hold is refused before anything
is sent: NaN and the infinities (msgspec alone would write them as null without a word), NUL characters (PostgreSQL's
text functions stop at them), objects without a JSON form.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from eventlog.errors import InvalidEventError
from eventlog.limits import DATA_BYTES_MAX, METADATA_BYTES_MAX

_encoder = msgspec.json.Encoder()
_check = msgspec.json.Decoder(msgspec.Raw).decode
"""Reads JSON without making anything of it: what a `msgspec.Raw` holds is written as it is, and need not be JSON."""
_ESCAPED_NUL = b"\\u0000"


def encode_data(data: Any, *, event_type: str, read: Callable[[str], Any] | None = None) -> str:
    """Write an event's data as JSON text; raise `InvalidEventError` when that cannot be done without loss.

    `read` is what will read it. What it cannot read is refused: nobody could ever handle it, or put it right.
    """
    text = _encode(data, what=f"the data of {event_type}", bytes_max=DATA_BYTES_MAX)
    if read is not None:
        try:
            read(text)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise InvalidEventError(
                f"the data of {event_type} could not be read again: {error}",
                remedy="give each field what the class declares; a Struct does not check it when it is made"
                " (msgspec.convert does)",
            ) from error
    return text


def check_metadata(metadata: object) -> Mapping[str, Any]:
    """Return metadata that is a mapping, an empty one for None. Raises `InvalidEventError`."""
    if metadata is None:
        return {}
    if isinstance(metadata, Mapping):
        return metadata
    raise InvalidEventError(
        f"the metadata of an event is {type(metadata).__name__}", remedy="give a dict with text keys"
    )


def encode_metadata(metadata: Mapping[str, Any], *, event_type: str) -> str:
    """Write an event's metadata as JSON text; raise `InvalidEventError` when that cannot be done without loss."""
    if not metadata:
        return "{}"
    return _encode(dict(metadata), what=f"the metadata of {event_type}", bytes_max=METADATA_BYTES_MAX)


def same_json(one: str, other: str) -> bool:
    """Tell whether two JSON texts say the same, whatever their spacing and order of keys.

    Compared as canonical texts and not as Python values, for which 1, 1.0 and True are equal.
    """
    return one == other or _canonical(one) == _canonical(other)


def _canonical(text: str) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(text), order="sorted")


def _encode(value: Any, *, what: str, bytes_max: int) -> str:
    try:
        encoded = _encoder.encode(value)
        text = encoded.decode()
        _check(encoded)
    except (TypeError, ValueError, UnicodeError, RecursionError, OverflowError, msgspec.MsgspecError) as error:
        raise InvalidEventError(
            f"{what} cannot be written as JSON: {error}",
            remedy="hold what JSON can: text, numbers, booleans, lists, dicts with text keys, dates, UUIDs, Structs",
        ) from error
    if len(encoded) > bytes_max:
        raise InvalidEventError(
            f"{what} takes {len(encoded):,} bytes as JSON; at most {bytes_max:,} are allowed",
            remedy="store the large part elsewhere and record where it is",
        )
    if b"null" in encoded:
        _refuse_not_finite(msgspec.to_builtins(value, enc_hook=_raw), what=what, path="$")
    if _ESCAPED_NUL in encoded:
        _refuse_nul(msgspec.json.decode(encoded), what=what, path="$")
    return text


def _raw(value: Any) -> Any:
    """`msgspec.Raw` is JSON that somebody has written already."""
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    raise TypeError(f"{type(value).__qualname__} has no JSON form")


def _refuse_not_finite(value: Any, *, what: str, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidEventError(
            f"{what} holds {value} at {path}, which JSON cannot say",
            remedy="record None for an unknown number, or a text",
        )
    for place, item in _parts(value, path):
        _refuse_not_finite(item, what=what, path=place)


def _refuse_nul(value: Any, *, what: str, path: str) -> None:
    if isinstance(value, str) and "\0" in value:
        raise InvalidEventError(
            f"{what} holds a NUL character at {path}, which PostgreSQL text cannot",
            remedy="strip NUL characters from text, or record binary data as base64",
        )
    for place, item in _parts(value, path):
        _refuse_nul(item, what=what, path=place)


def _parts(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        keys = [(f"{path} (a key)", key) for key in value]
        return keys + [(f"{path}.{key}", item) for key, item in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return []
