"""Binary event streams: https://smithy.io/2.0/aws/amazon-eventstream.html.

A frame is a prelude (two lengths and their checksum), headers, a payload, and a checksum of all that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from zlib import crc32

import orjson

MEDIA_TYPE = "application/vnd.amazon.eventstream"

_PRELUDE, _CHECKSUM = 12, 4


class Frame(NamedTuple):
    """Where a frame begins and ends in its stream, its headers as they are, and its payload."""

    begin: int
    end: int
    headers: bytes
    payload: bytes

    @property
    def event(self) -> str:
        """The kind of its event; empty where it is none."""
        return _header(self.headers, ":event-type")


def frames(body: bytes) -> Iterator[Frame]:
    """The frames of a stream, as far as they are whole."""
    at = 0
    while at + _PRELUDE + _CHECKSUM <= len(body):
        size, headers = (int.from_bytes(body[begin : begin + 4], "big") for begin in (at, at + 4))
        if size < _PRELUDE + headers + _CHECKSUM or at + size > len(body):
            return
        payload = at + _PRELUDE + headers
        yield Frame(at, at + size, body[at + _PRELUDE : payload], body[payload : at + size - _CHECKSUM])
        at += size


def framed(headers: bytes, payload: bytes) -> bytes:
    """A frame, with its lengths and checksums."""
    size = _PRELUDE + len(headers) + len(payload) + _CHECKSUM
    prelude = size.to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    frame = prelude + crc32(prelude).to_bytes(4, "big") + headers + payload
    return frame + crc32(frame).to_bytes(4, "big")


def events(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each frame whose payload is a JSON object, as far as frames are whole."""
    for frame in frames(body):
        try:
            document = orjson.loads(frame.payload)
        except orjson.JSONDecodeError:
            continue
        if isinstance(document, dict):
            yield frame.event, document


def _header(headers: bytes, wanted: str) -> str:
    """The value of a header that is a string (type 7); empty where there is none."""
    at = 0
    while at < len(headers):
        name = headers[at + 1 : at + 1 + headers[at]].decode("utf-8", "replace")
        at += 1 + headers[at]
        if headers[at : at + 1] != b"\x07":
            return ""  # of the other types none is used here
        size = int.from_bytes(headers[at + 1 : at + 3], "big")
        if name == wanted:
            return headers[at + 3 : at + 3 + size].decode("utf-8", "replace")
        at += 3 + size
    return ""
