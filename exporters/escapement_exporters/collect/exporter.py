"""`OTEL_TRACES_EXPORTER=escapement`: the span store as the exporter of any OpenTelemetry program.

Spans go into an intake journal, as those do that `escapement collect` receives, and become traces when they are whole.
What a run of ours keeps by itself (its steps, and the spans that happened in it) is not taken a second time.
"""

from __future__ import annotations

import base64
import logging
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from escapement.engine import overheard
from escapement.store import sealing
from escapement.words.config import resolve
from escapement_exporters.collect.intake import Intake
from escapement_exporters.foreign import dialects
from escapement_exporters.foreign.decoding import Span

_log = logging.getLogger("escapement")


class StoreExporter(SpanExporter):
    """Writes spans into the span store. It never raises: what cannot be written is said in the log, once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        mine = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _unlock(mine()))
        self._intake: Intake | None = None
        self._pid = 0
        self._off = False
        self._complained = False
        try:
            self._settings = resolve()
        except Exception as error:
            self._complain(error)
            self._off = True
            return
        self._off = not self._settings.enabled
        overheard.keep_all()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Have them safe in the intake when this returns."""
        if self._off:
            return SpanExportResult.SUCCESS
        with self._lock:
            try:
                new = [converted for span in spans if (converted := _wanted(span)) is not None]
                if new:
                    self._open().accept(new)
                self._keep(all=False)
            except Exception as error:
                self._complain(error)
                return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Put what is whole into the store."""
        with self._lock:
            try:
                self._keep(all=False)
            except Exception as error:
                self._complain(error)
                return False
        return True

    def shutdown(self) -> None:
        """Put everything into the store: nothing more will come."""
        with self._lock:
            if self._off:
                return
            self._off = True
            try:
                self._keep(all=True)
                if self._intake is not None and self._pid == os.getpid():
                    self._intake.close()
                    if self._settings.sealing == "background":
                        sealing.start(self._settings.storage_dir)
            except Exception as error:
                self._complain(error)

    def _open(self) -> Intake:
        """The intake of this process: a child that was forked has one of its own."""
        if self._intake is None or self._pid != os.getpid():
            self._intake, self._pid = Intake(self._settings.storage_dir), os.getpid()
        return self._intake

    def _keep(self, *, all: bool) -> None:
        intake = self._intake
        if intake is None or self._pid != os.getpid():
            return
        while due := intake.due(all=all):
            taken = intake.take(due)
            if not intake.done(taken, intake.keep(taken)):
                return  # the store cannot be written now: it stays in the intake

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            _log.error("Escapement: spans are not written to the store: %s", error)


def _unlock(exporter: StoreExporter | None) -> None:
    """In a forked child: the thread that may have held the lock is not there."""
    if exporter is not None:
        exporter._lock = threading.RLock()


def _wanted(span: ReadableSpan) -> Span | None:
    """A span that no run of ours has, and that tells of no call which one has."""
    if overheard.is_taken(span):
        return None
    converted = _converted(span)
    return None if overheard.is_late(span) and dialects.read(converted) is not None else converted


def _converted(span: ReadableSpan) -> Span:
    context = span.get_span_context()
    assert context is not None
    return Span(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent=f"{span.parent.span_id:016x}" if span.parent is not None else "",
        name=span.name,
        kind=span.kind.name,
        start=span.start_time or 0,
        end=span.end_time or span.start_time or 0,
        attributes=_plain(span.attributes or {}),
        events=[_event(event) for event in span.events],
        status=span.status.status_code.name,
        description=span.status.description or "",
        scope=span.instrumentation_scope.name if span.instrumentation_scope is not None else "",
        resource=_plain(span.resource.attributes),
    )


def _event(event: Event) -> dict[str, Any]:
    return {"name": event.name, "time": event.timestamp, "attributes": _plain(event.attributes or {})}


def _plain(value: Any) -> Any:
    """A value of an attribute as OTLP/JSON would have it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
