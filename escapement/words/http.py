"""What travels: a request, its answer, and how the answer arrived. Plain values; no HTTP library is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to a model API, as an SDK hands it to its HTTP client."""

    method: str
    scheme: str
    host: str
    port: int | None
    path: str
    query: str
    headers: Headers
    body: bytes

    def header(self, name: str) -> str:
        """The first value of a header (`name` in lower case), or the empty string."""
        return next((value for key, value in self.headers if key.lower() == name), "")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a body as it came off the wire: `size` bytes, `at` nanoseconds after the request was sent."""

    size: int
    at: int


@dataclass(frozen=True, slots=True)
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
    ending: str = "end"
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception of the HTTP client in place of an answer (or in the middle of one)."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP exchange of a call: what came of it, and when (nanoseconds since the epoch)."""

    started: int
    ended: int
    status: int | None = None
    failure: Failure | None = None
    body: str = ""
    headers: Headers = field(default=())
