"""Secrets spread over the events of a stream: "sk-pr" in one, "oj-4f…" in the next, the framing of both in between.

Strings that stand in the same place of like events are one text in pieces. A key found in such a text is replaced by a
placeholder in the piece where it begins and taken out of the others. Only the JSON strings that change are written
anew, so every event stays one, and everything else stays as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from escapement.engine import redaction

_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\r|\n|\Z)")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?')
_UNFINISHED = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*\\?\Z')
_NOT_GATHERED = tuple(re.compile(start).search for start in (rb're(?:asoning|fusal": ?")', rb'logprobs": ?\{'))
"""What streams hold besides the texts that they are gathered to."""
_NO_TEXT = frozenset({"id", "item_id", "object", "model", "type", "role", "finish_reason", "obfuscation"})
"""Fields whose strings never go on in another event."""

_TOLD_APART_BY = ("type", "index", "output_index", "content_index", "summary_index", "contentBlockIndex")
"""Fields of an event that say which of several texts goes on in it."""

Place = Hashable
Pieces = dict[Place, list["Piece"]]


class Piece(NamedTuple):
    """A string in an event: where its JSON begins and ends in the stream, and what it says."""

    begin: int
    end: int
    text: str


Change = tuple[int, int, bytes]
"""Begin, end, and what stands there instead."""


def scrub_stream(body: bytes, cuts: list[int], document: Mapping[str, Any]) -> tuple[bytes, list[int]]:
    """A stream without keys, and its `cuts` (ascending offsets) moved along; the very same body where there are none.

    `document` is what the events were gathered to. Looking for keys there is cheap, and mostly all there is to do.
    """
    clean, _ = redaction.scrub_with_cuts(body, cuts)
    if clean is body and not _is_suspicious(body, document):
        return body, cuts
    return redaction.scrub_with_cuts(*scrub_events(body, cuts))


def scrub_events(body: bytes, cuts: list[int]) -> tuple[bytes, list[int]]:
    """A stream without keys in the texts that its events put together."""
    pieces, rest = _pieces(body)
    changes = [change for text in pieces.values() for change in _scrubbed(text)]
    if not changes:
        return body, cuts
    if unfinished := _UNFINISHED.search(body, rest):
        # An event that did not come whole may go on with a key. Nobody can read it, so nobody misses it.
        changes.append((unfinished.start() + 1, len(body), b""))
    changes.sort()
    return rewritten(body, changes), moved(cuts, changes)


def _is_suspicious(body: bytes, document: Mapping[str, Any]) -> bool:
    """Whether there may be a key in what the events put together."""
    gathered = any(field in document for field in ("choices", "content", "output"))
    if not gathered or document.get("status") in ("queued", "in_progress"):
        return True  # it does not hold the texts of the events
    if any(search(body) is not None for search in _NOT_GATHERED):
        return True
    text = orjson.dumps(document)
    return redaction.scrub(text) is not text


def _strings(document: dict[str, Any]) -> list[tuple[Place, str]]:
    """The strings of an event in their order; the place is None for one that stands for itself."""
    found: list[tuple[Place, str]] = []
    get = document.get
    same = tuple(map(get, _TOLD_APART_BY))
    _collect(document, same, found)
    return found


def _collect(value: dict[str, Any], place: Place, found: list[tuple[Place, str]]) -> None:
    for key, item in value.items():
        kind = type(item)
        if kind is str:
            found.append((None if key in _NO_TEXT else (place, key), item))
        elif kind is dict:
            _collect(item, (place, key), found)
        elif kind is list:
            _collect_list(item, (place, key), found)


def _collect_list(values: list[Any], place: Place, found: list[tuple[Place, str]]) -> None:
    """Elements that have an index (choices, tool calls) are told apart by it; others (log probabilities) go on."""
    for item in values:
        if isinstance(item, dict):
            _collect(item, (place, item.get("index")), found)
        elif isinstance(item, list):
            _collect_list(item, place, found)
        elif isinstance(item, str):
            found.append((place, item))


def _pieces(body: bytes) -> tuple[Pieces, int]:
    """The strings of all events by place, and the offset behind the last event that is whole."""
    pieces: Pieces = {}
    rest = 0
    for end, lines in _events(body):
        try:
            document = orjson.loads(b"\n".join(body[begin:stop] for begin, stop in lines))
        except orjson.JSONDecodeError:
            rest = end if end < len(body) else rest
            continue
        rest = end
        if not isinstance(document, dict):
            continue
        strings = _strings(document)
        spans = [
            match.span()
            for begin, stop in lines
            for match in _STRING.finditer(body, begin, stop)
            if match.group(1) is None  # the name of a field
        ]
        if len(spans) == len(strings):  # else a field is there twice, which no provider does
            for (begin, stop), (place, text) in zip(spans, strings, strict=True):
                if place is not None:
                    pieces.setdefault(place, []).append(Piece(begin, stop, text))
    return pieces, rest


def _events(body: bytes) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Of each event: where it ends, and the spans of its data, one a line.

    A line that begins with `{` is an event by itself: server-sent events have no such lines, other streams no others.
    """
    data: list[tuple[int, int]] = []
    for line in _LINE.finditer(body):
        begin, end = line.span(1)
        if body.startswith(b"{", begin):
            yield line.end(), [(begin, end)]
        elif body.startswith(b"data:", begin):
            data.append((begin + 5, end))
        elif data and begin == end:
            yield line.end(), data
            data = []


def _scrubbed(pieces: list[Piece]) -> Iterator[Change]:
    """The pieces of one text that change with it."""
    encoded = [piece.text.encode() for piece in pieces]
    ends: list[int] = []
    for text in encoded:
        ends.append(len(text) + (ends[-1] if ends else 0))
    whole = b"".join(encoded)
    clean, moved = redaction.scrub_with_cuts(whole, ends)
    if clean is whole:
        return
    for piece, begin, end in zip(pieces, [0, *moved], moved, strict=False):
        new = clean[begin:end].decode()
        if new != piece.text:
            yield piece.begin, piece.end, json.dumps(new).encode()


def rewritten(body: bytes, changes: list[Change]) -> bytes:
    """A body with changes, which are in order and do not overlap."""
    parts: list[bytes] = []
    position = 0
    for begin, end, new in changes:
        parts += [body[position:begin], new]
        position = end
    return b"".join([*parts, body[position:]])


def moved(cuts: list[int], changes: list[Change]) -> list[int]:
    """Where ascending offsets are after the changes; one inside a change stays inside it."""
    moved: list[int] = []
    at = shift = 0
    for cut in cuts:
        while at < len(changes) and changes[at][1] <= cut:
            begin, end, new = changes[at]
            shift += len(new) - (end - begin)
            at += 1
        inside = at < len(changes) and changes[at][0] < cut
        moved.append(min(cut, changes[at][0] + len(changes[at][2])) + shift if inside else cut + shift)
    return moved
