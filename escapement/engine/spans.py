"""Spans of ours, which lose nothing, and their twins for those who listen.

A recording must hold every span whole, so it goes through no provider whose sampler, limits and queues drop things.
The application's provider, where there is one, gets a slim twin of each span.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson
from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.context import Context

from escapement.engine import overheard, telemetry
from escapement.engine.overheard import TWIN, Sink
from escapement.store.rows import StepRow
from escapement.words import semconv

_SAMPLED = otel.TraceFlags(otel.TraceFlags.SAMPLED)
_COUNTED = ((semconv.TOOLS_CALLED, semconv.TOOL_CALLS), (semconv.TOOLS_FAILED, semconv.TOOL_FAILURES))
"""Lists whose length is told, too: those who add up spans cannot look into them."""


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
        if overheard.wanted(sink):
            telemetry.overhear()  # a provider that came after the run began
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
    listener = telemetry.listening_tracer()
    if listener is None:
        above = otel.get_current_span(parent).get_span_context()
        return otel.SpanContext(above.trace_id, telemetry.IDS.generate_span_id(), False, _SAMPLED), None
    marked = otel_context.set_value(TWIN, True, parent)
    twin = listener.start_span(name, marked, kind, slim(attributes), start_time=start)
    return twin.get_span_context(), twin


def serve(row: StepRow, trace_id: str) -> None:
    """The twin of a step that is served, marked as replayed, for those who listen."""
    listener = telemetry.listening_tracer()
    if listener is not None:
        attributes = slim(row.attributes) | {semconv.MODE: "replay", semconv.TRACE_ID: trace_id}
        marked = otel_context.set_value(TWIN, True)
        listener.start_span(row.name, marked, otel.SpanKind.CLIENT, attributes).end()


def start_root(name: str, trace_id: int, attributes: Mapping[str, Any]) -> otel.Span:
    """The span of a whole run, for those who listen. `trace_id` counts where the run is not part of a trace already."""
    with telemetry.settled(trace_id):
        tracer = telemetry.listening_tracer() or telemetry.tracer()
        return tracer.start_span(name, otel_context.set_value(TWIN, True), attributes=attributes)


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
    for names, count in _COUNTED:
        if names in attributes:
            slimmed[count] = len(attributes[names])
    return slimmed
