"""The trace that a run writes: its journal, its header and end, its root span.

A run begins a trace of its own, or takes part in one that another process has begun. Then it writes no header and no
end, and makes its journal with the first record: many processes of a program have nothing to record.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel

from escapement.engine import callers, exporting, redaction, revision, spans, telemetry
from escapement.engine.family import Membership
from escapement.store import layout, sealing
from escapement.store.journal import Journal, Record
from escapement.store.rows import StepRow
from escapement.words import ids, semconv
from escapement.words.config import Settings
from escapement.words.errors import EscapementWarning, StoreError

_log = logging.getLogger("escapement")


class Recording:
    """The writing end of a run. `on_gap` is called when records are missing from what was written."""

    def __init__(self, settings: Settings, on_gap: Callable[[], None]) -> None:
        self._settings = settings
        self._on_gap = on_gap
        self._place = settings.storage_dir if isinstance(settings.storage_dir, str) else settings.storage_dir.absolute()
        self._lock = threading.RLock()
        self._journal: Journal | None = None
        self._due = False
        self._warned = False
        self._ends = False
        self._root: otel.Span | None = None
        self.outlets = exporting.outlets(settings)
        self.trace_id = ""
        self.otel_trace_id = ""
        self.span_id = ""
        self.context = otel_context.Context()
        """Has the run's span as the current one."""

    @property
    def begun(self) -> bool:
        """Whether there is a trace that is written."""
        return self.trace_id != ""

    @property
    def length(self) -> int:
        """Bytes in the journal that is written to."""
        return self._journal.length if self._journal is not None else 0

    def begin(
        self, name: str, tags: Sequence[str], metadata: Mapping[str, Any], mode: str, parent: str | None = None
    ) -> None:
        """Open a journal and the run's span, of a trace of its own. Raises StoreError."""
        name = redaction.scrub_text(name)
        otel_id = ids.new_otel_trace_id()
        trace_id = ids.trace_id_of(otel_id)
        self._journal = self._new_journal(self._settings.storage_dir, trace_id)
        attributes = {semconv.TRACE_ID: trace_id, semconv.TRACE_NAME: name, semconv.MODE: mode}
        self._root = spans.start_root(name or "escapement", otel_id, attributes)
        self._stand_below(self._root, trace_id)
        self._write_header(name, tags, metadata, mode, parent)

    def join(self, member: Membership) -> None:
        """Take part in a trace that another process begins and ends."""
        span = otel.SpanContext(
            int(member.otel_trace_id, 16), int(member.span_id, 16), True, otel.TraceFlags(otel.TraceFlags.SAMPLED)
        )
        self._due = True
        self._stand_below(otel.NonRecordingSpan(span), ids.trace_id_of(span.trace_id))

    def head(self, name: str, tags: Sequence[str], metadata: Mapping[str, Any], mode: str, parent: str | None) -> None:
        """Write the header of a trace that this process joined as the first."""
        self._write_header(redaction.scrub_text(name), tags, metadata, mode, parent)

    def _stand_below(self, span: otel.Span, trace_id: str) -> None:
        context = span.get_span_context()
        self.trace_id = trace_id
        self.otel_trace_id, self.span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        self.context = otel.set_span_in_context(span, otel_context.get_current())

    def _write_header(
        self, name: str, tags: Sequence[str], metadata: Mapping[str, Any], mode: str, parent: str | None
    ) -> None:
        self._ends = True
        self.keep(
            {
                "record": "trace",
                "format": layout.FORMAT,
                "trace": self.trace_id,
                "trace_id": self.otel_trace_id,
                "span_id": self.span_id,
                "name": name,
                "tags": redaction.scrub_value(tuple(tags)),
                "metadata": redaction.scrub_value(dict(metadata)),
                "mode": mode,
                "parent": parent,
                "time": time.time_ns(),
                "origin": {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "service": telemetry.service_name(),
                    "program": os.path.basename(sys.argv[0]) if sys.argv else "",
                    "python": platform.python_version(),
                    "escapement": telemetry.own_version(),
                    "commit": revision.of_program(),
                },
            }
        )

    def keep(self, *records: Record) -> bool:
        """Write records to the journal; False if they are not on disk."""
        if self.begun:
            self.tell(*records)
        journal = self._journal or (self._open_late() if self._due else None)
        if journal is None:
            return False
        if journal.write(*records):
            return True
        # What later bodies would be described by may be missing now: describe them from nothing.
        self._on_gap()
        return False

    def tell(self, *records: Record) -> None:
        """What exporters hear of: all that is written, and what else happens to the run."""
        for outlet in self.outlets:
            outlet.take(records)

    def serve(self, step: int, lane: str, row: StepRow) -> Record:
        """A step was served; the record of it."""
        record = served_record(step, lane, row)
        self.keep(record)
        for outlet in self.outlets:
            outlet.serve(row, record)
        return record

    def _open_late(self) -> Journal | None:
        with self._lock:
            if self._journal is None:
                try:
                    self._journal = self._new_journal(self._place, self.trace_id)
                except StoreError as error:
                    self.complain(str(error))
                    self._on_gap()
                    return None
                self._journal.write({"record": "joins", "trace": self.trace_id, "time": time.time_ns()})
            return self._journal

    def go_on(self) -> None:
        """Go on in a new journal, so that what is in the full one can be sealed while the run is under way."""
        full = self._journal
        if full is None:
            return
        try:
            self._journal = self._new_journal(self._place, self.trace_id)
        except StoreError:
            return  # no room for a new one: the old one still takes records
        full.write({"record": "continued", "time": time.time_ns()})
        full.close()
        self._on_gap()
        self.keep({"record": "continues" if self._ends else "joins", "trace": self.trace_id, "time": time.time_ns()})
        self._seal()

    def _new_journal(self, place: Path | str, trace_id: str) -> Journal:
        store = layout.create(place)
        return Journal(store, trace_id, fsync=self._settings.durability == "fsync", on_loss=self._lost)

    def _lost(self, error: OSError) -> None:
        self.complain(f"{self._settings.storage_dir} cannot be written ({error.strerror or error})")

    def complain(self, reason: str) -> None:
        """Say once that the trace will have holes."""
        if not self._warned:
            self._warned = True
            warn(
                f"the recording {self.trace_id} is INCOMPLETE: {reason}. "
                "The program goes on; steps are lost until there is room again."
            )

    def write_end(self, status: str, error: str | None, lost: int) -> None:
        """How the run ended, where that is this process's to say."""
        if self._ends:
            self.keep(end_record(status, error, lost))

    def close(self, status: str, error: str | None, lost: int) -> None:
        """The run is over."""
        self._close(status, error, lost)
        for outlet in self.outlets:
            outlet.close(status, error)

    def _close(self, status: str, error: str | None, lost: int) -> None:
        if self._root is not None:
            self._root.set_attribute(semconv.TRACE_STATUS, status)
            if status != "completed":
                self._root.set_status(otel.StatusCode.ERROR, error)
            self._root.end()
        if not self.begun:
            return
        self.write_end(status, error, lost)
        self._due = False
        if self._journal is not None:
            self._journal.close()
            self._seal()
        if lost:
            warn(f"the recording {self.trace_id} is incomplete: {lost} steps could not be written")

    def _seal(self) -> None:
        """Have what is finished moved into the tables, if there is enough of it; never here, and never waited for."""
        if self._settings.sealing == "background":
            sealing.start(self._settings.storage_dir)

    def after_fork(self) -> None:
        """In a child process: write to a journal of its own, so that each has one writer."""
        self._lock = threading.RLock()
        for outlet in self.outlets:
            outlet.after_fork()
        self._root = None
        self._ends = False
        self._due = self.begun
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def served_record(step: int, lane: str, row: StepRow) -> Record:
    """A step that was served: its answer is in another trace."""
    # A step that the source itself was served names where it really is, so that chains stay short.
    source, number = row.source if row.source is not None else (row.trace_id, row.step)
    return {
        "record": "served",
        "step": step,
        "lane": lane,
        "source": source,
        "source_step": number,
        "time": time.time_ns(),
    }


def end_record(status: str, error: str | None, lost: int = 0) -> Record:
    """The last record of a trace."""
    return {"record": "end", "status": status, "error": error, "time": time.time_ns(), "lost": lost}


def warn(message: str) -> None:
    """Say something loudly, at the user's line. Where warnings are errors it is logged: ours never stop the program."""
    file, line = callers.user_frame() or (__file__, 0)
    try:
        warnings.warn_explicit(f"Escapement: {message}", EscapementWarning, file, line)
    except EscapementWarning as warning:
        _log.warning("%s", warning)
