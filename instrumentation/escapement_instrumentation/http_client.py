"""`http.client`, and with it `urllib.request`, urllib3, requests and botocore, which all stand on its connections.

A connection says what it asks for in `putrequest` and sends it in pieces through `send`. A request that may be for a
model API is held back there until it is whole (its own head says when), because only then the run can be asked. Then it
is sent in one go and the response's file listened to; or a recorded step takes the socket's place, and the response is
read from it by whatever code reads the live one. Nothing is dialled for that. What is for nobody in particular passes.

urllib3 connects HTTPS before it says what for; towards a model API that waits until the request is sent. So does, in a
replay, a `connect` of the program's own towards a host that the trace has asked, or one of a known model API.
"""

from __future__ import annotations

import http.client
import logging
import re
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from escapement.engine.calls import Exchange
from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch
from escapement.engine.session import Session
from escapement.store.rows import StepRow
from escapement.words import semconv
from escapement.words.http import Failure, Request
from escapement_instrumentation import failures, hosts, wire
from escapement_instrumentation.asking import Address, Live, Seen, Wire, scope_here
from escapement_instrumentation.pace import Pace

_log = logging.getLogger("escapement")
_ASKED = "_escapement_asked"  # where a connection has the request that it is about to make

_IDLE = http.client._CS_IDLE  # type: ignore[attr-defined]  # nothing is being asked through a connection
_TEXT_OF_TUPLE = re.compile(r"""^\(.*>, ["'](.*)["']\)$""", re.DOTALL)

_connecting_late: ContextVar[bool] = ContextVar("escapement_connecting_late", default=False)
"""Whether urllib3 is busy with a request to a model API here."""


def hooks() -> Sequence[ModuleHooks]:
    """Hooks on connections, and on urllib3 because it has some of its own and connects before it asks."""
    return (
        ModuleHooks("http.client", _connection_patches),
        ModuleHooks("urllib3.connectionpool", lambda module: (Patch(module.HTTPConnectionPool, "urlopen", _urlopen),)),
        ModuleHooks("urllib3.connection", _connect_patches),
    )


def _connection_patches(module: ModuleType) -> Sequence[Patch]:
    connection = module.HTTPConnection
    return (
        Patch(connection, "putrequest", _putrequest),
        Patch(connection, "send", _send),
        Patch(connection, "getresponse", _getresponse),
        *_connect_patches(module),
    )


def _connect_patches(module: ModuleType) -> Sequence[Patch]:
    return Patch(module.HTTPConnection, "connect", _connect), Patch(module.HTTPSConnection, "connect", _connect)


class _Asked:
    """A request that may be for a model API, from its first line to its answer."""

    def __init__(self, seen: Seen, method: str, url: str) -> None:
        self.seen = seen
        self.method = method
        self.url = url
        self.outcome: StepRow | Exchange | None = None
        self.passing = False
        """Whether what is sent goes on to the socket: it has been decided what becomes of the request."""
        self._sent = bytearray()
        self._body_at = -1
        self._left = 0
        self._unchunked: wire.Unchunked | None = None
        self._body: list[bytes] = []
        self._headers: wire.RawHead = []

    def take(self, data: bytes) -> bool:
        """Hold back a piece of the request; whether it is whole now."""
        self._sent += data
        if self._body_at < 0:
            self._body_at = self._sent.find(b"\r\n\r\n") + 4
            if self._body_at < 4:
                self._body_at = -1
                return False
            self._headers = wire.parse_head(bytes(self._sent[: self._body_at]))
            fields = {name.lower(): value for name, value in self._headers}
            if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
                self._unchunked = wire.Unchunked()
            else:
                self._left = int(fields.get(b"content-length", b"0"))
            data = bytes(self._sent[self._body_at :])
        if self._unchunked is not None:
            self._body += [piece for piece, _ in self._unchunked.feed(data)]
            return self._unchunked.finished
        self._body.append(data)
        self._left -= len(data)
        return self._left <= 0

    def decide(self, connection: Any) -> bytes:
        """Ask the run; what is to be sent now. A recorded step takes the socket's place, or raises what was raised."""
        self.passing = True
        address = urlsplit(self.url)
        request = Request(
            self.method, _origin(connection, self.url), address.path, address.query, self._headers, b"".join(self._body)
        )
        self.outcome = self.seen.ask(request)
        if not isinstance(self.outcome, StepRow):
            return bytes(self._sent)
        step = self.outcome
        self.seen.session.hand_out(step)
        pace = Pace(self.seen.session.pace)
        if step.attributes.get(semconv.FAILURE_SENDING):
            pace.wait(step.elapsed)
            raise _exception(step, connection)
        connection.sock = wire.Recorded(_read(step, connection, pace), connection.sock)
        return b""


