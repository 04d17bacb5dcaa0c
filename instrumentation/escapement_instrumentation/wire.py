"""HTTP/1.1 as `http.client` meets it on a socket: heads, chunked bodies, and what stands in for a socket in a replay.

A body is kept decoded, for everybody who reads it in the store. But callers of `http.client` undo a content encoding
themselves, so a compressed body is kept as it was received, too, and that is what they are served. Where the store has
no such copy (recorded through a client that decodes, or a secret was taken out), they get the decoded body without the
header that says it were compressed.
"""

from __future__ import annotations

import http.client
import io
import logging
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

from escapement.engine import divergence
from escapement.engine.calls import Exchange
from escapement.providers.sse import is_finished
from escapement.store.rows import StepRow
from escapement.words.http import Response
from escapement_instrumentation import codings
from escapement_instrumentation.pace import Pace

_log = logging.getLogger("escapement")
RawHead = list[tuple[bytes, bytes]]


def parse_head(head: bytes) -> RawHead:
    """The headers of a request that is about to be sent, without its first line."""
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:] if line)
    return [(name.strip(), value.strip()) for name, _, value in pairs]


class Unchunked:
    """Takes a chunked body as it comes, cut anywhere, and gives what it carries."""

    def __init__(self) -> None:
        self.finished = False
        self._line = b""
        self._next = "size"
        self._left = 0
        self._fresh = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Pieces, and whether each begins a chunk. Raises ValueError for what is not chunked."""
        while data and not self.finished:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                yield piece, self._fresh
                self._fresh = False
                continue
            head, end, data = data.partition(b"\n")
            self._line += head
            if end:
                line, self._line = self._line.strip(), b""
                self._take(line)

    def _take(self, line: bytes) -> None:
        if self._next == "end of chunk":
            self._next = "size"
        elif self._next == "size":
            self._left = int(line.partition(b";")[0], 16)
            self._fresh = True
            self._next = "end of chunk" if self._left else "trailer"
        elif not line:
            self.finished = True


class Listening:
    """The file that a response reads its body from, passed on while the exchange hears of it. Nothing is held back."""

    def __init__(self, inner: Any, exchange: Exchange, chunked: bool, length: int | None) -> None:
        self._inner = inner
        self._exchange = exchange
        self._unchunked = Unchunked() if chunked else None
        self._left = length  # None: until the connection closes
        self._dry = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def read(self, amount: int | None = -1) -> bytes:
        wanted = -1 if amount is None else amount
        # A file gives less than it was asked for only at its end.
        return self._reading(lambda: self._inner.read(wanted), lambda data: wanted < 0 or len(data) < wanted)

    def read1(self, amount: int = -1) -> bytes:
        return self._reading(lambda: self._inner.read1(amount), lambda data: not data and amount != 0)

    def readline(self, limit: int = -1) -> bytes:
        return self._reading(lambda: self._inner.readline(limit), lambda data: not data and limit != 0)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._reading(lambda: bytes(view[: self._inner.readinto(view)]), lambda data: not data and len(view) > 0)
        return len(data)

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            self._guarded(self._closed)

    def __del__(self) -> None:
        if not self._exchange.ended:
            self._guarded(lambda: self._exchange.finish("dropped"))

    def _reading(self, read: Callable[[], bytes], is_last: Callable[[bytes], bool]) -> bytes:
        try:
            data = read()
        except BaseException as error:
            self._failed(error)
            raise
        self._guarded(lambda: self._hear(data, is_last(data)))
        return data

    def _failed(self, error: BaseException) -> None:
        self._guarded(lambda: self._exchange.fail(error))

    def _hear(self, data: bytes, last: bool) -> None:
        if self._exchange.ended:
            return
        if self._unchunked is not None:
            for piece, fresh in self._unchunked.feed(data):
                (self._exchange.chunk if fresh else self._exchange.more)(piece)
        elif data:
            self._exchange.chunk(data)
            if self._left is not None:
                self._left -= len(data)
        self._dry = last
        if self._complete():
            self._exchange.finish("end")

    def _complete(self) -> bool:
        if self._unchunked is not None:
            return self._unchunked.finished
        return self._dry if self._left is None else self._left <= 0

    def _closed(self) -> None:
        if self._dry and not self._complete():
            self._exchange.fail(http.client.IncompleteRead(b"", self._left))
        self._exchange.finish("closed")

    def _guarded(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            _log.exception("Escapement could not record a stream")


def listen(response: http.client.HTTPResponse, exchange: Exchange) -> None:
    """Tell an exchange of a live response, and of its body as it is read."""
    version = "HTTP/1.0" if response.version == 10 else "HTTP/1.1"
    exchange.respond(response.status, response.getheaders(), version, response.reason)
    if response.length == 0 or response.fp is None:
        exchange.read(b"", 0)
        return
    encoding = (response.getheader("content-encoding") or "identity").lower()
    exchange.stream(codings.decoder(encoding), as_received=encoding != "identity")
    response.fp = Listening(response.fp, exchange, bool(response.chunked), response.length)  # type: ignore[assignment]


class Recorded:
    """What a connection has in place of a socket while a recorded step answers it: it can be read, once.

    `behind` is the socket that it had before.
    """

    def __init__(self, pieces: Iterator[bytes], behind: Any) -> None:
        self._pieces = pieces
        self.behind = behind

    def makefile(self, *args: Any, **kwargs: Any) -> io.BufferedReader:
        return io.BufferedReader(_Pieces(self._pieces))

    def close(self) -> None:
        if self.behind is not None:
            self.behind.close()

    def settimeout(self, timeout: float | None) -> None:
        pass

    def setsockopt(self, *args: Any) -> None:
        pass

    def shutdown(self, how: int = 0) -> None:
        pass


class _Pieces(io.RawIOBase):
    """Bytes that come a piece at a time, as from a socket."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._coming = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._coming, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def served(step: StepRow, answer: Response, raises: Callable[[], BaseException | None], pace: Pace) -> Iterator[bytes]:
    """The bytes of a recorded answer as they were on the wire, when they came, and what reading them ended with."""
    headers = [(name, " ".join(value.split("\r\n"))) for name, value in answer.headers]
    chunks = list(_chunks(answer))
    encoded = step.encoded()
    if encoded is not None:
        chunks = encoded
    else:
        headers = [(name, value) for name, value in headers if name.lower() != "content-encoding"]
    chunked = any(name.lower() == "transfer-encoding" and "chunked" in value.lower() for name, value in headers)
    whole = answer.ending == "end"
    if whole and not chunked and answer.body:  # a length that was of the body before secrets or encoding were taken out
        length = str(sum(map(len, chunks)))
        headers = [(name, length if name.lower() == "content-length" else value) for name, value in headers]
    version = answer.http_version if answer.http_version in ("HTTP/1.0", "HTTP/1.1") else "HTTP/1.1"
    lines = [f"{version} {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    yield "\r\n".join(lines).encode("latin-1", "replace")
    times = chain((chunk.at for chunk in answer.chunks), repeat(answer.elapsed))
    for chunk, at in zip(chunks, times, strict=False):
        if chunk:
            pace.wait(at)
            yield b"%x\r\n%s\r\n" % (len(chunk), chunk) if chunked else chunk
    pace.wait(answer.elapsed)
    error = raises()
    if error is not None:
        raise error
    if answer.ending in ("closed", "dropped") and not is_finished(answer.body):
        raise divergence.incomplete(step.trace_id, step.step)
    if chunked and answer.ending != "failed":
        yield b"0\r\n\r\n"


def _chunks(answer: Response) -> Iterator[bytes]:
    at = 0
    for chunk in answer.chunks:
        yield answer.body[at : at + chunk.size]
        at += chunk.size
    if at < len(answer.body):
        yield answer.body[at:]
