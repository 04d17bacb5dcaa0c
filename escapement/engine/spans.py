"""OpenTelemetry, as far as the engine needs it: a provider of our own that drops nothing, and a processor that writes.

A recording must hold every span whole, so it does not go through the application's provider (whose sampler, limits
and queues drop things) but through one of ours: always on, without limits, with a processor that has written the
journal before it returns. The application's provider, where there is one, gets a slim copy of each span.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

import orjson
from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from escapement.engine import lanes
from escapement.store.journal import Record
from escapement.words import semconv

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.id_generator import IdGenerator

_log = logging.getLogger("escapement")
_UNLIMITED = SpanLimits(*[SpanLimits.UNSET] * 8)
_STEP_KEY = otel_context.create_key("escapement-step")
_next_trace_id: ContextVar[int] = ContextVar("escapement_next_trace_id", default=0)
_next_span_id: ContextVar[int] = ContextVar("escapement_next_span_id", default=0)


class Sink(Protocol):
    """Where records of finished and started spans go: a session."""

    @property
    def open(self) -> bool: ...

    def keep(self, *records: Record) -> bool: ...

    def lose(self) -> None: ...


class Step:
    """A step under way, handed to the processor in the context that its span starts in.

    `asked` and `answered` are the span's attributes, known when it starts and when it ends. They go to the journal this
    way, whole; on the span itself they would cost more than all the rest of it, and payloads have no business in
    telemetry. What else looks at the span finds the slim ones there.
    """

    __slots__ = ("answered", "asked", "pieces", "sink", "unwritten")

    def __init__(self, sink: Sink, asked: Mapping[str, Any], pieces: Mapping[str, Any]) -> None:
        self.sink = sink
        self.asked = asked
        self.pieces = pieces
        self.answered: Mapping[str, Any] = {}
        self.unwritten: Record | None = None


class JournalProcessor(SpanProcessor):
    """Writes spans of open runs to their journals, before the call that started or ended them goes on.

    A processor's exception would reach the program (OpenTelemetry calls processors unprotected): none leaves here.
    """

    def __init__(self) -> None:
        # Keyed by span id: what `on_end` is given is a snapshot, another object than `on_start` saw.
        self._started: dict[int, Step | Sink] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            step = parent_context.get(_STEP_KEY) if parent_context is not None else None
            if isinstance(step, Step):
                self._start_step(span, step)
                return
            scope = lanes.current()
            if scope is not None:
                # Another instrumentation's span, here because ours is the global provider.
                self._started[_context_of(span).span_id] = cast(Sink, scope.run)
        except Exception:
            _log.exception("Escapement could not take note of the start of a span")

    def on_end(self, span: ReadableSpan) -> None:
        try:
            started = self._started.pop(_context_of(span).span_id, None)
            if isinstance(started, Step):
                self._end_step(span, started)
            elif started is not None and started.open:
                started.keep(_record(span, _plain(span.attributes)) | _whole(span))
        except Exception:
            _log.exception("Escapement could not take note of the end of a span")

    def _start_step(self, span: Span, step: Step) -> None:
        context = _context_of(span)
        record = {
            "record": "start",
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
            "parent": f"{span.parent.span_id:016x}" if span.parent else "",
            "name": span.name,
            "start": span.start_time,
            "attributes": step.asked,
            "pieces": step.pieces,
        }
        if not step.sink.keep(record):
            step.unwritten = record  # once more, with the end
        self._started[context.span_id] = step

    def _end_step(self, span: ReadableSpan, step: Step) -> None:
        first = (step.unwritten,) if step.unwritten is not None else ()
        if not step.sink.keep(*first, _record(span, step.answered)):
            step.sink.lose()


def _record(span: ReadableSpan, attributes: Mapping[str, Any]) -> Record:
    """The record of the end of a span, with the attributes that its start did not have."""
    context = _context_of(span)
    record: Record = {
        "record": "span",
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "name": span.name,
        "end": span.end_time,
        "status": span.status.status_code.name,
        "attributes": attributes,
    }
    if span.status.description:
        record["description"] = span.status.description
    return record


def _whole(span: ReadableSpan) -> Record:
    """What the record of a span needs that had no record of its start."""
    return {
        "start": span.start_time,
        "parent": f"{span.parent.span_id:016x}" if span.parent else "",
        "kind": span.kind.name,
        "scope": span.instrumentation_scope.name if span.instrumentation_scope else "",
        "events": [
            {"name": event.name, "time": event.timestamp, "attributes": dict(event.attributes or {})}
            for event in span.events
        ],
    }


def _context_of(span: ReadableSpan) -> otel.SpanContext:
    return span.get_span_context() or otel.INVALID_SPAN_CONTEXT


def _plain(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Attributes as a dict. The SDK's mapping copies itself much faster than it can be walked."""
    if attributes is None:
        return {}
    copied: dict[str, Any] = attributes.copy() if isinstance(attributes, MappingProxyType) else dict(attributes)
    return copied


class _Ids(RandomIdGenerator):
    """Random ids, except where the next one is settled: a run's trace id, a span whose copy has its id already."""

    def generate_trace_id(self) -> int:
        settled = _next_trace_id.get()
        return settled or super().generate_trace_id()

    def generate_span_id(self) -> int:
        settled = _next_span_id.get()
        return settled or super().generate_span_id()


class Provider(TracerProvider):
    """Our provider: always on, without limits, and writing before a span's start or end returns."""

    def __init__(self) -> None:
        ids: IdGenerator = _Ids()
        super().__init__(sampler=ALWAYS_ON, span_limits=_UNLIMITED, shutdown_on_exit=False, id_generator=ids)
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


def application_tracer() -> otel.Tracer | None:
    """A tracer of the application's own provider; where it has none, ours becomes the global one (and this is None)."""
    current = otel.get_tracer_provider()
    if current is provider():
        return None
    if isinstance(current, otel.ProxyTracerProvider):
        if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() != "true":
            otel.set_tracer_provider(provider())
        return None
    if isinstance(current, otel.NoOpTracerProvider):
        return None
    return current.get_tracer(semconv.SCOPE, own_version())


def start_root(name: str, trace_id: int, attributes: Mapping[str, Any]) -> otel.Span:
    """The span of a whole run. `trace_id` is used where the run is not part of a trace already."""
    token = _next_trace_id.set(trace_id)
    try:
        return tracer().start_span(name, attributes=attributes)
    finally:
        _next_trace_id.reset(token)


def start_step(name: str, parent: Context, step: Step, start: int, twin: otel.Span | None) -> otel.Span:
    """The authoritative span of a step. `twin` is its slim copy in the application's trace: they share their ids."""
    context = otel_context.set_value(_STEP_KEY, step, parent)
    if twin is None:
        return tracer().start_span(name, context, otel.SpanKind.CLIENT, start_time=start)
    token = _next_span_id.set(twin.get_span_context().span_id)
    try:
        return tracer().start_span(name, context, otel.SpanKind.CLIENT, start_time=start)
    finally:
        _next_span_id.reset(token)


def end_step(span: otel.Span, step: Step, answered: Mapping[str, Any], end: int) -> None:
    """End a step's span: whole into the journal, slim for whoever else looks at it."""
    step.answered = answered
    if provider().heard:
        span.set_attributes(slim({**step.asked, **answered}))
    fail(span, answered)
    span.end(end)


def fail(span: otel.Span, answered: Mapping[str, Any]) -> None:
    """Set the status of a span whose operation failed."""
    if semconv.ERROR_TYPE in answered:
        span.set_status(otel.StatusCode.ERROR, answered.get(semconv.FAILURE_MESSAGE))


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
