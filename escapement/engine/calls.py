"""The life of one call: it is opened, exchanges happen, it is finished and written.

Ports drive it. An SDK's hook makes a `Call` and puts it into `current_call`; the HTTP hook asks the run for an
`Exchange` (a live one) or gets a recorded step to serve. A call without an SDK around it has one exchange.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry import context as otel_context
from opentelemetry import trace as otel

from escapement.engine import payloads, redaction, spread
from escapement.providers import (
    Operation,
    answer_attributes,
    answer_document,
    eventstream,
    request_attributes,
    streamed,
    tools_called,
)
from escapement.store.pieces import Body
from escapement.words import semconv
from escapement.words.http import REASONS, Failure, Headers, Request, content_type

if TYPE_CHECKING:
    from escapement.engine.session import Session
    from escapement.engine.spans import StepSpan

Decode = Callable[[Sequence[bytes]], list[bytes]]
_BODY_OF_ATTEMPT = 2048  # bytes of a failed attempt's answer that are kept

_MAY_CALL = re.compile(b"ool").search, re.compile(b"unction").search
"""Whether an answer may call tools (`tool_use`, `functionCall`, `remoteToolCall` …): plain text is found cheaply."""

current_call: ContextVar[Call | None] = ContextVar("escapement_call", default=None)


class Call:
    """One request to a model API and its answer, as the user's SDK sees it: retries are inside."""

    __slots__ = (
        "_attempts", "_done", "_exchange", "_operation", "_raised", "_span", "over", "sdk", "sending", "session",
    )  # fmt: skip

    def __init__(self, sdk: str = "") -> None:
        self.sdk = sdk
        """The SDK that makes the call: the name of its package, empty where it is not known."""
        self.session: Session | None = None
        self.sending: object = None
        """The request that a client is just sending for it, where hooks of the program may run meanwhile."""
        self.over = False
        """Whether the SDK is done with it. Tasks that were started in it have it in their context for good."""
        self._raised = ""
        self._attempts: list[dict[str, Any]] = []
        self._exchange: Exchange | None = None
        self._done = False

    def open(self, session: Session, operation: Operation, span: StepSpan) -> None:
        """The call goes live."""
        self.session = session
        self._operation = operation
        self._span = span

    def exchange(self) -> Exchange:
        """A new attempt."""
        if self._exchange is not None:
            self._attempts.append(self._exchange.summary())
        self._exchange = Exchange(self)
        return self._exchange

    def attach(self) -> object:
        """Make the call's span the current one, for whatever is instrumented below; undo with `detach`."""
        return otel_context.attach(otel.set_span_in_context(self._span.current()))

    def detach(self, token: Any) -> None:
        otel_context.detach(token)

    def leave(self, error: BaseException | None = None) -> None:
        """The SDK is done with the call (a stream may still be running)."""
        if error is not None:
            self._raised = f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}"
        self.over = True
        if self._exchange is not None and self._exchange.ended:
            self._finish(self._exchange)

    def ended(self, exchange: Exchange) -> None:
        if self.session is not None:
            self.session.ended(exchange)
        if self.over and exchange is self._exchange:
            self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        if self._done or self.session is None:
            return
        self._done = True
        provider = self._span.asked.get(semconv.PROVIDER_NAME, "")
        attributes = exchange.attributes(self._operation, self.session.redacts, provider)
        self.session.deferred.settle(self._operation.name, attributes)
        if self._attempts:
            attributes[semconv.ATTEMPTS] = [*self._attempts, exchange.summary()]
        if self._raised and exchange.failure is not None:
            attributes[semconv.RAISED] = self._raised
        self._span.end(attributes, exchange.stopped)
        self.session.finished(self._span.asked, attributes, self._operation, exchange.document)
        # Each knows the other, and contexts that outlive the call know it: what they hold should go now.
        self._exchange = None
        del self._span


