"""`send` of the HTTP clients: the one place that every request of every SDK on httpx or httpx2 passes, once an attempt.

A request that belongs to a model API is answered from the trace, or sent while an exchange listens. Everything else,
and everything while no run is open, goes through untouched. The sync and the async hook differ in their `await`s only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NoReturn

from escapement.engine import lanes
from escapement.engine.calls import Call, Exchange, current_call
from escapement.engine.hooks import ModuleHooks
from escapement.engine.lanes import Scope
from escapement.engine.patching import Patch
from escapement.engine.session import Session
from escapement.providers import Operation, recognise
from escapement.store.rows import StepRow
from escapement.words.errors import EscapementError
from escapement.words.http import Request
from escapement_instrumentation import responses
from escapement_instrumentation.pace import Pace
from escapement_instrumentation.sdks import Unwind

_log = logging.getLogger("escapement")
_sending: ContextVar[bool] = ContextVar("escapement_sending", default=False)
"""Whether a live request of ours is under way here: clients inside clients are one exchange."""


def client_hooks(library: str) -> ModuleHooks:
    """Hooks on `Client.send` and `AsyncClient.send` of httpx or httpx2."""

    def patches(module: ModuleType) -> Sequence[Patch]:
        return (
            Patch(module.Client, "send", _send(module)),
            Patch(module.AsyncClient, "send", _send_async(module)),
        )

    return ModuleHooks(library, patches)


def _send(library: ModuleType) -> Callable[..., Any]:
    def send(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen = _Seen.look(client, args, kwargs)
        if seen is None:
            return wrapped(*args, **kwargs)
        request = seen.request
        outcome = seen.ask(_body(request) or request.read())
        if outcome is None:
            return wrapped(*args, **kwargs)
        if isinstance(outcome, StepRow):
            for hook in client.event_hooks["request"]:
                hook(request)
            seen.session.hand_out(outcome)
            pace = Pace(seen.session.settings.pace)
            if not (seen.streaming and outcome.has_response):
                pace.wait(outcome.elapsed)
            response = responses.rebuild(library, client, outcome, request, seen.call, pace if seen.streaming else None)
            for hook in client.event_hooks["response"]:
                hook(response)
            return response
        with _Live(seen, outcome) as live:
            response = wrapped(*args, **kwargs)
            live.answered(library, response)
            return response

    return send


def _send_async(library: ModuleType) -> Callable[..., Any]:
    async def send(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen = _Seen.look(client, args, kwargs)
        if seen is None:
            return await wrapped(*args, **kwargs)
        request = seen.request
        outcome = seen.ask(_body(request) or await request.aread())
        if outcome is None:
            return await wrapped(*args, **kwargs)
        if isinstance(outcome, StepRow):
            for hook in client.event_hooks["request"]:
                await hook(request)
            if not outcome.has_response:
                await responses.wait_if_cancelled(outcome.failure())
            pace = Pace(seen.session.settings.pace)
            await responses.in_turn(seen.session, outcome)
            if not (seen.streaming and outcome.has_response):
                await pace.wait_async(outcome.elapsed)
            response = responses.rebuild(library, client, outcome, request, seen.call, pace if seen.streaming else None)
            for hook in client.event_hooks["response"]:
                await hook(response)
            return response
        with _Live(seen, outcome) as live:
            response = await wrapped(*args, **kwargs)
            live.answered(library, response)
            return response

    return send


class _Seen:
    """A request to a model API, made in an open run."""

    __slots__ = ("call", "operation", "request", "scope", "session", "streaming")

    def __init__(
        self, session: Session, scope: Scope, call: Call | None, request: Any, operation: Operation, streaming: bool
    ) -> None:
        self.session = session
        self.scope = scope
        self.call = call
        self.request = request
        self.operation = operation
        self.streaming = streaming

    @classmethod
    def look(cls, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Seen | None:
        """None for what is to pass untouched."""
        scope = lanes.current()
        if scope is None or _sending.get():
            return None
        request = args[0] if args else kwargs.get("request")
        if request is None or client.is_closed:
            return None
        call = current_call.get()
        path = request.url.raw_path.partition(b"?")[0].decode("ascii", "replace")
        operation = recognise(request.method, path, call.sdk if call is not None else "")
        session = scope.run
        if operation is None or not isinstance(session, Session):
            return None
        return cls(session, scope, call, request, operation, bool(kwargs.get("stream", False)))

    def ask(self, body: bytes) -> StepRow | Exchange | None:
        """What the run says to this request; None when it is none of its business after all."""
        if self.call is None and not self.operation.is_asked(body):
            return None  # a well-known path, but not of a model API
        call = self.call
        if call is None:
            self.call = call = Call()
        path, _, query = self.request.url.raw_path.partition(b"?")
        try:
            return self.session.enter(
                call,
                self.scope,
                Request(
                    self.request.method,
                    self.request.url,
                    path.decode("ascii", "replace"),
                    query.decode("ascii", "replace"),
                    self.request.headers.raw,
                    body,
                ),
                self.operation,
            )
        except EscapementError as error:
            self._raise(error)
        except Exception:
            if self.session.mode == "replay":
                raise  # never live behind the back of a replay
            _log.exception("Escapement could not record a call; it goes on unrecorded")
            self.session.lose()
            return None

    def _raise(self, error: EscapementError) -> NoReturn:
        if self.call is not None and self.call.sdk:
            raise Unwind(error) from None
        raise error


class _Live:
    """A live exchange under way: its span is current, and whatever comes of it is told."""

    __slots__ = ("_alone", "_call", "_exchange", "_sending", "_span", "_streaming")

    def __init__(self, seen: _Seen, exchange: Exchange) -> None:
        assert seen.call is not None
        self._call = seen.call
        self._alone = not seen.call.sdk
        self._exchange = exchange
        self._streaming = seen.streaming

    def __enter__(self) -> _Live:
        self._sending = _sending.set(True)
        self._span = self._call.attach()
        return self

    def answered(self, library: ModuleType, response: Any) -> None:
        try:
            responses.listen(library, response, self._exchange, self._streaming)
        except Exception:
            _log.exception("Escapement could not record an answer")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        # A coroutine that is thrown away with its event loop ends in another context, where there is nothing to undo.
        with suppress(ValueError):
            _sending.reset(self._sending)
            self._call.detach(self._span)
        try:
            if error is not None:
                self._exchange.fail(error)
            if self._alone:
                self._call.leave(error)
        except Exception:
            _log.exception("Escapement could not record a call")


def _body(request: Any) -> bytes:
    """The body of a request where it is in memory; empty where it has to be read first."""
    content: bytes = getattr(request, "_content", b"")
    return content
