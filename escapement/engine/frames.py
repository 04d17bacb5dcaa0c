"""Frames: what calls are made within. A chain, an agent, a tool or a retriever is a span around the steps of a run.

A framework's own events say when a frame begins and ends, and in which it lies; they may come in other tasks than the
work itself. So where we are is remembered by value, and a frame that has ended does not count, whoever still has it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.context import Context

from escapement.engine import redaction, spans
from escapement.engine.overheard import Sink
from escapement.words import semconv

_current: ContextVar[Frame | None] = ContextVar("escapement_frame", default=None)


class Frame:
    """A span that is no step, from now on until `end`. It lies in `above`, or (None) where the program is in its trace:
    `root` where it is nowhere."""

    __slots__ = ("_attributes", "_beside", "_name", "_parent", "_sink", "_start", "_twin", "above", "context", "ended")
    context: Context

    def __init__(
        self, sink: Sink, root: Context, name: str, attributes: Mapping[str, Any], above: Frame | None
    ) -> None:
        self._sink = sink
        self._name = redaction.scrub_text(name)
        self._attributes = redaction.scrub_value(attributes)
        self._start = time.time_ns()
        self._beside = otel.get_current_span()
        self.above = above
        self._parent = above.context if above is not None else parent(sink, root)
        own, self._twin = spans.begin(self._name, self._parent, otel.SpanKind.INTERNAL, self._attributes, self._start)
        self.context = otel.set_span_in_context(self._twin or otel.NonRecordingSpan(own), self._parent)
        self.ended = False

    def enter(self) -> None:
        """Calls that are made here from now on lie in it."""
        _current.set(self)

    def end(self, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
        """It is done, or failed with `error`. Only the first time counts."""
        if self.ended:
            return
        self.ended = True
        end = time.time_ns()
        found = self._attributes | redaction.scrub_value(attributes)
        message = redaction.scrub_text(str(error)) if error is not None else None
        if error is not None:
            found[semconv.ERROR_TYPE] = type(error).__qualname__
        own = otel.get_current_span(self.context).get_span_context()
        self._sink.keep(
            {
                "record": "span",
                "trace_id": f"{own.trace_id:032x}",
                "span_id": f"{own.span_id:016x}",
                "parent": f"{otel.get_current_span(self._parent).get_span_context().span_id:016x}",
                "name": self._name,
                "kind": "INTERNAL",
                "scope": semconv.SCOPE,
                "start": self._start,
                "end": end,
                "status": "UNSET" if error is None else "ERROR",
                "description": message,
                "attributes": found,
                "events": [],
            }
        )
        if self._twin is not None:
            self._twin.set_attributes(spans.slim(found))
            if error is not None:
                self._twin.set_status(otel.StatusCode.ERROR, message)
            self._twin.end(end)

    def is_around(self, sink: Sink) -> bool:
        """Whether a call of this run lies in it here: it goes on, and the program has not begun a span inside it."""
        return not self.ended and self._sink is sink and otel.get_current_span() is self._beside


def parent(sink: Sink, root: Context) -> Context:
    """What a span that begins here lies in: the innermost frame, else the program's own span, else `root`."""
    frame = _current.get()
    while frame is not None and frame.ended:
        frame = frame.above
    if frame is not None and frame.is_around(sink):
        return frame.context
    here = otel_context.get_current()
    return here if otel.get_current_span(here).get_span_context().is_valid else root
