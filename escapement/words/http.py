"""What travels: a request, its answer, and how the answer arrived. Plain values; no HTTP library is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

Headers = Sequence[Sequence[str]]
"""Pairs of name and value, in the order and the case they came in."""


RawHeaders = Sequence[tuple[bytes, bytes]]


def content_type(headers: Headers | None) -> str:
    """The media type of a body and its parameters, by its headers; empty where they do not say it."""
    return next((value for key, value in headers or () if key.lower() == "content-type"), "")


class Origin(Protocol):
    """Where a request goes: any HTTP library's URL."""

    @property
    def scheme(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int | None: ...


@dataclass(slots=True)
class Request:
    """One HTTP request to a model API, as an SDK hands it to its HTTP client."""

    method: str
    origin: Origin
    path: str
    query: str
    headers: RawHeaders
    """Only looked at, never kept whole."""
    body: bytes

    @property
    def content_type(self) -> str:
        """The media type of the body and its parameters; empty where nothing says it."""
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == b"content-type"), "")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a body as it came off the wire: `size` bytes, `at` nanoseconds after the request was sent."""

    size: int
    at: int


REASONS = {status.value: status.phrase for status in HTTPStatus}
"""The usual reason phrase of each status, which goes without saying."""


@dataclass(slots=True)
class Response:
    """An answer with its decoded body. `chunks` are empty for a body that was read in one go.

    `ending` says how a body that was streamed came to its end: `end` (read to the end), `closed` (the reader closed it
    after what is here), `dropped` (the reader forgot it), or `failed` (then `failure` says with what).
    """

    status: int
    headers: Headers
    body: bytes
    chunks: Sequence[Chunk] = ()
    http_version: str = "HTTP/1.1"
    reason: str = ""
    elapsed: int = 0
    wire_size: int = 0
    """Bytes that were received: fewer than the body has where it was compressed."""
    ending: str = "end"
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception of the HTTP client in place of an answer (or in the middle of one)."""

    type: str
    message: str
    causes: Sequence[tuple[str, str]] = ()
    """What it was raised from, from the nearest on: qualified class name and message of each."""
