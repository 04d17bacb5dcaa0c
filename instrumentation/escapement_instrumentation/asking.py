"""What the hooks on HTTP clients have in common: they ask the run about a request, and surround a live exchange.

Clients stand on one another (httpx on aiohttp, a transport of one's own on requests). The outermost of them that sees a
request is the one that the program talks to: it records, and those inside pass what they are given.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import ContextVar
from typing import NamedTuple, NoReturn

from escapement.engine import lanes
from escapement.engine.calls import Call, Exchange, current_call
from escapement.engine.lanes import Scope
from escapement.engine.session import Session
from escapement.providers import Operation, recognise
from escapement.store.rows import StepRow
from escapement.words.errors import EscapementError
from escapement.words.http import Request
from escapement_instrumentation.sdks import Unwind, sdk_here

_log = logging.getLogger("escapement")
_live: ContextVar[Call | None] = ContextVar("escapement_live", default=None)
"""The call that a client is sending a request for, hooks of the program included."""
_wire: ContextVar[Wire | None] = ContextVar("escapement_wire", default=None)
"""The innermost request that is on its way."""


class Address(NamedTuple):
    """Where a request goes, for clients that have no object for it."""

    scheme: str
    host: str
    port: int | None


def scope_here() -> Scope | None:
    """The scope whose run a request made here belongs to; None where it is to pass untouched."""
    scope = lanes.current()
    wire = _wire.get()
    return None if scope is None or (wire is not None and not wire.over) else scope


class Seen:
    """A request to a model API, made in an open run."""

    __slots__ = ("_of_sdk", "call", "operation", "scope", "session")

    def __init__(self, session: Session, scope: Scope, call: Call | None, operation: Operation, of_sdk: bool) -> None:
        self._of_sdk = of_sdk
        self.session = session
        self.scope = scope
        self.call = call
        self.operation = operation

    @classmethod
    def look(cls, scope: Scope, method: str, path: str, call: Call | None = None) -> Seen | None:
        """None for what is to pass untouched. `call` is the SDK's that the request is known to be part of."""
        sdk = call.sdk if call is not None else sdk_here.get()
        operation = recognise(method, path, sdk)
        session = scope.run
        if operation is None or not isinstance(session, Session):
            return None
        return cls(session, scope, call, operation, sdk != "")

    def ask(self, request: Request) -> StepRow | Exchange | None:
        """What the run says to this request; None when it is none of its business after all."""
        if not self._of_sdk and not self.operation.is_asked(request.body):
            return None  # a well-known path, but not of a model API
        call = self.call
        if call is None:
            self.call = call = Call()
        try:
            return self.session.enter(call, self.scope, request, self.operation)
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


def sdk_call() -> Call | None:
    """The call of an SDK that a request made here is an attempt of. Attempts come one after the other: what is sent
    while one is under way, by a hook of the program or a task that it started, is another call."""
    call = current_call.get()
    return None if call is None or call.over or call.sending is not None else call


class Wire:
    """A live request on its way: clients inside of clients are one exchange with it."""

    __slots__ = ("_token", "over")

    def __init__(self) -> None:
        self.over = False
        """Tasks that were started meanwhile have it in their context for good."""

    def __enter__(self) -> None:
        self._token = _wire.set(self)

    def __exit__(self, *_: object) -> None:
        self.over = True
        with suppress(ValueError):  # thrown away with its event loop, in another context
            _wire.reset(self._token)


def is_live() -> bool:
    """Whether a `Live` of a client that runs hooks is open here: what goes to its transport is on the `Wire`."""
    call = _live.get()
    return call is not None and call.sending is not None


def is_seen(request: object) -> bool:
    """Whether a `Live` is open here for this very request: under somebody else's hook is another one of ours."""
    call = _live.get()
    return call is not None and call.sending is request


class Live:
    """A live exchange under way: its span is current, and what is raised out of it is told.

    `sending`: only the request goes out in it; the answer follows in another. `request`: of a client that
    runs hooks of the program meanwhile, whose requests are their own.
    """

    __slots__ = ("_alone", "_call", "_exchange", "_only_sending", "_outer", "_request", "_span")

    def __init__(self, seen: Seen, exchange: Exchange, *, sending: bool = False, request: object = None) -> None:
        self._only_sending = sending
        self._request = request
        assert seen.call is not None
        self._call = seen.call
        self._alone = not seen.call.sdk
        self._exchange = exchange

    def __enter__(self) -> None:
        self._call.sending = self._request
        self._outer = _live.set(self._call)
        self._span = self._call.attach()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._call.sending = None
        # A coroutine that is thrown away with its event loop ends in another context, where there is nothing to undo.
        with suppress(ValueError):
            _live.reset(self._outer)
            self._call.detach(self._span)
        try:
            if error is not None:
                self._exchange.fail(error, sending=self._only_sending)
            if self._alone and not (self._only_sending and error is None):
                self._call.leave(error)
        except Exception:
            _log.exception("Escapement could not record a call")
