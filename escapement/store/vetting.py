"""What is looked at before anything is believed: the values of a trace that came from a stranger.

A check takes a value and gives it back, or raises `Unfit` with the words that say what belongs there. Attributes that a
replay, a table or a command reads have a check each; all others may be any JSON.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, Final

from escapement.store.pieces import Delta
from escapement.words import semconv

MOST_STEPS: Final = 1_000_000
"""Steps of one trace. A hundred times the longest run anybody recorded; more is no agent's trace."""
MOST_BODY: Final = 256 << 20
"""Bytes of one request, put together. No model API takes as much."""
MOST_PIECES: Final = 1_000_000
"""Pieces of one request: as many messages in one conversation."""
MOST_WORK: Final = 500_000_000
"""Pieces of all requests together, each time they are sent, which is what reading costs: some 20,000 turns."""
MOST_LANE: Final = 65_536
"""Characters of the name of a lane: tasks nested thousands deep."""
MOST_NESTING: Final = 200
"""Levels of a JSON value. orjson reads 1024 and writes 254, and what was read must be written."""
LANES: Final = 16
"""How many lanes back a request may be described by: as many as a `Splitter` remembers."""

NO_STEP: Final = 2**31 - 1
"""The number of no step: the largest that the tables can hold."""

_INT32: Final = NO_STEP - 1
_TIME: Final = 2**62 - 1  # nanoseconds: until 2116
_COUNT: Final = 2**53
_HEX: Final = re.compile(r"[0-9a-f]*")
_TRACE: Final = re.compile(r"tr_[0-9a-f]{12}")
_NO_HEADER: Final = re.compile(r"[\x00\n\x0b\f\r\u0100-\U0010ffff]")  # what no HTTP library sends, or can be given
_STATUSES: Final = ("running", "completed", "failed", "killed", "interrupted")

Check = Callable[[Any], Any]


class Unfit(ValueError):
    """A value that cannot be; the text says what belongs in its place, and where that is."""


class Fields:
    """A JSON object, read field by field. What is wrong with one is told with the way to it."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise Unfit(f"{where} should be an object, not {shown(value)}")
        self.value: dict[str, Any] = value
        self.where = where

    def take(self, name: str, check: Check, *, optional: bool = False) -> Any:
        """The value of a field. One that is optional may be null or not there, and then is None."""
        value = self.value.get(name)
        if value is None and optional:
            return None
        if name not in self.value:
            raise Unfit(f"{self.where}.{name} is missing")
        return self.check(name, value, check)

    def check(self, name: str, value: object, check: Check) -> Any:
        try:
            return check(value)
        except Unfit as unfit:
            raise Unfit(f"{self.where}.{ascii(name)[1:-1][:80]} should be {unfit}, not {shown(value)}") from None


def shown(value: object) -> str:
    """A value in a message: short, on one line, and without anything that could drive a terminal."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return ascii(value[:60] + "…" if isinstance(value, str) and len(value) > 60 else value)


# -- plain values ----------------------------------------------------------------------------------------------------


def integer(least: int = 0, most: int = _TIME) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Unfit(f"a whole number from {least} to {most}")
        return value

    return check


time = integer()
count = integer(0, _INT32)
step_number = integer(1, _INT32)


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit("text")
    return value


