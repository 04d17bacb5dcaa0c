"""Request bodies as pieces, so that a conversation that is sent again at every step is kept once.

A body is cut after every element of its top-level arrays of objects (`messages`, `tools`, …). The pieces joined are
the body, byte for byte. Against the body before it a body is then `{base, keep, add, suffix}`: so many pieces from the
start of the base, these new ones, so many from the end of the base.

Cutting needs parsing, and parsing 1 MB at every step is slow. So a `Splitter` compares with what it saw last (one
memcmp) and parses only what is new. While it is at it, it digests each element in canonical form, which is all that
the fingerprint of a request needs: both cost what the change costs, not what the conversation costs.
"""

from __future__ import annotations

import base64
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

ARRAYS = frozenset({"messages", "input", "contents", "tools", "system"})
"""Top-level arrays whose elements become pieces of their own."""

_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode
_opens = re.compile(r"\[[ \t\n\r]*\{").match
_SHORT = 2048  # bytes of a body that is not worth cutting
_CONVERSATIONS = 16  # how many bodies a splitter remembers, one a lane


class Element(NamedTuple):
    """What ends where a piece ends: an element of array `key`, or (no digest) the text up to its `[`."""

    key: str
    digest: bytes


@dataclass(slots=True)
class Body:
    """A request body, cut. `ends` are byte offsets; in a body of pieces each but the last ends with an element."""

    raw: bytes
    ends: list[int]
    elements: list[Element]
    fields: dict[str, tuple[int, Any]]
    """The other top-level fields: where each ends, and its value."""
    ids: list[str]
    """The id of each piece, or the empty string where it has none yet."""
    parsed: bool = True
    step: int = 0
    secrets: bool = False
    """Whether there is anything to scrub in it."""
    document: dict[str, Any] | None = None
    """The whole of a short body, without what was scrubbed."""

    def canonical(self) -> bytes:
        """The body in canonical form: keys sorted, long arrays as a digest of their elements' digests."""
        document: dict[str, Any] = {key: value for key, (_, value) in self.fields.items()}
        arrays: dict[str, list[bytes]] = {}
        for key, digest in self.elements:
            arrays.setdefault(key, []).append(digest)
        for key, digests in arrays.items():
            document[key] = {"$elements": blake2b(b"".join(digests), digest_size=16).hexdigest()}
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


@dataclass(frozen=True, slots=True)
class Delta:
    """A body as a change of the body of step `base` (0: of nothing)."""

    base: int
    keep: int
    add: list[str]
    suffix: int

    def apply(self, base: Sequence[str]) -> list[str]:
        """The piece ids of the body, given those of its base."""
        return [*base[: self.keep], *self.add, *(base[len(base) - self.suffix :] if self.suffix else ())]


Scrub = Callable[[bytes], bytes]


def digest(piece: bytes) -> str:
    """The id of a piece: 128 bits of BLAKE2b, as 32 hex digits."""
    return blake2b(piece, digest_size=16).hexdigest()


