"""Responses and streams of `httpx` and `httpx2`: live ones listened to, recorded ones rebuilt."""

from __future__ import annotations

import builtins
import datetime
import logging
import re
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import count
from types import ModuleType
from typing import Any

from escapement.engine import divergence, event_loop
from escapement.engine.calls import Call, Decode, Exchange
from escapement.engine.session import Session
from escapement.providers.sse import is_finished
from escapement.store.rows import StepRow
from escapement.words import semconv
from escapement.words.http import Failure, Headers, Response
from escapement_instrumentation.pace import Pace
from escapement_instrumentation.sdks import Unwind, mark_served

_log = logging.getLogger("escapement")


class Listening:
    """A response's stream, passed on chunk by chunk while the exchange hears of it. Nothing is held back."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # `elapsed` of httpx2's streams

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._inner:
                self._exchange.chunk(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.tell(error)
            raise
        self.tell("end")

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            self.tell("closed")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                self._exchange.chunk(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.tell(error)
            raise
        self.tell("end")

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self.tell("closed")

    def __del__(self) -> None:
        if not self._exchange.ended:
            self.tell("dropped")

    def tell(self, ending: str | BaseException) -> None:
        """How it ended, or the exception that it ended with; only the first counts."""
        try:
            if isinstance(ending, str):
                self._exchange.finish(ending)
            elif not self._exchange.ended:
                self._exchange.fail(ending)
        except Exception:
            _log.exception("Escapement could not record the end of a stream")


class Served:
    """A recorded body as a stream: the same chunks, then the same ending, at the pace that is asked for."""

    def __init__(
        self, response: Response, step: StepRow, pace: Pace, exception: Callable[[Failure], BaseException]
    ) -> None:
        """`exception` makes again what reading it ended with."""
        self._response = response
        self._step = step
        self._pace = pace
        self._exception = exception
        self.reader: Callable[[], Any] = lambda: None
        """Gives the response that is read from here."""

    def __iter__(self) -> Iterator[bytes]:
        for at, chunk in self._chunks():
            self._pace.wait(at)
            yield chunk
        self._pace.wait(self._response.elapsed)
        self._end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at, chunk in self._chunks():
            await self._pace.wait_async(at)
            yield chunk
        await self._pace.wait_async(self._response.elapsed)
        await wait_if_cancelled(self._response.failure)
        self._end()

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def _chunks(self) -> Iterator[tuple[int, bytes]]:
        """When each came, and what it was."""
        body, position = self._response.body, 0
        for chunk in self._response.chunks:
            yield chunk.at, body[position : position + chunk.size]
            position += chunk.size
        if position < len(body):
            yield self._response.elapsed, body[position:]

    def _end(self) -> None:
        """End as the recorded stream did, or say that nobody knows how it went on."""
        response, reader = self._response, self.reader()
        if reader is not None:
            reader._num_bytes_downloaded = response.wire_size  # it has counted what is kept, which is decoded
        if response.failure is not None:
            raise self._exception(response.failure)
        if response.ending not in ("end", "failed") and not is_finished(response.body):
            raise divergence.incomplete(self._step.trace_id, self._step.step)


@cache
def _nothing(library: ModuleType) -> Any:
    """The stream of a response that has been read."""
    return library.ByteStream(b"")


@cache
def _stream_class(library: ModuleType, kind: type) -> type:
    """`kind` as a stream of this library: responses check what they are given."""
    return type(kind.__name__, (kind, library.SyncByteStream, library.AsyncByteStream), {})


def listen(library: ModuleType, response: Any, exchange: Exchange, streaming: bool) -> None:
    """Tell an exchange of a live response: at once where it has been read, else as its stream is."""
    exchange.respond(response.status_code, _headers(response), response.http_version, response.reason_phrase)
    if response.history:
        exchange.redirects = [(hop.status_code, _headers(hop)) for hop in response.history]
    if streaming and not response.is_closed:
        exchange.stream(_decoder(library, response))
        response.stream = _stream_class(library, Listening)(response.stream, exchange)
    else:
        exchange.read(response.content, response.num_bytes_downloaded)


_ROUNDS, _PATIENCE = 200, 0.03
"""How long an answer waits for one that came earlier: rounds of the event loop, and seconds. A program needs a few
rounds from one await to the next, and some milliseconds where a thread is in between (the SDKs ask for the platform in
one). A step that does not come is not waited for again."""


async def in_turn(session: Session, step: StepRow) -> None:
    """Answer in the recorded order: let concurrent tasks get the answers first that came first."""
    if event_loop.library() is None:  # nothing that is known: nothing to wait with
        session.hand_out(step)
        return
    try:
        while (earlier := session.comes_before(step)) is not None:
            until = time.perf_counter() + _PATIENCE
            for round in count():
                await event_loop.sleep(0)
                if session.comes_before(step) is not earlier:
                    break
                if round >= _ROUNDS and time.perf_counter() >= until:
                    session.hand_out(earlier)
                    break
    finally:
        session.hand_out(step)


def rebuild(library: ModuleType, client: Any, step: StepRow, request: Any, call: Call | None, pace: Pace | None) -> Any:
    """The response that a recorded step got, for this request: as a stream that keeps `pace`, or (None) read already.

    Raises what was raised where there was no response.
    """
    attempts = step.attributes.get(semconv.ATTEMPTS)
    retries = len(attempts) - 1 if attempts else 0
    if retries and "x-stainless-retry-count" in request.headers:
        request.headers["x-stainless-retry-count"] = str(retries)
    answer = step.response()
    if answer is None:
        raise _what_was_raised(library, step, request, call)
    history: list[Any] = []
    if semconv.RESPONSE_REDIRECTS in step.attributes:
        request, history = _redirected(library, client, step, request)
    response = library.Response(
        answer.status,
        headers=_raw(answer.headers),
        stream=_served(library, answer, step, request, pace) if pace else _nothing(library),
        request=request,
        extensions={"http_version": answer.http_version.encode(), "reason_phrase": answer.reason.encode()},
        default_encoding=client._default_encoding,
    )
    response.elapsed = datetime.timedelta(microseconds=answer.elapsed // 1000)
    response.history = history
    if response.has_redirect_location:  # one that was not followed
        response.next_request = client._build_redirect_request(request, response)
    mark_served(response, retries)
    if pace is None:
        # In one go, whatever the client is: what is served needs no waiting.
        response._content = answer.body
        response._num_bytes_downloaded = answer.wire_size
        response.is_stream_consumed = response.is_closed = True
        return response
    response.stream.reader = weakref.ref(response)
    if "content-encoding" in response.headers:
        # The body is kept decoded. The header stays, and decoding is left out.
        response._decoder = library.Response(200)._get_content_decoder()
    return response


def _served(library: ModuleType, answer: Response, step: StepRow, request: Any, pace: Pace) -> Any:
    return _stream_class(library, Served)(answer, step, pace, lambda failure: exception(library, failure, request))


def _redirected(library: ModuleType, client: Any, step: StepRow, request: Any) -> tuple[Any, list[Any]]:
    """The request that led to the answer in the end, and the responses that redirected to it (without their bodies)."""
    history: list[Any] = []
    for status, headers in step.attributes.get(semconv.RESPONSE_REDIRECTS, ()):
        hop = library.Response(status, headers=_raw(headers), content=b"", request=request)
        hop.elapsed = datetime.timedelta()
        hop.history = list(history)
        history.append(hop)
        request = client._build_redirect_request(request, hop)  # as the client itself goes on from one to the next
    return request, history


def _what_was_raised(library: ModuleType, step: StepRow, request: Any, call: Call | None) -> BaseException:
    """What a recorded call raised, as it came out of the SDK's retry loop."""
    failure = step.failure()
    assert failure is not None
    error = exception(library, failure, request)
    if call is None or not call.sdk:
        return error
    _, _, name = step.attributes.get(semconv.RAISED, "").partition(".")
    if name in ("APIConnectionError", "APITimeoutError"):
        return Unwind(getattr(sys.modules[call.sdk], name)(request=request), error)
    return Unwind(error, error.__cause__)


