"""`send` of the HTTP clients: the one place that every request of every SDK on httpx or httpx2 passes, once an attempt.

Within it a client runs the program's event hooks, which may make calls of their own. What its transport does, behind
`_send_single_request`, is part of the exchange.

A request that belongs to a model API is answered from the trace, or sent while an exchange listens. Everything else,
and everything while no run is open, goes through untouched. The sync and the async hook differ in their `await`s only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from escapement.engine.calls import Exchange
from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch
from escapement.store.rows import StepRow
from escapement.words.http import Request
from escapement_instrumentation import responses
from escapement_instrumentation.asking import Live, Seen, Wire, is_live, is_seen, scope_here, sdk_call
from escapement_instrumentation.pace import Pace

_log = logging.getLogger("escapement")


def client_hooks(library: str) -> ModuleHooks:
    """Hooks on `Client` and `AsyncClient` of httpx or httpx2."""

    def patches(module: ModuleType) -> Sequence[Patch]:
        return (
            Patch(module.Client, "send", _send(module)),
            Patch(module.AsyncClient, "send", _send_async(module)),
            Patch(module.Client, "_send_single_request", _transport),
            Patch(module.AsyncClient, "_send_single_request", _transport_async),
        )

    return ModuleHooks(library, patches)


def _send(library: ModuleType) -> Callable[..., Any]:
    def send(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = _look(client, args, kwargs)
        if found is None:
            return wrapped(*args, **kwargs)
        seen, path, query = found
        request = args[0] if args else kwargs["request"]
        streaming = bool(kwargs.get("stream", False))
        outcome = seen.ask(_request(request, path, query, _body(request) or request.read()))
        if outcome is None:
            return wrapped(*args, **kwargs)
        if isinstance(outcome, StepRow):
            for hook in client.event_hooks["request"]:
                hook(request)
            seen.session.hand_out(outcome)
            pace = Pace(seen.session.pace)
            if not (streaming and outcome.has_response):
                pace.wait(outcome.elapsed)
            response = responses.rebuild(library, client, outcome, request, seen.call, pace if streaming else None)
            for hook in client.event_hooks["response"]:
                hook(response)
            return response
        with Live(seen, outcome, request=request):
            response = wrapped(*args, **kwargs)
            _listen(library, response, outcome, streaming)
            return response

    return send


def _send_async(library: ModuleType) -> Callable[..., Any]:
    async def send(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = _look(client, args, kwargs)
        if found is None:
            return await wrapped(*args, **kwargs)
        seen, path, query = found
        request = args[0] if args else kwargs["request"]
        streaming = bool(kwargs.get("stream", False))
        outcome = seen.ask(_request(request, path, query, _body(request) or await request.aread()))
        if outcome is None:
            return await wrapped(*args, **kwargs)
        if isinstance(outcome, StepRow):
            for hook in client.event_hooks["request"]:
                await hook(request)
            if not outcome.has_response:
                await responses.wait_if_cancelled(outcome.failure())
            pace = Pace(seen.session.pace)
            await responses.in_turn(seen.session, outcome)
            if not (streaming and outcome.has_response):
                await pace.wait_async(outcome.elapsed)
            response = responses.rebuild(library, client, outcome, request, seen.call, pace if streaming else None)
            for hook in client.event_hooks["response"]:
                await hook(response)
            return response
        with Live(seen, outcome, request=request):
            response = await wrapped(*args, **kwargs)
            _listen(library, response, outcome, streaming)
            return response

    return send


def _transport(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not is_live():
        return wrapped(*args, **kwargs)
    with Wire():
        return wrapped(*args, **kwargs)


async def _transport_async(
    wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if not is_live():
        return await wrapped(*args, **kwargs)
    with Wire():
        return await wrapped(*args, **kwargs)


def _look(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Seen, str, str] | None:
    """A request to a model API, its path and its query; None for what is to pass untouched."""
    scope = scope_here()
    if scope is None:
        return None
    request = args[0] if args else kwargs.get("request")
    if request is None or client.is_closed or is_seen(request):
        return None
    path, _, query = request.url.raw_path.decode("ascii", "replace").partition("?")
    seen = Seen.look(scope, request.method, path, sdk_call())
    return (seen, path, query) if seen is not None else None


def _request(request: Any, path: str, query: str, body: bytes) -> Request:
    return Request(request.method, request.url, path, query, request.headers.raw, body)


def _listen(library: ModuleType, response: Any, exchange: Exchange, streaming: bool) -> None:
    try:
        responses.listen(library, response, exchange, streaming)
    except Exception:
        _log.exception("Escapement could not record an answer")


def _body(request: Any) -> bytes:
    """The body of a request where it is in memory; empty where it has to be read first."""
    content: bytes = getattr(request, "_content", b"")
    return content
