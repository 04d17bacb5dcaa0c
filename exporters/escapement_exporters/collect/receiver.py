"""An OTLP receiver: HTTP (protobuf and JSON) and gRPC, on one event loop, in front of one intake.

What is accepted is in the intake's journal before the answer goes out. What is not is refused in the words of the
protocol, so that exporters know whether to come again:

    malformed       400   INVALID_ARGUMENT        no
    unauthorised    401   UNAUTHENTICATED         no
    too large       413   RESOURCE_EXHAUSTED      no
    other media     415   -                       no
    too busy        503   UNAVAILABLE             yes (Retry-After)
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import orjson
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from escapement.store.vetting import Unfit
from escapement_exporters.collect.intake import Busy, Full, Intake
from escapement_exporters.foreign import decoding
from escapement_exporters.foreign.decoding import Span

MOST: Final = 16 << 20
"""Bytes of one request, decompressed. Exporters send a few hundred spans at a time; gRPC's own limit is 4 MiB."""
FLIGHT: Final = 128 << 20
"""Bytes of all requests that are read at the same time."""
_RETRY: Final = "1"
_AGAIN: Final = 5.0  # seconds, after the store could not be written
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
_log = logging.getLogger("escapement")


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether an exception is news: a body that a sender broke is answered, and is no fault of the server."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, web.RequestPayloadError | BadHttpMessage)


_server_log = logging.getLogger("escapement.receiver")
_server_log.addFilter(_is_ours)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 is one that is free."""

    host: str
    port: int
    grpc_port: int


class Receiver:
    """Listens while it is open (`async with`); `keep` puts what came into the store, until it is told to stop."""

    def __init__(
        self, intake: Intake, address: Address, token: str = "", *, most: int = MOST, flight: int = FLIGHT
    ) -> None:
        self._intake = intake
        self._address = address
        self._token = token
        self._most = most
        self._flight = flight
        self._in_flight = 0
        self._runner: web.AppRunner | None = None
        self._grpc: grpc.aio.Server | None = None
        self.port = self.grpc_port = 0

    async def __aenter__(self) -> Receiver:
        app = web.Application(client_max_size=self._most)
        app.router.add_post("/v1/traces", self._post)
        self._runner = web.AppRunner(
            app, access_log=None, logger=_server_log, handler_cancellation=False, shutdown_timeout=5.0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._address.host, self._address.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        options = [("grpc.max_receive_message_length", self._most), ("grpc.so_reuseport", 0)]
        self._grpc = grpc.aio.server(options=options, maximum_concurrent_rpcs=16)
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        self._grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),))
        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        self.grpc_port = self._grpc.add_insecure_port(f"{host}:{self._address.grpc_port}")
        await self._grpc.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._grpc is not None:
            await self._grpc.stop(5.0)
        if self._runner is not None:
            await self._runner.cleanup()

    # -- HTTP ----------------------------------------------------------------------------------------------------

    async def _post(self, request: web.Request) -> web.Response:
        if not self._allowed(request.headers.get("Authorization", "")):
            return _refusal(request, 401, "a token is needed: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})
        kind = request.content_type
        if kind not in (_PROTOBUF, _JSON):
            return _refusal(request, 415, f"send {_PROTOBUF} or {_JSON}")
        if (request.content_length or 0) > self._most:
            return _refusal(request, 413, f"a request may have {self._most} bytes: send smaller batches")
        # One that is compressed may come to anything, up to what one may have.
        known = request.content_length if "Content-Encoding" not in request.headers else None
        size = known or self._most
        if self._in_flight + size > self._flight:
            return _refusal(request, 503, "too much at a time", {"Retry-After": _RETRY})
        self._in_flight += size
        try:
            data = await request.read()
            self._intake.accept(list(_read(kind, data)))
        except web.HTTPRequestEntityTooLarge:
            return _refusal(request, 413, f"a request may have {self._most} bytes: send smaller batches")
        except web.RequestPayloadError as error:
            return _refusal(request, 400, f"its body cannot be read: {error}")
        except Unfit as unfit:
            return _refusal(request, 400, str(unfit))
        except Busy:
            return _refusal(request, 503, "too much is waiting", {"Retry-After": _RETRY})
        except Full as full:
            _log.error("Escapement: %s", full)
            return _refusal(request, 503, "the journal cannot be written", {"Retry-After": "10"})
        finally:
            self._in_flight -= size
        return web.Response(body=b"{}" if kind == _JSON else b"", content_type=kind)

    def _allowed(self, authorization: str) -> bool:
        return not self._token or hmac.compare_digest(authorization.encode(), f"Bearer {self._token}".encode())

    # -- gRPC ----------------------------------------------------------------------------------------------------

    async def _export(self, data: bytes, context: Any) -> bytes:
        headers = dict(context.invocation_metadata() or ())
        if not self._allowed(str(headers.get("authorization", ""))):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token is needed: authorization: Bearer …")
        if self._in_flight + len(data) > self._flight:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too much at a time")
        try:
            self._intake.accept(list(decoding.of_protobuf(data)))
        except Unfit as unfit:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(unfit))
        except Busy:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too much is waiting")
        except Full as full:
            _log.error("Escapement: %s", full)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the journal cannot be written")
        return b""

    # -- into the store ------------------------------------------------------------------------------------------

    async def keep(self, stop: asyncio.Event, kept: Callable[[], object], every: float = 0.5) -> None:
        """Put traces into the store as they become whole, and tell `kept`, until it is to stop."""
        intake = self._intake
        while not stop.is_set():
            before = intake.traces
            wait = every
            while not stop.is_set() and (due := intake.due()):
                taken = intake.take(due)
                if not intake.done(taken, await asyncio.to_thread(intake.keep, taken)):
                    wait = _AGAIN
                    break
            if intake.traces != before:
                kept()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait)


def _read(kind: str, data: bytes) -> Iterable[Span]:
    if kind == _PROTOBUF:
        return decoding.of_protobuf(data)
    try:
        return decoding.of_json(orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise Unfit(f"it is no JSON ({error})") from None


def _refusal(request: web.Request, status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """A refusal, as the protocol has it: a `google.rpc.Status` in the encoding that the request has."""
    if request.content_type == _PROTOBUF:
        said = text.encode()[:1000]
        length = bytes([len(said) & 0x7F | (0x80 if len(said) > 127 else 0)])
        length += bytes([len(said) >> 7]) if len(said) > 127 else b""
        return web.Response(status=status, body=b"\x12" + length + said, content_type=_PROTOBUF, headers=headers)
    return web.Response(status=status, body=orjson.dumps({"message": text}), content_type=_JSON, headers=headers)