def lane(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MOST_LANE:
        raise Unfit(f"the name of a lane, of at most {MOST_LANE} characters")
    return value


def trace_id(value: Any) -> str:
    if not isinstance(value, str) or not _TRACE.fullmatch(value):
        raise Unfit("the id of a trace ('tr_' and 12 hex digits)")
    return value


def hexadecimal(digits: int, *, empty: bool = False) -> Check:
    def check(value: Any) -> str:
        fits = isinstance(value, str) and _HEX.fullmatch(value) and (len(value) == digits or (empty and not value))
        if not fits:
            raise Unfit(f"{digits} hex digits")
        return str(value)

    return check


def texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Unfit("a list of texts")
    return value


def status(value: Any) -> str:
    if value not in _STATUSES:
        raise Unfit(f"one of {', '.join(_STATUSES)}")
    return str(value)


def mode(value: Any) -> str:
    if value not in ("record", "replay", "fork"):
        raise Unfit("record, replay or fork")
    return str(value)


def anything(value: Any) -> Any:
    """Any JSON value that can be written again."""
    if isinstance(value, dict | list):
        _nested(value, MOST_NESTING)
    return value


def mapping(value: Any) -> dict[str, Any]:
    """An object of any JSON."""
    _nested(an_object(value), MOST_NESTING)
    return value  # type: ignore[no-any-return]


def an_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unfit("an object")
    return value


def a_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Unfit("a list")
    return value


def _nested(value: Any, levels: int) -> None:
    if not levels:
        raise Unfit(f"nested at most {MOST_NESTING} levels deep")
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            _nested(item, levels - 1)


def served_from(value: Any) -> list[Any]:
    """Trace and step that a step was served from."""
    if not isinstance(value, list) or len(value) != 2:
        raise Unfit("a trace id and a step")
    return [trace_id(value[0]), step_number(value[1])]


OF_SPAN: Final[Mapping[str, tuple[Check, bool]]] = {
    "trace_id": (hexadecimal(32), False),
    "span_id": (hexadecimal(16), False),
    "parent": (hexadecimal(16, empty=True), True),
    "name": (text, False),
    "kind": (text, True),
    "scope": (text, True),
    "start": (time, True),
    "end": (time, False),
    "status": (text, True),
    "description": (text, True),
}
"""Fields of a span that is no step, beside attributes and events: what each takes, and whether it may be missing."""


# -- attributes ------------------------------------------------------------------------------------------------------


def _scalar(value: Any) -> Any:
    if isinstance(value, dict | list):
        raise Unfit("a plain value")
    return value


def _amount(value: Any) -> Any:
    if value is not None and (type(value) not in (int, float) or not abs(value) <= _COUNT):
        raise Unfit("a number")
    return value


def _seconds(value: Any) -> Any:
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value < 1e9:
        raise Unfit("a number of seconds")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise Unfit("the name of an exception")
    return value


def _line(value: Any) -> str:
    if not isinstance(value, str) or _NO_HEADER.search(value):
        raise Unfit("text on one line, of Latin-1 characters")
    return value


def _headers(value: Any) -> Any:
    for pair in _pairs(value):
        if _NO_HEADER.search(pair[0]) or _NO_HEADER.search(pair[1]):
            raise Unfit("headers on one line each, of Latin-1 characters")
    return value


def _redirects(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(hop, list) and len(hop) == 2 for hop in value):
        raise Unfit("a list of pairs of status and headers")
    for status, headers in value:
        integer(100, 999)(status)
        _headers(headers)
    return value


def _pairs(value: Any) -> Any:
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str)
        for pair in value
    ):
        raise Unfit("a list of pairs of texts")
    return value


def _chunks(value: Any) -> Any:
    if not isinstance(value, list) or not all(
        isinstance(chunk, list) and len(chunk) == 2 and all(type(part) is int and 0 <= part <= _TIME for part in chunk)
        for chunk in value
    ):
        raise Unfit("a list of pairs of size and time")
    return value


def _attempts(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(attempt, dict) for attempt in value):
        raise Unfit("a list of objects")
    return anything(value)


def _ending(value: Any) -> str:
    if value not in ("end", "closed", "dropped", "failed"):
        raise Unfit("end, closed, dropped or failed")
    return str(value)


def base64_text(value: Any) -> str:
    unbase64(value)
    return str(value)


def unbase64(value: Any) -> bytes:
    try:
        return base64.b64decode(text(value), validate=True)
    except (binascii.Error, ValueError):  # Unfit is one, too
        raise Unfit("base64") from None


def _encoded(value: Any) -> str:
    for piece in text(value).split("."):
        unbase64(piece)
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unfit("true or false")
    return value


