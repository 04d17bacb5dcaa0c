"""Readers of aiohttp's bodies: live ones listened to, recorded ones handing out what was recorded.

A live reader belongs to the parser that feeds it, has slots, and cannot be put into another object. So its class is
changed to one with the same layout, and its timer brings along whom to tell. What arrives is told as it arrives,
decoded, a chunk of the wire for a chunk; how the program reads it changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import EmptyStreamReader

from escapement.engine.calls import Exchange
from escapement.providers.sse import is_finished
from escapement.words.http import Response
from escapement_instrumentation.pace import Pace

_log = logging.getLogger("escapement")
_CLOSED = "Connection closed"  # what a reader is told when its response is closed or released before the end


class _Ear:
    """Whom a live reader tells; it stands before the reader's timer and does what that does."""

    def __init__(self, timer: Any, exchange: Exchange) -> None:
        self._timer = timer
        self._exchange = exchange
        self._in_chunk = False
        """Whether the last chunk of the wire goes on."""

    def __enter__(self) -> Any:
        return self._timer.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        return self._timer.__exit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._timer, name)

    def data(self, data: bytes, chunked: bool) -> None:
        if data and not self._exchange.ended:
            self._guarded(lambda: (self._exchange.more if self._in_chunk else self._exchange.chunk)(data))
            self._in_chunk = chunked

    def end_of_chunk(self) -> None:
        self._in_chunk = False

    def end(self) -> None:
        self._guarded(lambda: self._exchange.finish("end"))

    def failed(self, error: BaseException) -> None:
        if str(error) == _CLOSED:
            self._guarded(lambda: self._exchange.finish("closed"))
        else:
            self._guarded(lambda: self._exchange.fail(error))

    def _guarded(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            _log.exception("Escapement could not record a stream")


class Listening(StreamReader):
    """A live reader whose exchange hears of what it is fed."""

    __slots__ = ()
    _timer: Any

    def feed_data(self, data: bytes, *size: int) -> Any:
        self._timer.data(data, self._http_chunk_splits is not None)
        return super().feed_data(data, *size)

    def end_http_chunk_receiving(self) -> None:
        self._timer.end_of_chunk()
        super().end_http_chunk_receiving()

    def feed_eof(self) -> None:
        self._timer.end()
        super().feed_eof()

    def set_exception(self, exc: Any, *cause: Any) -> None:
        self._timer.failed(exc)
        super().set_exception(exc, *cause)

    async def _wait(self, func_name: str) -> None:
        try:
            await super()._wait(func_name)
        except BaseException as error:
            self._timer.failed(error)
            raise


def listen(reader: StreamReader, exchange: Exchange) -> None:
    """Tell an exchange of a body: of what has arrived now, of the rest as it arrives."""
    if isinstance(reader, EmptyStreamReader):
        exchange.read(b"", 0)
        return
    arrived = b"".join(reader._buffer)
    cuts = list(reader._http_chunk_splits or ())
    if reader.is_eof() and len(cuts) < 2:
        exchange.read(arrived, getattr(reader, "total_raw_bytes", len(arrived)))
        return
    exchange.stream(None)
    timer: Any = reader._timer
    ear = _Ear(timer, exchange)
    begin = 0
    for cut in cuts:
        ear.data(arrived[begin:cut], False)
        begin = cut
    ear.data(arrived[begin:], reader._http_chunk_splits is not None)
    if reader.is_eof():
        ear.end()
        return
    reader.__class__ = Listening
    reader._timer = ear  # type: ignore[assignment]


class Served(StreamReader):
    """A reader that hands out a recorded body: a chunk whenever a live one would wait, then the same ending."""

    __slots__ = ("_at", "_chunks", "_elapsed", "_ending", "_pace")

    def __init__(self, answer: Response, ending: Callable[[], Awaitable[None]], pace: Pace) -> None:
        """`ending` raises what the recorded program got after the last chunk, if that was not the end."""
        loop = asyncio.get_running_loop()
        super().__init__(BaseProtocol(loop), max(2**16, len(answer.body)), loop=loop)
        self._pace = pace
        self._chunks = _chunks(answer)
        self._at = 0
        self._elapsed = answer.elapsed
        self._ending = ending if answer.ending != "end" and not _is_whole(answer) else None
        if not answer.chunks:
            for _ in self._chunks:
                self._feed()
        self._end()

    def _feed(self) -> None:
        data, framed, _ = self._chunks[self._at]
        self._at += 1
        if framed:
            self.begin_http_chunk_receiving()
        self.feed_data(data)
        if framed:
            self.end_http_chunk_receiving()

    def _end(self) -> None:
        """The end of a body arrives with the last of it."""
        if self._at == len(self._chunks) and self._ending is None and not self._eof:
            self.feed_eof()

    async def _wait(self, func_name: str) -> None:
        if self._at < len(self._chunks):
            await self._pace.wait_async(self._chunks[self._at][2])
            self._feed()
            self._end()
        elif self._ending is not None:
            await self._pace.wait_async(self._elapsed)
            await self._ending()


def _is_whole(answer: Response) -> bool:
    return answer.failure is None and is_finished(answer.body)


def _chunks(answer: Response) -> list[tuple[bytes, bool, int]]:
    """The pieces of a body, whether each was a chunk of the wire, and when it came (in nanoseconds)."""
    framed = any(name.lower() == "transfer-encoding" and "chunked" in value.lower() for name, value in answer.headers)
    pieces, at = [], 0
    for chunk in answer.chunks:
        pieces.append((answer.body[at : at + chunk.size], framed, chunk.at))
        at += chunk.size
    pieces.append((answer.body[at:], framed and not pieces, answer.elapsed))
    return [piece for piece in pieces if piece[0]]
