"""OpenTelemetry, as far as the engine needs it: spans of ours that lose nothing, and a provider for everybody else's.

A recording must hold every span whole, so it goes through no provider whose sampler, limits and queues drop things.
The application's provider, where there is one, gets a slim twin of each span; where there is none, ours takes the
place, always on and without limits, and keeps what other instrumentation does during a run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, cast

import orjson
from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from escapement.engine import lanes, redaction
from escapement.store.journal import Record
from escapement.store.rows import StepRow
from escapement.words import semconv

_log = logging.getLogger("escapement")
_UNLIMITED = SpanLimits(*[SpanLimits.UNSET] * 8)
_TWIN_KEY = otel_context.create_key("escapement-twin")
_next_trace_id: ContextVar[int] = ContextVar("escapement_next_trace_id", default=0)
_SAMPLED = otel.TraceFlags(otel.TraceFlags.SAMPLED)


class Sink(Protocol):
    """Where records of spans go: a session."""

    @property
    def open(self) -> bool: ...

    def keep(self, *records: Record) -> bool: ...

    def lose(self) -> None: ...


class StepSpan:
    """The span of a step, whole: it writes its record when it starts, and again when it ends, before it returns.

    It is a span in all but the SDK's machinery, which would make up a quarter of what recording costs and can do
    nothing for it: no limit may cut it, no sampler drop it, no queue delay it. Whoever else listens, be it the
    application's provider or processors that were added to ours, gets a `twin`: an SDK span with the same ids and
    slim attributes.
    """

    __slots__ = ("_asked", "_context", "_name", "_sink", "_twin", "_unwritten")

    def __init__(
        self, sink: Sink, name: str, parent: Context, asked: Mapping[str, Any], pieces: Mapping[str, Any], start: int
    ) -> None:
        self._sink = sink
        self._name = name
        self._asked = asked
        above = otel.get_current_span(parent).get_span_context()
        self._context, self._twin = begin(name, parent, otel.SpanKind.CLIENT, asked, start)
        record = {
            "record": "start",
            "trace_id": f"{above.trace_id:032x}",
            "span_id": f"{self._context.span_id:016x}",
            "parent": f"{above.span_id:016x}",
            "name": name,
            "start": start,
            "attributes": asked,
            "pieces": pieces,
        }
        self._unwritten = () if sink.keep(record) else (record,)  # once more, with the end

    @property
    def asked(self) -> Mapping[str, Any]:
        """The attributes that were known when it started."""
        return self._asked

    def current(self) -> otel.Span:
        """What stands for it as the current span, for whatever is instrumented below."""
        return self._twin if self._twin is not None else otel.NonRecordingSpan(self._context)

    def end(self, answered: Mapping[str, Any], end: int) -> None:
        """End it, with the attributes that its answer gave it."""
        failed = semconv.ERROR_TYPE in answered
        record = {
            "record": "span",
            "trace_id": f"{self._context.trace_id:032x}",
            "span_id": f"{self._context.span_id:016x}",
            "name": self._name,
            "end": end,
            "status": "ERROR" if failed else "UNSET",
            "attributes": answered,
        }
        if not self._sink.keep(*self._unwritten, record):
            self._sink.lose()
        if self._twin is not None:
            self._twin.set_attributes(slim(answered))
            if failed:
                self._twin.set_status(otel.StatusCode.ERROR, answered.get(semconv.FAILURE_MESSAGE))
            self._twin.end(end)


def begin(
    name: str, parent: Context, kind: otel.SpanKind, attributes: Mapping[str, Any], start: int
) -> tuple[otel.SpanContext, otel.Span | None]:
    """The identity of a span of ours, and its twin where somebody listens."""
    listener = listening_tracer()
    if listener is None:
        above = otel.get_current_span(parent).get_span_context()
        return otel.SpanContext(above.trace_id, _IDS.generate_span_id(), False, _SAMPLED), None
    marked = otel_context.set_value(_TWIN_KEY, True, parent)
    twin = listener.start_span(name, marked, kind, slim(attributes), start_time=start)
    return twin.get_span_context(), twin


class JournalProcessor(SpanProcessor):
    """Writes spans of other instrumentation to the journal of the run that they happen in, where ours is its provider.

    A processor's exception would reach the program (OpenTelemetry calls processors unprotected): none leaves here.
    """

    def __init__(self) -> None:
        # Keyed by span id: what `on_end` is given is a snapshot, another object than `on_start` saw.
        self._started: dict[int, Sink] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            scope = lanes.current()
            if scope is not None and not otel_context.get_value(_TWIN_KEY, parent_context):
                self._started[_context_of(span).span_id] = cast(Sink, scope.run)
        except Exception:
            _log.exception("Escapement could not take note of the start of a span")

    def on_end(self, span: ReadableSpan) -> None:
        try:
            sink = self._started.pop(_context_of(span).span_id, None)
            if sink is not None and sink.open:
                sink.keep(_record(span))
        except Exception:
            _log.exception("Escapement could not take note of the end of a span")


def _record(span: ReadableSpan) -> Record:
    """The record of a span that is no step: all of it at once."""
    context = _context_of(span)
    return {
        "record": "span",
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else "",
        "name": span.name,
        "kind": span.kind.name,
        "scope": span.instrumentation_scope.name if span.instrumentation_scope else "",
        "start": span.start_time,
        "end": span.end_time,
        "status": span.status.status_code.name,
        "description": redaction.scrub_value(span.status.description),
        "attributes": redaction.scrub_value(dict(span.attributes or {})),
        "events": [
            {
                "name": event.name,
                "time": event.timestamp,
                "attributes": redaction.scrub_value(dict(event.attributes or {})),
            }
            for event in span.events
        ],
    }


def _context_of(span: ReadableSpan) -> otel.SpanContext:
    return span.get_span_context() or otel.INVALID_SPAN_CONTEXT


class _Ids(RandomIdGenerator):
    """Random ids, except for the trace id of a run, which is settled before its span starts."""

    def generate_trace_id(self) -> int:
        settled = _next_trace_id.get()
        return settled or super().generate_trace_id()


_IDS = _Ids()


class Provider(TracerProvider):
    """Our provider: always on, without limits, and writing before a span's start or end returns."""

    def __init__(self) -> None:
        super().__init__(sampler=ALWAYS_ON, span_limits=_UNLIMITED, shutdown_on_exit=False, id_generator=_IDS)
        # OTEL_SDK_DISABLED turns telemetry off; a recording that the user asked for is not telemetry.
        self._disabled = False
        super().add_span_processor(JournalProcessor())
        self.heard = False
        """Whether anybody but the journal looks at our spans: the program, where ours became the global provider."""

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self.heard = True
        super().add_span_processor(span_processor)