class Exchange:
    """One HTTP exchange of a live call. The HTTP hook tells it what happens, as it happens."""

    __slots__ = (
        "_arrived", "_as_received", "_call", "_clock", "_decode", "_pieces", "_sending", "_streamed", "_wire_size",
        "document", "elapsed", "ended", "ending", "failure", "headers", "http_version", "reason", "redirects",
        "started", "status", "stopped",
    )  # fmt: skip

    def __init__(self, call: Call) -> None:
        self._call = call
        self._pieces: list[bytes] = []
        self._arrived: list[int] = []
        self._decode: Decode | None = None
        self._streamed = False
        self._as_received = False
        self._sending = False
        self._wire_size = -1
        self.status: int | None = None
        self.headers: Headers = ()
        self.http_version = "HTTP/1.1"
        self.reason = ""
        self.redirects: Sequence[tuple[int, Headers]] = ()
        """Status and headers of the redirects that led to the answer."""
        self.failure: Failure | None = None
        self.document: Mapping[str, Any] = {}
        """The answer as JSON, as far as it is any; there when its attributes are."""
        self.ending = "end"
        self.ended = False
        self.elapsed = 0
        self.stopped = 0
        self.started = time.time_ns()
        self._clock = time.perf_counter_ns()

    def respond(self, status: int, headers: Headers, http_version: str, reason: str) -> None:
        self.status, self.headers, self.http_version, self.reason = status, headers, http_version, reason

    def read(self, body: bytes, wire_size: int) -> None:
        """The whole (decoded) body is here; `wire_size` bytes were received for it."""
        self._pieces = [body]
        self._wire_size = wire_size
        self.finish("end")

    def stream(self, decode: Decode | None, *, as_received: bool = False) -> None:
        """The body will come in chunks; `decode` undoes their content encoding.

        `as_received`: the program undoes it itself, so the chunks are kept as they come, too.
        """
        self._streamed = True
        self._decode = decode
        self._as_received = as_received

    def chunk(self, data: bytes) -> None:
        self._pieces.append(data)
        self._arrived.append(time.perf_counter_ns())

    def more(self, data: bytes) -> None:
        """The last chunk goes on."""
        self._pieces[-1] += data

    def fail(self, error: BaseException, *, sending: bool = False) -> None:
        """The exchange, or the rest of its stream, failed; `sending`: before the request was out."""
        if self.ended:
            return
        self._sending = sending
        self.failure = Failure(type(error).__name__, str(error), _causes(error))
        self.finish("failed")

    def finish(self, ending: str) -> None:
        """Nothing more will come (`ending` as in `Response`). Only the first time counts."""
        if self.ended:
            return
        self.ended = True
        self.ending = ending
        self.elapsed = time.perf_counter_ns() - self._clock
        self.stopped = self.started + self.elapsed
        self._call.ended(self)

    def abandon(self) -> None:
        """The run ends: a stream that is under way keeps what has arrived."""
        if self._streamed:
            self._call.leave()
            self.finish("dropped")

    def summary(self) -> dict[str, Any]:
        """What is kept of an attempt where there were several."""
        attempt: dict[str, Any] = {"started": self.started, "elapsed": self.elapsed, "status": self.status}
        if self.failure is not None:
            attempt["failure"] = [self.failure.type, redaction.scrub_text(self.failure.message)]
        if self.status is not None and self.status >= 400:
            body = redaction.scrub(b"".join(self._pieces))  # whole: a key that is cut has no shape
            attempt["body"] = body[:_BODY_OF_ATTEMPT].decode("utf-8", "replace")
        return attempt

    def attributes(self, operation: Operation, redact: bool, provider: str) -> dict[str, Any]:
        """Everything about the answer, for the span."""
        attributes: dict[str, Any] = {semconv.RESPONSE_ELAPSED: self.elapsed}
        if self.failure is not None:
            attributes[semconv.FAILURE_TYPE] = self.failure.type
            attributes[semconv.FAILURE_MESSAGE] = redaction.scrub_text(self.failure.message)
            attributes[semconv.ERROR_TYPE] = self.failure.type
            if self.failure.causes:
                attributes[semconv.FAILURE_CAUSES] = orjson.loads(redaction.scrub(orjson.dumps(self.failure.causes)))
            if self._sending:
                attributes[semconv.FAILURE_SENDING] = True
        if self.status is None:
            return attributes
        if self._streamed:
            body, cuts = self._joined()
        else:
            body, cuts = self._pieces[0] if self._pieces else b"", []
        kept = body
        attributes[semconv.STATUS] = self.status
        attributes[semconv.RESPONSE_HEADERS] = headers = redaction.response_headers(self.headers)
        kind = content_type(headers)
        document = answer_document(operation, body, kind)
        if redact:
            received = body
            if kind.startswith(eventstream.MEDIA_TYPE):
                body, cuts = payloads.scrub_stream(body, cuts, document)
            elif streamed(kind):
                body, cuts = spread.scrub_stream(body, cuts, document)
            else:
                body, cuts = redaction.scrub_with_cuts(body, cuts)
            if body is not received:
                document = answer_document(operation, body, kind)
        # What is as usual goes without saying: every attribute costs.
        if self.http_version != "HTTP/1.1":
            attributes[semconv.HTTP_VERSION] = self.http_version
        if self.reason != REASONS.get(self.status, ""):
            attributes[semconv.REASON] = redaction.scrub_text(self.reason)
        if self._wire_size not in (-1, len(body)):
            attributes[semconv.RESPONSE_WIRE] = self._wire_size
        if self.redirects:
            hops = [(status, redaction.response_headers(headers)) for status, headers in self.redirects]
            attributes[semconv.RESPONSE_REDIRECTS] = hops
        if self.ending != "end":
            attributes[semconv.RESPONSE_ENDING] = self.ending
        try:
            attributes[semconv.RESPONSE_BODY] = body.decode()
        except UnicodeDecodeError:
            attributes[semconv.RESPONSE_BODY_BASE64] = base64.b64encode(body).decode()
        if self._as_received and body is kept:  # with a secret in it, only the scrubbed body is kept
            attributes[semconv.RESPONSE_ENCODED] = ".".join(base64.b64encode(p).decode() for p in self._pieces)
        if self._streamed:
            sizes = [cut - before for before, cut in zip([0, *cuts], cuts, strict=False)]
            times = [(at - self._clock) // 1000 for at in self._arrived]
            attributes[semconv.RESPONSE_CHUNKS] = list(zip(sizes, times, strict=True))
            if times:
                attributes[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = times[0] / 1e6
        if self.status >= 400:
            attributes[semconv.ERROR_TYPE] = str(self.status)
        attributes.update(answer_attributes(operation, document, provider))
        if any(may(body) for may in _MAY_CALL):  # reading messages costs, and most answers call nothing
            attributes.update(tools_called(operation, document))
        self.document = document
        return attributes

    def _joined(self) -> tuple[bytes, list[int]]:
        """The decoded body of a stream, and the offsets at which its chunks end."""
        pieces = self._pieces
        if self._decode is not None:
            self._wire_size = sum(map(len, pieces))
            try:
                pieces = self._decode(pieces)
            except Exception:  # a stream cut in the middle of a compressed block: keep what it was
                pieces = self._pieces
            # One decoded piece a chunk, so that each keeps its time of arrival.
            spare = len(self._arrived)
            pieces = [*pieces[: spare - 1], b"".join(pieces[spare - 1 :])] if spare else []
            self._arrived = self._arrived[: len(pieces)]
        cuts: list[int] = []
        length = 0
        for piece in pieces:
            length += len(piece)
            cuts.append(length)
        return b"".join(pieces), cuts


def request_span(operation: Operation, request: Request, body: Body) -> dict[str, Any]:
    """Everything about the request but its body, for the span."""
    fields = {name: value for name, (_, value) in body.fields.items()} if body.parsed else {}
    attributes = request_attributes(operation, request, fields)
    attributes[semconv.OPERATION_NAME] = redaction.name(operation.name)
    attributes[semconv.SERVER_ADDRESS] = redaction.name(attributes[semconv.SERVER_ADDRESS])
    attributes[semconv.METHOD] = request.method
    attributes[semconv.PATH] = request.path
    attributes[semconv.REQUEST_HEADERS] = redaction.request_headers(request.headers)
    attributes[semconv.REQUEST_BYTES] = len(request.body)
    if request.query:
        attributes[semconv.QUERY] = request.query
    return attributes


def _causes(error: BaseException, most: int = 4) -> list[tuple[str, str]]:
    causes: list[tuple[str, str]] = []
    cause = error.__cause__
    while cause is not None and len(causes) < most:
        causes.append((f"{type(cause).__module__}.{type(cause).__qualname__}", str(cause)))
        cause = cause.__cause__
    return causes
