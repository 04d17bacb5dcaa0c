"""lm15, which speaks HTTP by itself, on sockets: DSPy carries a copy of it, and sends through that what it can.

Its transports take a request that is whole and give a response that is read in chunks, already decoded. So a live
response is listened to as its chunks are read, and a recorded step is a response with the recorded chunks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from escapement.engine.calls import Exchange
from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch
from escapement.store.rows import StepRow
from escapement.words.http import Failure, Request
from escapement_instrumentation import failures
from escapement_instrumentation.asking import Address, Live, Seen, Wire, scope_here
from escapement_instrumentation.pace import Pace
from escapement_instrumentation.responses import Listening, Served, in_turn, wait_if_cancelled

_log = logging.getLogger("escapement")


def hooks() -> Sequence[ModuleHooks]:
    """Hooks on the transports of lm15, and of the copy of it in DSPy."""
    return tuple(ModuleHooks(f"{package}.transports", _patches) for package in ("lm15", "dspy._vendor.lm15"))


def _patches(module: ModuleType) -> Sequence[Patch]:
    return (
        Patch(module.StdlibTransport, "stream", _stream(module)),
        Patch(module.StdlibAsyncTransport, "_do_stream", _stream_async(module)),
    )


def _stream(library: ModuleType) -> Callable[..., Any]:
    def stream(wrapped: Callable[..., Any], transport: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request = args[0] if args else kwargs["request"]
        seen = _look(request)
        outcome = seen.ask(_request(request)) if seen is not None else None
        if seen is None or outcome is None:
            return wrapped(*args, **kwargs)
        if isinstance(outcome, StepRow):
            pace = Pace(seen.session.pace)
            seen.session.hand_out(outcome)
            if not outcome.has_response:
                pace.wait(outcome.elapsed)
            return _rebuild(library, library.TransportResponse, outcome, pace, _nothing_to_release)
        with Live(seen, outcome), Wire():
            return _listen(wrapped(*args, **kwargs), outcome)

    return stream


def _stream_async(library: ModuleType) -> Callable[..., Any]:
    async def stream(wrapped: Callable[..., Any], transport: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request = args[0] if args else kwargs["request"]
        seen = _look(request)
        outcome = seen.ask(_request(request)) if seen is not None else None
        if seen is None or outcome is None:
            return await wrapped(*args, **kwargs)
        if isinstance(outcome, StepRow):
            pace = Pace(seen.session.pace)
            if not outcome.has_response:
                await wait_if_cancelled(outcome.failure())
                await pace.wait_async(outcome.elapsed)
            await in_turn(seen.session, outcome)
            return _rebuild(library, library.AsyncTransportResponse, outcome, pace, _nothing_to_release_async)
        with Live(seen, outcome), Wire():
            return _listen(await wrapped(*args, **kwargs), outcome)

    return stream


def _look(request: Any) -> Seen | None:
    scope = scope_here()
    return Seen.look(scope, request.method, urlsplit(request.url).path) if scope is not None else None


def _request(request: Any) -> Request:
    url = urlsplit(request.url)
    address = Address(url.scheme, url.hostname or "", url.port)
    headers = [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in request.headers
    ]
    return Request(request.method, address, url.path, url.query, headers, request.body)


def _listen(response: Any, exchange: Exchange) -> Any:
    """The response, whose reader and whose end an exchange hears of."""
    try:
        exchange.respond(response.status, tuple(response.headers), response.http_version, response.reason)
        exchange.stream(None)
        listening = Listening(response._chunks, exchange)
        release = response._release

        def released(consumed: bool) -> Any:
            listening.tell("closed")
            return release(consumed)

        response._chunks, response._release = listening, released
    except Exception:
        _log.exception("Escapement could not record an answer")
    return response


def _rebuild(library: ModuleType, kind: Any, step: StepRow, pace: Pace, release: Callable[[bool], Any]) -> Any:
    """The response that a recorded step got. Raises what was raised where there was none."""

    def exception(failure: Failure) -> BaseException:
        error = failures.made(getattr(library, failure.type, None), failure.message) or failures.standard(failure)
        error = error or library.TransportError(f"{failure.type}: {failure.message}")
        error.__cause__ = failures.cause(failure)
        return error

    answer = step.response()
    if answer is None:
        failure = step.failure()
        assert failure is not None
        raise exception(failure)
    return kind(
        status=answer.status,
        reason=answer.reason,
        headers=[(name, value) for name, value in answer.headers],
        http_version=answer.http_version,
        chunks=Served(answer, step, pace, exception),
        release=release,
    )


def _nothing_to_release(consumed: bool) -> None:
    """A recorded response has no connection."""


async def _nothing_to_release_async(consumed: bool) -> None:
    """Neither has one that is read by `await`."""