@cache
def provider() -> Provider:
    """The one of this process."""
    return Provider()


@cache
def tracer() -> otel.Tracer:
    return provider().get_tracer(semconv.SCOPE, own_version())


@cache
def own_version() -> str:
    try:
        return version("escapement")
    except PackageNotFoundError:
        return "0"


def service_name() -> str:
    """The name that the program has in telemetry, where it has one."""
    named = os.environ.get("OTEL_SERVICE_NAME", "").strip()
    pairs = (pair.partition("=") for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    return named or next((value.strip() for key, _, value in pairs if key.strip() == "service.name"), "")


def become_global() -> None:
    """Make our provider the global one if the application has none."""
    switched_off = os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"
    if isinstance(otel.get_tracer_provider(), otel.ProxyTracerProvider) and not switched_off:
        otel.set_tracer_provider(provider())


def listening_tracer() -> otel.Tracer | None:
    """A tracer for those who listen to spans besides us: the application's provider, or processors added to ours."""
    current = otel.get_tracer_provider()
    if current is provider():
        return tracer() if provider().heard else None
    if isinstance(current, otel.ProxyTracerProvider | otel.NoOpTracerProvider):
        return None
    return current.get_tracer(semconv.SCOPE, own_version())


def serve(row: StepRow, trace_id: str) -> None:
    """The twin of a step that is served, marked as replayed, for those who listen."""
    listener = listening_tracer()
    if listener is not None:
        attributes = slim(row.attributes) | {semconv.MODE: "replay", semconv.TRACE_ID: trace_id}
        listener.start_span(row.name, kind=otel.SpanKind.CLIENT, attributes=attributes).end()


def start_root(name: str, trace_id: int, attributes: Mapping[str, Any]) -> otel.Span:
    """The span of a whole run, for those who listen. `trace_id` counts where the run is not part of a trace already."""
    token = _next_trace_id.set(trace_id)
    try:
        return (listening_tracer() or tracer()).start_span(name, attributes=attributes)
    finally:
        _next_trace_id.reset(token)


def slim(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes for telemetry: payloads replaced by their size and hash."""
    slimmed = {
        key: orjson.dumps(value).decode() if key in semconv.STRUCTURED else value
        for key, value in attributes.items()
        if key not in semconv.PAYLOAD
    }
    body = attributes.get(semconv.RESPONSE_BODY)
    if isinstance(body, str):
        encoded = body.encode()
        slimmed[semconv.RESPONSE_BYTES] = len(encoded)
        slimmed[semconv.RESPONSE_HASH] = blake2b(encoded, digest_size=16).hexdigest()
    return slimmed
