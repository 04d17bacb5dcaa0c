"""Spans of others, overheard: what other instrumentation does during a run is written to its journal."""

from __future__ import annotations

import logging
from typing import Final, Protocol, cast

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from escapement.engine import lanes, redaction
from escapement.store.journal import Record

_log = logging.getLogger("escapement")

TWIN: Final = otel_context.create_key("escapement-twin")
"""Set in the context in which a span of ours is started for those who listen: it is in the journal already."""
_REMEMBERED: Final = 65_536


class Sink(Protocol):
    """Where records of spans go: a session."""

    @property
    def open(self) -> bool: ...

    @property
    def keeps_spans(self) -> bool: ...

    @property
    def root_context(self) -> Context:
        """Has the run's span as the current one, if it has one."""

    @property
    def writes(self) -> bool: ...

    def keep(self, *records: Record) -> bool: ...

    def lose(self) -> None: ...


class JournalProcessor(SpanProcessor):
    """Writes spans of other instrumentation to the journal of the run that they happen in.

    `asked`: the provider is the application's, and only runs that ask for its spans get them. A processor's exception
    would reach the program (OpenTelemetry calls processors unprotected): none leaves here.
    """

    def __init__(self, *, asked: bool = False) -> None:
        self._asked = asked
        self.over = False
        """Whether its provider was shut down, and may have another one in its place."""
        # Keyed by span id: what `on_end` is given is a snapshot, another object than `on_start` saw.
        self._started: dict[int, Sink] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            number = _context_of(span).span_id
            if otel_context.get_value(TWIN, parent_context):
                _taken.add(number)
                return
            scope = lanes.current()
            sink = cast(Sink, scope.run) if scope is not None else None
            if sink is not None and (not self._asked or wanted(sink)):
                self._started[number] = sink
                _taken.add(number)
        except Exception:
            _log.exception("Escapement could not take note of the start of a span")

    def on_end(self, span: ReadableSpan) -> None:
        try:
            number = _context_of(span).span_id
            sink = self._started.pop(number, None)
            # In a replay that writes nothing nothing has happened: what is said of it is nobody's to keep.
            if sink is None or not sink.writes or (sink.open and sink.keep(_record(span))):
                return
            _taken.discard(number)
            if not sink.open:
                _late.add(number)
        except Exception:
            _log.exception("Escapement could not take note of the end of a span")

    def shutdown(self) -> None:
        self.over = True


class _Recent(dict[int, None]):
    """The numbers that were added last."""

    def add(self, number: int) -> None:
        self[number] = None
        if len(self) > _REMEMBERED:
            del self[next(iter(self))]

    def discard(self, number: int) -> None:
        self.pop(number, None)


_taken: Final = _Recent()
_late: Final = _Recent()
_always = False


def keep_all() -> None:
    """Have every run keep the spans of the application's provider, as if it had asked for them."""
    global _always
    _always = True


def wanted(sink: Sink) -> bool:
    """Whether a run keeps the spans of the application's provider."""
    return _always or sink.keeps_spans


def is_taken(span: ReadableSpan) -> bool:
    """Whether a span is, or will be once it ends, a run's: in its journal, for a span of ours there, or of a replay."""
    return _context_of(span).span_id in _taken


def is_late(span: ReadableSpan) -> bool:
    """Whether a span began in a run and ended after it. If it tells of a call, that call is a step of the run."""
    return _context_of(span).span_id in _late


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
