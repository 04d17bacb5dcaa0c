"""A session: one run under way, in one of three modes.

    record   every call goes live and is kept
    replay   every call is answered from a trace; nothing is written
    fork     calls go live and are kept, behind the replayed part of another trace

A replay becomes a fork by `fork()`, or (unless strict) by the first request that its trace does not know. Ports ask a
session about every request to a model API; it answers with a recorded step to serve, a live exchange, or an exception.
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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel

from escapement.engine import divergence, frames, redaction, spans, usage
from escapement.engine.calls import Call, Exchange
from escapement.engine.fingerprint import exact, fingerprint
from escapement.engine.guards import Guards
from escapement.engine.lanes import Scope
from escapement.engine.matching import Matcher
from escapement.engine.spans import StepSpan
from escapement.engine.trace import Trace
from escapement.providers import Operation, request_attributes
from escapement.store import layout, sealing
from escapement.store.journal import Journal, Record
from escapement.store.pieces import Body, Splitter, as_json
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.words import ids, semconv
from escapement.words.config import Settings
from escapement.words.errors import (
    ConfigError,
    EscapementError,
    EscapementWarning,
    GuardError,
    StoreError,
)
from escapement.words.http import Request

_log = logging.getLogger("escapement")
_SEGMENT = 16_000_000  # bytes of a journal after which a run goes on in the next


class Session:
    """One run. Thread-safe: calls of one run may come from anywhere."""

    def __init__(
        self,
        settings: Settings,
        *,
        name: str = "",
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        source: TraceRow | None = None,
        adopt: Callable[[], object] = lambda: None,
    ) -> None:
        # `adopt` brings the source into the store, for a run that goes on from it.
        self.settings = settings
        self.redacts = settings.redact
        self.name = name
        self.tags = tuple(tags)
        self.metadata = dict(metadata or {})
        self.trace = Trace(self, name, self.tags, self.metadata)
        self.open = True
        self.mode = "record" if source is None else "replay"
        self.status = "running"
        self.error: str | None = None
        self.source = source
        self._adopt = adopt
        self.hits = 0
        self.misses = 0
        self.steps = 0
        self.lost = 0
        prices = Prices.of(settings)
        self.ledger = usage.Ledger(prices)
        """What live calls used; what was served cost nothing."""
        self.scope = Scope(self)
        self.process_id = os.getpid()
        # Reentrant: the garbage collector may end a forgotten stream of this very run while we are at work.
        self._lock = threading.RLock()
        self._live: set[Exchange] = set()
        self._flying: Counter[str] = Counter()
        self._in_flight = 0
        self._last_end: dict[str, int] = {}
        self._splitter = Splitter(redaction.scrub if settings.redact else None)
        self._matcher = Matcher(source.steps) if source is not None else None
        self._served: list[tuple[int, str, StepRow]] = []
        self._journal: Journal | None = None
        self._latched: GuardError | None = None
        self._warned = False
        self._guards = Guards(settings, prices, _warn, source)
        spans.become_global()
        self._root: otel.Span | None = None
        self.root_context = otel_context.Context()
        if source is None:
            self.trace_id = self._begin()
        else:
            self.trace_id = source.trace_id

    # -- calls ---------------------------------------------------------------------------------------------------

    def enter(self, call: Call, scope: Scope, request: Request, operation: Operation) -> StepRow | Exchange:
        """What to do with a request: serve this step, or send it and tell this exchange.

        Raises GuardError when the run is (or is now) killed, ReplayDivergenceError for a miss in strict replay.
        """
        if self._latched is not None:
            raise type(self._latched)(str(self._latched), trace_id=self._latched.trace_id)
        if call.session is self:
            return self._exchange(call)  # the SDK tries again
        lane = scope.lane
        request = redaction.address(request)
        with self._lock:
            step = self.steps + 1
            bytes_ = exact(request)
            print_ = self._matcher.fingerprint_of(bytes_) if self._matcher is not None else None
            body = None
            if print_ is None:
                print_, body = fingerprint(request, self._splitter, lane)
            row = self._matcher.take(lane, print_) if self._matcher is not None else None
            if row is None and body is None:
                body = self._splitter.split(request.body, lane)
            beside = self._is_beside(print_, row)
            verdict = self._guards.asked(step, lane, print_, request.path, operation, body, row, beside, self.trace_id)
            if verdict is not None:
                raise self._kill(verdict)
            self.steps = step
            if row is not None:
                self._serve(step, lane, row)
                return row
            assert body is not None
            if self._matcher is not None:
                self._miss(print_, request, operation, lane, step, body)
            start = time.time_ns()
            attributes = self._describe(request, operation, lane, step, print_, body)
            if bytes_ and not body.secrets:  # a hash of a short secret could be guessed
                attributes[semconv.EXACT] = bytes_
            delta, new = self._splitter.describe(body, lane, step)
            self._flying[print_] += 1
            self._in_flight += 1
        attributes[semconv.REQUEST_BODY] = delta
        self._open(call, operation, attributes, new, start)
        return self._exchange(call)

    def _is_beside(self, print_: str, row: StepRow | None) -> bool:
        """Whether the same request is under way already: now, or in the recording that is replayed."""
        if row is None:
            return self._flying[print_] > 0
        last = self._last_end.get(print_, 0)
        self._last_end[print_] = max(last, row.end or 0)
        return row.start < last

    def comes_before(self, row: StepRow) -> StepRow | None:
        """A step that was answered before this one in the recording, and has not been answered yet in the replay."""
        return self._matcher.comes_before(row) if self._matcher is not None else None

    def hand_out(self, row: StepRow) -> None:
        """The answer goes to the program now. For a step that the program does not come to: it does not wait for it."""
        if self._matcher is not None:
            self._matcher.hand_out(row)

    def _exchange(self, call: Call) -> Exchange:
        exchange = call.exchange()
        self._live.add(exchange)
        return exchange

    def _describe(
        self, request: Request, operation: Operation, lane: str, step: int, print_: str, body: Body
    ) -> dict[str, Any]:
        fields = {name: value for name, (_, value) in body.fields.items()} if body.parsed else {}
        attributes = request_attributes(operation, request, fields)
        attributes |= {
            semconv.OPERATION_NAME: redaction.name(operation.name),
            semconv.SERVER_ADDRESS: redaction.name(request.origin.host),
            semconv.TRACE_ID: self.trace_id,
            semconv.STEP: step,
            semconv.LANE: lane,
            semconv.MODE: self.mode,
            semconv.FINGERPRINT: print_,
            semconv.METHOD: request.method,
            semconv.PATH: request.path,
            semconv.REQUEST_HEADERS: redaction.request_headers(request.headers),
            semconv.REQUEST_BYTES: len(request.body),
        }
        if request.query:
            attributes[semconv.QUERY] = request.query
        return attributes

    def _open(
        self, call: Call, operation: Operation, attributes: dict[str, Any], new: Mapping[str, bytes], start: int
    ) -> None:
        pieces = {name: as_json(piece) for name, piece in new.items()}
        parent = frames.parent(self, self.root_context)
        call.open(self, operation, StepSpan(self, _title(attributes), parent, attributes, pieces, start))

    def _serve(self, step: int, lane: str, row: StepRow) -> None:
        self.hits += 1
        self._served.append((step, lane, row))
        if self._journal is not None:
            self.keep(self._served_record(step, lane, row))
        listener = spans.listening_tracer()
        if listener is not None:
            attributes = spans.slim(row.attributes) | {semconv.MODE: "replay", semconv.TRACE_ID: self.trace_id}
            listener.start_span(row.name, kind=otel.SpanKind.CLIENT, attributes=attributes).end()

    def _miss(self, print_: str, request: Request, operation: Operation, lane: str, step: int, body: Body) -> None:
        """A request that the trace does not know: an error in strict replay, else a fork."""
        assert self.source is not None
        assert self._matcher is not None
        self.misses += 1
        scrubbed = redaction.scrub(request.body) if self.redacts else request.body
        model = operation.model or body.fields.get("model", (0, ""))[1]
        error = divergence.explain(
            trace=self.source,
            matcher=self._matcher,
            fingerprint=print_,
            request=scrubbed,
            title=f"{operation.name} {model}".strip(),
            lane=lane,
            step=step,
        )
        if self.settings.strict_replay:
            raise error
        first = self._journal is None
        if first:
            self._fork()
        where = (
            f"from here on a new trace, {self.trace_id}, keeps what happens" if first else f"kept in {self.trace_id}"
        )
        _warn(f"a replayed program asked for something new, and it goes live ({where}):\n{error}")

    def ended(self, exchange: Exchange) -> None:
        self._live.discard(exchange)

    def finished(
        self, asked: Mapping[str, Any], answered: Mapping[str, Any], operation: Operation, document: Mapping[str, Any]
    ) -> None:
        """A live call has ended and is written; `document` is its answer as JSON, empty where it is none."""
        with self._lock:
            self._flying[asked[semconv.FINGERPRINT]] -= 1
            self._in_flight -= 1
            began = time.time_ns() - answered.get(semconv.RESPONSE_ELAPSED, 0)
            if 0 < answered.get(semconv.STATUS, 0) < 400:
                self.ledger.add(asked, answered, began)
            self._guards.answered(asked, answered, operation, document, began)
            if self._journal is not None and self._journal.length >= _SEGMENT and not self._in_flight:
                self._go_on(self._journal)

    # -- going live ----------------------------------------------------------------------------------------------

    def fork(self) -> None:
        """Answer nothing more from the trace. Raises ConfigError if the session does not replay one."""
        if self._matcher is None or not self.open:
            raise ConfigError(
                "fork() goes live out of a replay, and none is running here: call escapement.replay(trace) first"
            )
        with self._lock:
            if self._journal is None:
                self._fork()
            self._matcher = None

    def _fork(self) -> None:
        assert self.source is not None
        self.mode = "fork"
        try:
            self._adopt()
        except EscapementError as error:
            _warn(f"the trace that is replayed cannot be taken into the store: its steps will read as gone ({error})")
        self.trace_id = self._begin()
        self.keep(*[self._served_record(*served) for served in self._served])

    def _served_record(self, step: int, lane: str, row: StepRow) -> Record:
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

    # -- the journal ---------------------------------------------------------------------------------------------

    def _begin(self) -> str:
        """Open a journal and the run's span; the new trace's id. Raises StoreError."""
        name = redaction.scrub_text(self.name)
        otel_id = ids.new_otel_trace_id()
        trace_id = ids.trace_id_of(otel_id)
        self._journal = self._new_journal(trace_id)
        attributes = {semconv.TRACE_ID: trace_id, semconv.TRACE_NAME: name, semconv.MODE: self.mode}
        self._root = spans.start_root(name or "escapement", otel_id, attributes)
        self.root_context = otel.set_span_in_context(self._root, otel_context.get_current())
        self.keep(
            {
                "record": "trace",
                "format": layout.FORMAT,
                "trace": trace_id,
                "trace_id": f"{self._root.get_span_context().trace_id:032x}",
                "span_id": f"{self._root.get_span_context().span_id:016x}",
                "name": name,
                "tags": redaction.scrub_value(self.tags),
                "metadata": redaction.scrub_value(self.metadata),
                "mode": self.mode,
                "parent": self.source.trace_id if self.source is not None else None,
                "time": time.time_ns(),
                "origin": {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "service": spans.service_name(),
                    "program": os.path.basename(sys.argv[0]) if sys.argv else "",
                    "python": platform.python_version(),
                    "escapement": spans.own_version(),
                },
            }
        )
        return trace_id

    def keep(self, *records: Record) -> bool:
        """Write records to the journal; False if they are not on disk."""
        if self._journal is None:
            return False
        if self._journal.write(*records):
            return True
        # What later bodies would be described by may be missing now: describe them from nothing.
        self._splitter.reset()
        return False

    def _go_on(self, full: Journal) -> None:
        """Go on in a new journal, so that what is in the full one can be sealed while the run is under way."""
        try:
            self._journal = self._new_journal(self.trace_id)
        except StoreError:
            return  # no room for a new one: the old one still takes records
        full.write({"record": "continued", "time": time.time_ns()})
        full.close()
        self._splitter.reset()
        self.keep({"record": "continues", "trace": self.trace_id, "time": time.time_ns()})
        self._seal()

    def _new_journal(self, trace_id: str) -> Journal:
        store = layout.create(self.settings.storage_dir)
        return Journal(store, trace_id, fsync=self.settings.durability == "fsync", on_loss=self._complain)

    def _seal(self) -> None:
        """Have what is finished moved into the tables, if there is enough of it; never here, and never waited for."""
        if self.settings.sealing == "background":
            sealing.start(self.settings.storage_dir)

    def lose(self) -> None:
        """A step could not be written."""
        self.lost += 1

    def _complain(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _warn(
                f"the recording {self.trace_id} is INCOMPLETE: {self.settings.storage_dir} cannot be written "
                f"({error.strerror or error}). The program goes on; steps are lost until there is room again."
            )

    # -- the end -------------------------------------------------------------------------------------------------

    def _kill(self, error: GuardError) -> GuardError:
        """Latch the run: it is saved as killed, and every later call of it is refused."""
        self._latched = error
        self.status, self.error = "killed", str(error)
        self._write_end()
        return error

    def _write_end(self) -> None:
        if self._journal is None:
            return
        record = {
            "record": "end",
            "status": self.status,
            "error": self.error,
            "time": time.time_ns(),
            "lost": self.lost,
        }
        self.keep(record)

    def close(self, error: BaseException | None = None) -> None:
        """End the run: completed, or failed with `error`. Safe to call twice."""
        with self._lock:
            if not self.open:
                return
            for exchange in list(self._live):
                exchange.abandon()  # a stream that is still being read: keep what has arrived
            if self.status == "running":
                self.status = "completed" if error is None else "failed"
                if error is not None:
                    self.error = _describe_error(error)
            if self._root is not None:
                if self.status != "completed":
                    self._root.set_status(otel.StatusCode.ERROR, self.error)
                self._root.end()
            self.open = False
        if self._journal is not None:
            self._write_end()
            self._journal.close()
            self._seal()
            if self.lost:
                _warn(f"the recording {self.trace_id} is incomplete: {self.lost} steps could not be written")

    def after_fork(self) -> None:
        """In a child process: write to a journal of its own, so that each has one writer."""
        self._lock = threading.RLock()
        self._live = set()
        if self._journal is not None:
            self._journal.close()
            self._splitter.reset()
            self._in_flight = 0
            self._journal = self._new_journal(self.trace_id)

    @property
    def remaining(self) -> int:
        """Recorded steps that the replay has not come to."""
        return self._matcher.total - self._matcher.served if self._matcher is not None else 0


def _title(attributes: Mapping[str, Any]) -> str:
    return f"{attributes[semconv.OPERATION_NAME]} {attributes.get(semconv.REQUEST_MODEL, '')}".strip()


def _describe_error(error: BaseException) -> str:
    return redaction.scrub_text(f"{type(error).__name__}: {error}")[:2000]


def _warn(message: str) -> None:
    """Say something loudly, at the user's line. Where warnings are errors it is logged: ours never stop the program."""
    file, line = divergence.user_frame() or (__file__, 0)
    try:
        warnings.warn_explicit(f"Escapement: {message}", EscapementWarning, file, line)
    except EscapementWarning as warning:
        _log.warning("%s", warning)