ATTRIBUTES: Final[Mapping[str, Check]] = {
    semconv.MODE: mode,
    semconv.TRACE_ID: trace_id,
    semconv.EXACT: text,
    semconv.METHOD: text,
    semconv.PATH: text,
    semconv.QUERY: text,
    semconv.REQUEST_HEADERS: _headers,
    semconv.REQUEST_BYTES: time,
    semconv.STATUS: integer(100, 999),  # the three digits of HTTP/1.1: servers go past 599
    semconv.REASON: _line,
    semconv.HTTP_VERSION: _line,
    semconv.RESPONSE_HEADERS: _headers,
    semconv.RESPONSE_BODY: text,
    semconv.RESPONSE_BODY_BASE64: base64_text,
    semconv.RESPONSE_CHUNKS: _chunks,
    semconv.RESPONSE_REDIRECTS: _redirects,
    semconv.RESPONSE_ENCODED: _encoded,
    semconv.RESPONSE_ENDING: _ending,
    semconv.RESPONSE_ELAPSED: time,
    semconv.RESPONSE_WIRE: time,
    semconv.RESPONSE_TIME_TO_FIRST_CHUNK: _seconds,
    semconv.ATTEMPTS: _attempts,
    semconv.FAILURE_TYPE: _name,
    semconv.FAILURE_MESSAGE: text,
    semconv.FAILURE_CAUSES: _pairs,
    semconv.FAILURE_SENDING: _flag,
    semconv.RAISED: text,
    semconv.REBUILT: texts,
    semconv.ERROR_TYPE: text,
    semconv.OPERATION_NAME: _scalar,
    semconv.PROVIDER_NAME: _scalar,
    semconv.REQUEST_MODEL: _scalar,
    semconv.RESPONSE_MODEL: _scalar,
    semconv.USAGE_INPUT_TOKENS: _amount,
    semconv.USAGE_OUTPUT_TOKENS: _amount,
    semconv.USAGE_CACHE_READ: _amount,
    semconv.USAGE_CACHE_WRITE: _amount,
    semconv.USAGE_REASONING: _amount,
}


def attributes(value: Any, where: str) -> dict[str, Any]:
    """The attributes of a span, each looked at, and those of an answer also together."""
    fields = Fields(value, where)
    for name, item in fields.value.items():
        fields.check(name, item, ATTRIBUTES.get(name, anything))
    given = fields.value
    if semconv.STATUS in given and semconv.RESPONSE_HEADERS not in given:
        raise Unfit(f"{where}.{semconv.RESPONSE_HEADERS} is missing beside a status")
    if semconv.RESPONSE_BODY in given and semconv.RESPONSE_BODY_BASE64 in given:
        raise Unfit(f"{where} holds two bodies of one answer")
    chunks = given.get(semconv.RESPONSE_CHUNKS)
    if chunks is not None:
        encoded = given.get(semconv.RESPONSE_BODY_BASE64)
        body = unbase64(encoded) if encoded is not None else given.get(semconv.RESPONSE_BODY, "").encode()
        if sum(size for size, _ in chunks) != len(body):
            raise Unfit(f"{where}.{semconv.RESPONSE_CHUNKS} should come to the {len(body)} bytes of the answer")
    return given


# -- requests --------------------------------------------------------------------------------------------------------


class Lengths:
    """How long requests are, by arithmetic: whether they can be put together is known before any is.

    A request may be described by the last one of any of the last 16 lanes; only those are remembered.
    """

    def __init__(self, pieces: Mapping[str, bytes]) -> None:
        self._pieces = pieces
        self._recent: OrderedDict[str, tuple[int, array[int]]] = OrderedDict()
        self._work = 0

    def forget(self) -> None:
        """What follows is described from nothing."""
        self._recent.clear()

    def take(self, delta: Delta, step: int, lane: str) -> None:
        """Raises Unfit for a request that cannot be put together, or is too long."""
        before = array("q", [0])
        if delta.base:
            found = next((ends for number, ends in self._recent.values() if number == delta.base), None)
            if found is None:
                raise Unfit(
                    f"described by step {delta.base}, which is not the last of any of the {LANES} lanes before it"
                )
            before = found
        if delta.keep + delta.suffix > len(before) - 1:
            raise Unfit(f"made of {delta.keep + delta.suffix} pieces of step {delta.base}, which has {len(before) - 1}")
        number = delta.keep + len(delta.add) + delta.suffix
        self._work += number
        if number > MOST_PIECES or self._work > MOST_WORK:
            raise Unfit(f"of at most {MOST_PIECES} pieces, and all requests together of {MOST_WORK}")
        ends = before[: delta.keep + 1]
        try:
            sizes = [len(self._pieces[name]) for name in delta.add]
        except KeyError as missing:
            raise Unfit(f"made of pieces that are there: {missing} is not") from None
        ends.extend(list(accumulate(sizes, initial=ends[-1]))[1:])
        if delta.suffix:
            shift = ends[-1] - before[-delta.suffix - 1]
            ends.extend(end + shift for end in before[-delta.suffix :])
        if ends[-1] > MOST_BODY:
            raise Unfit(f"of at most {MOST_BODY} bytes")
        self._recent[lane] = (step, ends)
        self._recent.move_to_end(lane)
        if len(self._recent) > LANES:
            self._recent.popitem(last=False)
