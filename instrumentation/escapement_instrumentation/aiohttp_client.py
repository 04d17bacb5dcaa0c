"""aiohttp: a middleware of ours goes innermost into every request, once an attempt and once a redirect.

There the request is as it will be sent, and whatever is returned is treated by the session as its own: cookies, raised
statuses, traces. A live answer is handed on with its reader listening; a recorded one is a response of the same class,
whose reader hands out the recorded chunks. Requests that httpx makes through aiohttp are httpx's.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import HttpVersion, StreamReader, hdrs, http_parser
from aiohttp.http_parser import RawResponseMessage
from multidict import CIMultiDict, CIMultiDictProxy, istr

from escapement.engine import divergence
from escapement.engine.calls import Exchange
from escapement.store.rows import StepRow
from escapement.words.http import Headers, Request
from escapement_instrumentation import failures, readers
from escapement_instrumentation.asking import Live, Seen, Wire, scope_here
from escapement_instrumentation.pace import Pace
from escapement_instrumentation.responses import in_turn, wait_if_cancelled

_log = logging.getLogger("escapement")
_SPELT = (
    {str(name).lower(): name for name in vars(hdrs).values() if isinstance(name, istr)}
    if http_parser.HttpResponseParser is not http_parser.HttpResponseParserPy
    else {}
)
"""How aiohttp's fast parser spells the headers that it knows, whatever was sent."""
_STATUS_AND_MESSAGE = re.compile(r"(\d+), message=(['\"])(.*?)\2, url=", re.DOTALL)


def request(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The hook on `ClientSession._request`, which every verb of a session ends in."""
    method = args[0] if args else kwargs["method"]
    if (
        scope_here() is None or method.upper() != "POST"
    ):  # as all requests to model APIs are, and as redirects leave them
        return wrapped(*args, **kwargs)
    theirs = kwargs.get("middlewares")
    if theirs is None:
        theirs = client._middlewares
    return wrapped(*args, **{**kwargs, "middlewares": (*theirs, _pass)})


async def _pass(request: Any, send: Callable[[Any], Awaitable[Any]]) -> Any:
    scope = scope_here()
    seen = Seen.look(scope, request.method, request.url.raw_path) if scope is not None else None
    if seen is None:
        return await send(request)
    url = request.url
    outcome = seen.ask(
        Request(
            request.method,
            url,
            url.raw_path,
            url.raw_query_string,
            _raw(list(request.headers.items())),
            await _body(request),
        )
    )
    if outcome is None:
        return await send(request)
    if isinstance(outcome, StepRow):
        if not outcome.has_response:
            await wait_if_cancelled(outcome.failure())
        pace = Pace(seen.session.pace)
        await in_turn(seen.session, outcome)
        return await _rebuild(request, outcome, pace)
    with Live(seen, outcome), Wire():
        response = await send(request)
        _listen(response, outcome)
        return response


async def _body(request: Any) -> bytes:
    body = request.body
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    content: bytes = await body.as_bytes()
    return content


def _raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [
        (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")) for name, value in headers
    ]


def _listen(response: Any, exchange: Exchange) -> None:
    try:
        headers = [
            (name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in response.raw_headers
        ]
        version = f"HTTP/{response.version.major}.{response.version.minor}"
        exchange.respond(response.status, headers, version, response.reason)
        readers.listen(response.content, exchange)
    except Exception:
        _log.exception("Escapement could not record an answer")


async def _rebuild(request: Any, step: StepRow, pace: Pace) -> Any:
    """The response that a recorded step got, for this request. Raises what was raised where there was none."""
    answer = step.response()
    if answer is None or not answer.chunks:
        await pace.wait_async(step.elapsed)
    if answer is None:
        raise _exception(step, request)

    async def ending() -> None:
        if answer.failure is None:
            raise divergence.incomplete(step.trace_id, step.step)
        await wait_if_cancelled(answer.failure)
        raise _exception(step, request)

    major, _, minor = answer.http_version.removeprefix("HTTP/").partition(".")
    head = RawResponseMessage(
        HttpVersion(int(major), int(minor or 0)),
        answer.status,
        answer.reason,
        CIMultiDictProxy(CIMultiDict((_SPELT.get(name.lower(), name), value) for name, value in answer.headers)),
        tuple(_raw(answer.headers)),
        False,
        None,
        False,
        False,
    )
    return await _start(_response(request), head, readers.Served(answer, ending, pace))


def _response(request: Any) -> Any:
    """A response of the request's class, as the request itself makes it when it is sent."""
    kind = request.response_class
    written = {"stream_writer": _Nothing()} if "stream_writer" in inspect.signature(kind).parameters else {}
    return kind(
        request.method,
        request.original_url,
        writer=None,
        continue100=None,
        timer=request._timer,
        request_info=request.request_info,
        traces=request._traces,
        loop=request.loop,
        session=request._session,
        **written,
    )


async def _start(response: Any, head: RawResponseMessage, reader: StreamReader) -> Any:
    """Have aiohttp's own code make of an answer what it makes of a live one; then there is no connection."""
    await response.start(_NoConnection(_Answer(head, reader)))
    response._connection = None
    return response


class _Nothing:
    """What was written of a request that was not sent."""

    output_size = 0


class _NoConnection:
    """What a response is read from."""

    def __init__(self, protocol: _Answer) -> None:
        self.protocol = protocol

    def release(self) -> None:
        pass

    close = release


class _Answer:
    """Where a response reads its head."""

    upgraded = False

    def __init__(self, head: RawResponseMessage, reader: StreamReader) -> None:
        self._answer = (head, reader)

    async def read(self) -> tuple[RawResponseMessage, StreamReader]:
        return self._answer


def _exception(step: StepRow, request: Any) -> BaseException:
    """What a recorded request raised: an exception of aiohttp, or one of the standard library."""
    failure = step.failure()
    assert failure is not None
    kind = getattr(aiohttp, failure.type, None)
    cause = failures.cause(failure)
    error: BaseException | None = None
    if isinstance(kind, type) and issubclass(kind, aiohttp.ClientConnectorError):
        if isinstance(cause, OSError):
            error = kind(request.connection_key, cause)
    elif isinstance(kind, type) and issubclass(kind, aiohttp.ClientResponseError):
        told = _STATUS_AND_MESSAGE.match(failure.message)
        status, message = (int(told[1]), told[3]) if told is not None else (0, failure.message)
        error = kind(request.request_info, (), status=status, message=message)
    else:
        error = failures.made(kind, failure.message)
    error = error or failures.standard(failure) or aiohttp.ClientError(f"{failure.type}: {failure.message}")
    error.__cause__ = cause
    return error