def _putrequest(wrapped: Callable[..., Any], connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = wrapped(*args, **kwargs)
    connection.__dict__.pop(_ASKED, None)
    scope = scope_here()
    if scope is not None:
        method, url = _line(args, kwargs)
        seen = Seen.look(scope, method, urlsplit(url).path)
        if seen is not None:
            connection.__dict__[_ASKED] = _Asked(seen, method, url)
    return result


def _send(wrapped: Callable[..., Any], connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    asked: _Asked | None = connection.__dict__.get(_ASKED)
    if asked is None or asked.passing:
        return wrapped(*args, **kwargs)
    data = args[0] if args else kwargs["data"]
    return _go(wrapped, connection, asked) if asked.take(b"".join(_bytes(connection, data))) else None


def _go(send: Callable[..., Any], connection: Any, asked: _Asked) -> Any:
    """The request is whole: send it, or have it answered."""
    data = asked.decide(connection)
    if isinstance(asked.outcome, StepRow):
        return None
    if isinstance(connection.sock, wire.Recorded):
        connection.sock = connection.sock.behind
    if not isinstance(asked.outcome, Exchange):
        del connection.__dict__[_ASKED]
        return send(data)
    with Live(asked.seen, asked.outcome, sending=True), Wire():
        return send(data)


def _getresponse(wrapped: Callable[..., Any], connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    asked: _Asked | None = connection.__dict__.get(_ASKED)
    if asked is None:
        return wrapped(*args, **kwargs)
    if not asked.passing:  # less was sent than its head said
        _go(connection.send, connection, asked)
    connection.__dict__.pop(_ASKED, None)
    if isinstance(asked.outcome, StepRow):
        stand_in = connection.sock
        try:
            return wrapped(*args, **kwargs)
        finally:
            if connection.sock is stand_in:
                connection.sock = getattr(stand_in, "behind", None)
    exchange = asked.outcome
    if exchange is None:
        return wrapped(*args, **kwargs)
    with Live(asked.seen, exchange), Wire():
        response = wrapped(*args, **kwargs)
        _tell(lambda: wire.listen(response, exchange))
    return response


def _read(step: StepRow, connection: Any, pace: Pace) -> Iterator[bytes]:
    """What is read from a recorded step, as from a socket."""
    answer = step.response()
    if answer is None:
        pace.wait(step.elapsed)
        raise _exception(step, connection)

    def raises() -> BaseException | None:
        cut_off = answer.failure is None or answer.failure.type == "IncompleteRead"  # which http.client sees for itself
        return None if cut_off else _exception(step, connection)

    yield from wire.served(step, answer, raises, pace)


def _exception(step: StepRow, connection: Any) -> BaseException:
    """What a recorded request raised."""
    failure = step.failure()
    assert failure is not None
    error = failures.standard(failure) or _of_urllib3(failure, connection)
    return error if error is not None else OSError(f"{failure.type}: {failure.message}")


def _of_urllib3(failure: Failure, connection: Any) -> BaseException | None:
    """An exception of urllib3 names the connection, and is raised from what the system said."""
    exceptions = sys.modules.get("urllib3.exceptions")
    kind = getattr(exceptions, failure.type, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return None
    cause = failures.cause(failure)
    if failure.type == "NameResolutionError":
        error: BaseException = kind(connection.host, connection, cause)
    elif failure.type == "NewConnectionError":
        error = kind(connection, failure.message.partition(": ")[2])
    elif failure.type == "ConnectTimeoutError":
        # Its text is that of a tuple: the connection, and what happened.
        error = kind(connection, _TEXT_OF_TUPLE.sub(r"\1", failure.message))
    else:
        made = failures.made(kind, failure.message)
        if made is None:
            return None
        error = made
    error.__cause__ = cause
    return error


def _urlopen(wrapped: Callable[..., Any], pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scope = scope_here()
    method, url = _line(args, kwargs)
    if scope is None or Seen.look(scope, method, urlsplit(url).path) is None:
        return wrapped(*args, **kwargs)
    token = _connecting_late.set(True)
    try:
        return wrapped(*args, **kwargs)
    finally:
        _connecting_late.reset(token)


def _connect(wrapped: Callable[..., Any], connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not _waits(connection):
        return wrapped(*args, **kwargs)
    if hasattr(connection, "cert_reqs"):
        # urllib3 warns where a certificate will not be verified, before anything is sent; it is not connected yet.
        resolve = sys.modules["urllib3.util.ssl_"].resolve_cert_reqs
        connection.is_verified = resolve(connection.cert_reqs) != ssl.CERT_NONE
    return None


def _waits(connection: Any) -> bool:
    """Whether a connection is made only when something is sent through it (which connects by itself)."""
    if connection._HTTPConnection__state != _IDLE:
        return False  # something is being sent
    if _connecting_late.get():
        return True
    scope = scope_here()
    session = scope.run if scope is not None else None
    if not isinstance(session, Session) or session.mode != "replay":
        return False
    host = connection._tunnel_host or connection.host
    steps = session.source.steps if session.source is not None else ()
    return hosts.is_known(host) or any(step.attributes.get(semconv.SERVER_ADDRESS) == host for step in steps)


def _tell(tell: Callable[[], object]) -> None:
    try:
        tell()
    except Exception:
        _log.exception("Escapement could not record a call")


def _line(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
    """Method and URL, however they were given."""
    method = args[0] if args else kwargs.get("method", "")
    url = args[1] if len(args) > 1 else kwargs.get("url", "")
    return str(method), str(url)


def _origin(connection: Any, url: str) -> Address:
    """Where a request goes in the end, proxy or not."""
    if not url.startswith("/"):
        address = urlsplit(url)  # to a proxy that forwards
        if address.hostname:
            return Address(address.scheme, address.hostname, address.port)
    scheme = "https" if connection.default_port == 443 else "http"
    tunnel = connection._tunnel_host
    host, port = (tunnel, connection._tunnel_port) if tunnel else (connection.host, connection.port)
    return Address(scheme, str(host), port)


def _bytes(connection: Any, data: Any) -> Iterator[bytes]:
    """What `send` takes: bytes, a file, or pieces."""
    if hasattr(data, "read"):
        while block := data.read(connection.blocksize):
            yield block.encode("iso-8859-1") if isinstance(block, str) else block
        return
    try:
        yield bytes(memoryview(data))
    except TypeError:
        for piece in data:
            yield bytes(piece)
