"""Streams of events: how they are read and written, by the media type of the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from escapement.providers import ndjson, sse
from escapement.providers.operation import Event

_READERS = {
    "text/event-stream": sse.events,
    "application/x-ndjson": ndjson.events,
    "application/stream+json": ndjson.events,
}


def streamed(content_type: str) -> bool:
    """Whether an answer of this type comes in events."""
    return _media_type(content_type) in _READERS


def read(body: bytes, content_type: str) -> Iterator[Event]:
    """The events of a stream. Raises KeyError for a type that is none."""
    return _READERS[_media_type(content_type)](body)


def write(events: Iterable[Event], content_type: str, like: bytes) -> list[bytes]:
    """Events as they go over the wire, one by one, in the way of the stream `like`."""
    encoded = [(name, orjson.dumps(data)) for name, data in events]
    if _media_type(content_type) == "text/event-stream":
        named = like.startswith(b"event:") or b"\nevent:" in like
        lines = [(f"event: {name}\n".encode() if named else b"") + b"data: " + data for name, data in encoded]
        done = [b"data: [DONE]"] if b"data: [DONE]" in like or b"data:[DONE]" in like else []
        return [line + b"\n\n" for line in [*lines, *done]]
    if streamed(content_type):
        return [data + b"\n" for _, data in encoded]
    # Google's streams, where nobody asked for events: the elements of one array.
    return [(b"," if number else b"[") + data for number, (_, data) in enumerate(encoded)] + [b"]"]


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