async def wait_if_cancelled(failure: Failure | None) -> None:
    """The recorded program cancelled here, while it waited: so wait, until it does so again."""
    if failure is not None and failure.type in ("CancelledError", "Cancelled"):  # asyncio's, and trio's
        await event_loop.forever()


_ERRNO = re.compile(r"\[Errno (-?\d+)\] (.*)", re.DOTALL)  # how an OSError shows its number and text
_CAUSES = frozenset({"builtins", "ssl", "socket", "anyio", "httpcore", "httpcore2", "h11", "h2"})
"""Packages whose exceptions are made again as causes. A trace may come from a stranger: others are left out."""


def exception(library: ModuleType, failure: Failure, request: Any) -> BaseException:
    """The exception of the HTTP client (or a builtin one) that a failure was, with its causes."""
    kind = getattr(library, failure.type, None) or getattr(builtins, failure.type, None)
    error: BaseException | None
    if isinstance(kind, type) and issubclass(kind, library.RequestError):
        error = kind(failure.message, request=request)
    else:
        error = _made(kind, failure.message)
    if error is None:
        error = library.RequestError(f"{failure.type}: {failure.message}", request=request)
    effect = error
    for name, message in failure.causes:
        module, _, kind_name = name.rpartition(".")
        known = module.partition(".")[0] in _CAUSES
        cause = _made(getattr(sys.modules.get(module), kind_name, None), message) if known else None
        if cause is None:
            break
        effect.__cause__ = cause
        effect = cause
    return error


def _made(kind: Any, message: str) -> BaseException | None:
    """An exception from its message; None for one that takes more to make."""
    if isinstance(kind, type) and issubclass(kind, Exception):
        numbered = _ERRNO.fullmatch(message) if issubclass(kind, OSError) else None
        with suppress(Exception):
            return kind(int(numbered[1]), numbered[2]) if numbered is not None else kind(message)
    return None


def _raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers]


def _headers(response: Any) -> Headers:
    return tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in response.headers.raw)


def _decoder(library: ModuleType, response: Any) -> Decode | None:
    """What undoes the content encoding of a stream, a piece for a piece; None where there is nothing to undo."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding == "identity":
        return None

    def decode(pieces: Sequence[bytes]) -> list[bytes]:
        class Pieces(library.SyncByteStream):  # type: ignore[misc, name-defined]
            def __iter__(self) -> Iterator[bytes]:
                yield from pieces

        copy = library.Response(200, headers={"content-encoding": encoding}, stream=Pieces())
        decoded: list[bytes] = []
        try:
            decoded.extend(copy.iter_bytes())
        except library.DecodingError:
            if not decoded:
                raise
            # Some codings (zstd) refuse a stream that was cut off, after all that can be had of it.
        return decoded

    return decode