def as_json(piece: bytes) -> str | dict[str, str]:
    """A piece as journals and exported documents hold it: its text, or its base64 where it is none."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(piece).decode()}


class Splitter:
    """Cuts the bodies of one trace. `known` holds the ids of pieces that are already kept."""

    def __init__(self, scrub: Scrub | None = None) -> None:
        self.known: set[str] = set()
        self._seen: OrderedDict[str, Body] = OrderedDict()
        self._described: OrderedDict[str, Body] = OrderedDict()
        self._scrub = scrub

    def reset(self) -> None:
        """Describe what comes from nothing: what was described before may not have been kept."""
        self.known.clear()
        self._described.clear()

    def split(self, raw: bytes, conversation: str) -> Body:
        """Cut a body; `conversation` says which one it most likely goes on from."""
        body = None
        base = self._seen.get(conversation) if len(raw) > _SHORT else None
        if base is not None:
            body = _resume(raw, base, self._scrub)
        if body is None and len(raw) > _SHORT:
            for key, other in self._seen.items():
                if key != conversation and (body := _resume(raw, other, self._scrub)) is not None:
                    break
        if body is None:
            body = _cut(raw, self._scrub)
        _remember(self._seen, conversation, body)
        return body

    def describe(self, body: Body, conversation: str, step: int) -> tuple[Delta, dict[str, bytes]]:
        """The body as a change of the last one of its conversation, with the pieces that are new to the trace."""
        new: dict[str, bytes] = {}
        start = 0
        for index, end in enumerate(body.ends):
            name = body.ids[index]
            if name not in self.known:
                piece = body.raw[start:end]
                if body.secrets and self._scrub is not None:
                    piece = self._scrub(piece)
                name = body.ids[index] = name or digest(piece)
                if name not in self.known:
                    self.known.add(name)
                    new[name] = piece
            start = end
        base = self._described.get(conversation)
        if base is None and self._described:
            base = next(reversed(self._described.values()))
        body.step = step
        _remember(self._described, conversation, body)
        return _difference(body.ids, base), new


def _remember(bodies: OrderedDict[str, Body], conversation: str, body: Body) -> None:
    bodies[conversation] = body
    bodies.move_to_end(conversation)
    if len(bodies) > _CONVERSATIONS:
        bodies.popitem(last=False)


def _difference(ids: list[str], base: Body | None) -> Delta:
    if base is None:
        return Delta(0, 0, list(ids), 0)
    most = min(len(ids), len(base.ids))
    keep = same_start(ids, base.ids, most)
    suffix = 0
    while suffix < most - keep and ids[-1 - suffix] == base.ids[-1 - suffix]:
        suffix += 1
    return Delta(base.step if keep or suffix else 0, keep, ids[keep : len(ids) - suffix], suffix)


def same_start(mine: Sequence[Any], theirs: Sequence[Any], most: int | None = None) -> int:
    """How many entries two lists (characters of two texts) start with in common, up to `most`.

    Slices are compared, not entries: long lists.
    """
    low, high = 0, min(len(mine), len(theirs)) if most is None else most
    while low < high:
        middle = (low + high + 1) // 2
        if mine[low:middle] == theirs[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _cut(raw: bytes, scrub: Scrub | None) -> Body:
    """Cut a body from its start. What is not a JSON object stays whole."""
    if len(raw) <= _SHORT and (body := _whole(raw, scrub)) is not None:
        return body
    try:
        scanner = _Scanner(raw, 0, scrub)
        text = scanner.text
        start = _skip(text, 0)
        if text[start : start + 1] != "{":
            raise ValueError("not an object")
        scanner.scan_object(start + 1, first=True)
    except (ValueError, IndexError, TypeError, RecursionError):
        clean = scrub(raw) if scrub is not None else raw
        return Body(raw, [len(raw)], [], {"$raw": (0, digest(clean))}, [""], parsed=False, secrets=clean is not raw)
    ends = [*scanner.ends, len(raw)]
    return Body(raw, ends, scanner.elements, scanner.fields, [""] * len(ends), secrets=scanner.secrets)


def _whole(raw: bytes, scrub: Scrub | None) -> Body | None:
    """A short body in one piece: cutting it would cost more than it saves. None if it is not a JSON object."""
    clean = scrub(raw) if scrub is not None else raw
    try:
        document = orjson.loads(clean)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    elements: list[Element] = []
    fields: dict[str, tuple[int, Any]] = {}
    for key, value in document.items():
        if key in ARRAYS and isinstance(value, list) and value and isinstance(value[0], dict):
            elements += [Element(key, _digest_element(element)) for element in value]
        else:
            fields[key] = (0, value)
    return Body(raw, [len(raw)], elements, fields, [""], secrets=clean is not raw, document=document)


def _digest_element(value: Any) -> bytes:
    return blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _resume(raw: bytes, base: Body, scrub: Scrub | None) -> Body | None:
    """Cut a body that starts like `base` does, parsing only from where they part. None if it starts otherwise."""
    kept = _common_pieces(raw, base)
    if kept == 0:
        return None
    position = base.ends[kept - 1]
    key = base.elements[kept - 1].key
    if kept == len(base.elements) and raw == base.raw:
        return Body(raw, base.ends, base.elements, base.fields, list(base.ids), secrets=base.secrets)
    # The rest of the base behind the array we are in: often (tools, parameters) it follows here unchanged.
    last = kept - 1
    while last + 1 < len(base.elements) and base.elements[last + 1].key == key:
        last += 1
    tail = base.raw[base.ends[last] :]
    try:
        scanner = _Scanner(raw, position, scrub)
        scanner.fields = {name: field for name, field in base.fields.items() if field[0] <= position}
        scanner.keys = set(scanner.fields) | {element.key for element in base.elements[:kept]}
        stop = scanner.scan_array(key, first=not base.elements[kept - 1].digest)
        if scanner.rest_is(stop, tail):
            shift = (len(raw) - len(tail)) - base.ends[last]
            added = len(scanner.ends)
            ends = [*base.ends[:kept], *scanner.ends, *(end + shift for end in base.ends[last + 1 :])]
            elements = [*base.elements[:kept], *scanner.elements, *base.elements[last + 1 :]]
            fields = dict(scanner.fields)
            for name, (end, value) in base.fields.items():
                if end > base.ends[last]:
                    fields[name] = (end + shift, value)
            ids = [*base.ids[:kept], *[""] * added, *base.ids[last + 1 :]]
            return Body(raw, ends, elements, fields, ids, secrets=base.secrets or scanner.secrets)
        scanner.scan_object(stop + 1, first=False)
    except (ValueError, IndexError, TypeError, RecursionError):
        return None
    ends = [*base.ends[:kept], *scanner.ends, len(raw)]
    ids = [*base.ids[:kept], *[""] * (len(ends) - kept)]
    elements = [*base.elements[:kept], *scanner.elements]
    return Body(raw, ends, elements, scanner.fields, ids, secrets=base.secrets or scanner.secrets)


def _common_pieces(raw: bytes, base: Body) -> int:
    """How many pieces of `base` (its last one aside) `raw` starts with."""
    if len(base.ends) == 1:
        return 0
    ends = base.ends

    def same(count: int) -> bool:
        return raw.startswith(base.raw[: ends[count - 1]])

    if not same(1):
        return 0
    # Mostly all of them: gallop back from the end, then halve.
    high = len(base.elements)
    low, back = high, 1
    while low > 1 and not same(low):
        high = low
        low = max(1, low - back)
        back *= 2
    while high - low > 1:
        middle = (low + high) // 2
        if same(middle):
            low = middle
        else:
            high = middle
    return low


def _skip(text: str, index: int) -> int:
    """The index of the next character that is not white space."""
    if text[index : index + 1] > " ":
        return index
    match = _SPACE.match(text, index)
    assert match is not None  # it matches nothing, too
    return match.end()


class _Scanner:
    """Walks the top level of a JSON object with the C decoder; offsets come out in bytes."""

    def __init__(self, raw: bytes, offset: int, scrub: Scrub | None) -> None:
        part = raw[offset:] if offset else raw
        self.text = part.decode()
        self.secrets = scrub is not None and scrub(part) is not part
        self._scrub = scrub
        self._ascii = self.text.isascii()
        self._offset = offset
        self._seen = (0, offset)  # characters and bytes, for text that is not ASCII
        self.ends: list[int] = []
        self.elements: list[Element] = []
        self.fields: dict[str, tuple[int, Any]] = {}
        self.keys: set[str] = set()

    def byte(self, index: int) -> int:
        """The byte offset in the body of a character of our text."""
        if self._ascii:
            return self._offset + index
        characters, position = self._seen
        position += len(self.text[characters:index].encode())
        self._seen = (index, position)
        return position

    def value(self, index: int) -> tuple[Any, int]:
        """The JSON value at `index` (scrubbed) and where it ends."""
        value, end = _decode(self.text, index)
        if self.secrets and self._scrub is not None:
            value, _ = _decode(self._scrub(self.text[index:end].encode()).decode(), 0)
        return value, end

    def scan_array(self, key: str, first: bool, index: int = 0) -> int:
        """Elements from `index` to the `]` of their array; its index."""
        text = self.text
        while True:
            index = _skip(text, index)
            mark = text[index]
            if mark == "]":
                return index
            if not first:
                if mark != ",":
                    raise ValueError("no comma between elements")
                index = _skip(text, index + 1)
            first = False
            value, index = self.value(index)
            self.elements.append(Element(key, _digest_element(value)))
            self.ends.append(self.byte(index))

    def scan_object(self, index: int, first: bool) -> None:
        """Fields from `index` to the end of the text, cutting the arrays on the way."""
        text = self.text
        while True:
            index = _skip(text, index)
            mark = text[index]
            if mark == "}":
                if _skip(text, index + 1) != len(text):
                    raise ValueError("text after the object")
                return
            if not first:
                if mark != ",":
                    raise ValueError("no comma between fields")
                index = _skip(text, index + 1)
            first = False
            key, index = _decode(text, index)
            if not isinstance(key, str) or key in self.keys:
                raise ValueError("not a key, or one that was there before")
            self.keys.add(key)
            index = _skip(text, index)
            if text[index] != ":":
                raise ValueError("no colon")
            index = _skip(text, index + 1)
            if key in ARRAYS and _opens(text, index) is not None:
                self.elements.append(Element(key, b""))
                self.ends.append(self.byte(index + 1))
                index = self.scan_array(key, True, index + 1) + 1
            else:
                value, index = self.value(index)
                self.fields[key] = (self.byte(index), value)

    def rest_is(self, index: int, tail: bytes) -> bool:
        rest = self.text[index:]
        return len(rest) <= len(tail) and rest.encode() == tail


def join(ids: Sequence[str], pieces: Mapping[str, bytes]) -> bytes:
    """A body from its pieces. Raises KeyError naming a piece that is not there."""
    return b"".join([pieces[name] for name in ids])
