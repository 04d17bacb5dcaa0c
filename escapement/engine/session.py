"""A session: one run under way, in one of three modes.

    record   every call goes live and is kept
    replay   every call is answered from a trace; nothing is written
    fork     calls go live and are kept, behind the replayed part of another trace

A replay becomes a fork by `fork()`, or (unless strict) by the first request that its trace does not know. Ports ask a
session about every request to a model API; it answers with a recorded step to serve, a live exchange, or an exception.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.context import Context

from escapement.engine import endings, frames, overheard, redaction, spans, telemetry, usage
from escapement.engine.answering import Answering
from escapement.engine.calls import Call, Exchange, request_span
from escapement.engine.family import Family, Membership
from escapement.engine.fingerprint import exact, fingerprint
from escapement.engine.guards import Guards
from escapement.engine.lanes import Scope
from escapement.engine.normalising import Normalising
from escapement.engine.recording import Recording, served_record, warn
from escapement.engine.sources import Source
from escapement.engine.spans import StepSpan
from escapement.engine.trace import Trace
from escapement.providers import Operation
from escapement.store.journal import Record
from escapement.store.pieces import Body, Splitter, as_json
from escapement.store.prices import Prices
from escapement.store.rows import StepRow
from escapement.words import semconv
from escapement.words.config import Settings
from escapement.words.errors import (
    ConfigError,
    EscapementError,
    GuardError,
)
from escapement.words.http import Request

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
        source: Source | None = None,
        member: Membership | None = None,
        family: Family | None = None,
    ) -> None:
        # A `member` takes part in a run that another process began.
        self.settings = settings
        self.redacts = settings.redact
        self.pace = settings.pace
        self.keeps_spans = settings.keep_spans
        """Whether the spans of the application's own provider are in the trace, too."""
        self.name = name
        self.tags = tuple(tags)
        self.metadata = dict(metadata or {})
        self.trace = Trace(self, name, self.tags, self.metadata)
        self.open = True
        self.mode = "record" if source is None else "replay"
        self.status = "running"
        self.error: str | None = None
        self.source = source.row if source is not None else None
        self.member = member
        self.family = family
        """What is shared with other processes, once there are any."""
        self.joined = 0
        """How many `init()` of the program found this run open already."""
        self.hits = self.misses = 0
        self.steps = 0
        self.lost = 0
        prices = Prices.of(settings)
        self.ledger = usage.Ledger(prices)
        """What live calls used; what was served cost nothing."""
        self.deferred = usage.Deferred()
        self.scope = Scope(self, member.lane) if member is not None else Scope(self)
        self.process_id = os.getpid()
        # Reentrant: the garbage collector may end a forgotten stream of this very run while we are at work.
        self._lock = threading.RLock()
        self._live: set[Exchange] = set()
        self._in_flight = 0
        self._splitter = Splitter(redaction.scrub if settings.redact else None)
        self._normalising = Normalising(settings.normalize, settings.ignore, source.rebuilt if source else frozenset())
        self._answers = Answering(source, settings, self._normalising) if source is not None else None
        self._recording = Recording(settings, self._splitter.reset)
        self.outlets = self._recording.outlets
        self._latched: GuardError | None = None
        self._guards = Guards(settings, prices, warn, self.source)
        if family is not None:
            self._guards.join(family.folder)
        telemetry.stand_in()
        if overheard.wanted(self):
            telemetry.overhear()
        if source is None:
            self._begin()
        elif member is not None and member.live:
            self.mode = "fork"
            self._begin()

    @property
    def root_context(self) -> Context:
        """Has the run's span as the current one."""
        return self._recording.context

    @property
    def writes(self) -> bool:
        """Whether there is a trace that is written. A replay has one from when it goes live."""
        return self._recording.begun

    @property
    def trace_id(self) -> str:
        """The trace that is written or, while none is, the one that is replayed."""
        return self._recording.trace_id or (self.source.trace_id if self.source is not None else "")

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
            step = self._number()
            bytes_ = exact(request)
            answers = self._answers
            print_ = answers.fingerprint_of(bytes_) if answers is not None else None
            body = None
            if print_ is None:
                print_, body = fingerprint(request, self._splitter, lane, self._normalising)
            row = answers.take(lane, print_) if answers is not None else None
            if row is None and body is None:
                body = self._splitter.split(request.body, lane)
            error = self._guards.asked(step, lane, print_, request, operation, body, row, self.trace_id)
            if error is not None:
                raise self._kill(error)
            self.steps += 1
            if row is not None:
                self._serve(step, lane, row)
                return row
            assert body is not None
            differs = ""
            if answers is not None and not answers.over:
                differs = self._go_live(answers, print_, request, operation, lane, step, body)
            self._guards.sent(print_)
            start = time.time_ns()
            attributes = request_span(operation, request, body)
            attributes[semconv.TRACE_ID] = self.trace_id
            attributes[semconv.STEP] = step
            attributes[semconv.LANE] = lane
            attributes[semconv.MODE] = self.mode
            attributes[semconv.FINGERPRINT] = print_
            if differs:
                attributes[semconv.DIVERGENCE] = differs
            if self._guards.failing:
                attributes[semconv.TOOLS_FAILED] = [redaction.name(tool) for tool in self._guards.failing]
            if bytes_ and not body.secrets:  # a hash of a short secret could be guessed
                attributes[semconv.EXACT] = bytes_
            delta, new = self._splitter.describe(body, lane, step)
            self._in_flight += 1
        attributes[semconv.REQUEST_BODY] = delta
        self._open(call, operation, attributes, new, start)
        return self._exchange(call)

    def _number(self) -> int:
        """The number of the step that is next, among those of all processes of the run."""
        if self.family is None:
            return self.steps + 1
        try:
            return self.family.number()
        except OSError as error:
            self._recording.complain(f"steps have no numbers of their own ({error.strerror or error})")
            return self.steps + 1

    def comes_before(self, row: StepRow) -> StepRow | None:
        """A step that was answered before this one in the recording, and has not been answered yet in the replay."""
        return self._answers.comes_before(row) if self._answers is not None else None

    def hand_out(self, row: StepRow) -> None:
        """The answer goes to the program now. For a step that the program does not come to: it does not wait for it."""
        if self._answers is not None:
            self._answers.hand_out(row)

    def _exchange(self, call: Call) -> Exchange:
        exchange = call.exchange()
        self._live.add(exchange)
        return exchange

    def _open(
        self, call: Call, operation: Operation, attributes: dict[str, Any], new: Mapping[str, bytes], start: int
    ) -> None:
        pieces = {name: as_json(piece) for name, piece in new.items()}
        parent = frames.parent(self, self.root_context)
        call.open(self, operation, StepSpan(self, _title(attributes), parent, attributes, pieces, start))

    def _serve(self, step: int, lane: str, row: StepRow) -> None:
        assert self._answers is not None
        self.hits += 1
        if row.step in self._answers.edited:
            self._write_edited(self._answers, step, lane, row)
            return
        self._answers.served.append((step, lane, row))
        self._report(self._recording.serve(step, lane, row))
        spans.serve(row, self.trace_id)

    def _write_edited(self, answers: Answering, step: int, lane: str, row: StepRow) -> None:
        """The answer is in no other trace, so it is kept whole, with the request that it was recorded for."""
        assert self.source is not None
        if not self._recording.begun:
            self._fork()
        answers.expected = not answers.strict
        delta, new = self._splitter.describe(self._splitter.split(self.source.request_body(row), lane), lane, step)
        recorded = {name: value for name, value in row.attributes.items() if not semconv.is_of_answer(name)}
        recorded.pop(semconv.DIVERGENCE, None)
        asked = recorded | {
            semconv.TRACE_ID: self.trace_id,
            semconv.STEP: step,
            semconv.LANE: lane,
            semconv.MODE: self.mode,
            semconv.REQUEST_BODY: delta,
        }
        pieces = {name: as_json(piece) for name, piece in new.items()}
        now = time.time_ns()
        span = StepSpan(self, row.name, frames.parent(self, self.root_context), asked, pieces, now)
        span.end({name: row.attributes[name] for name in row.attributes if semconv.is_of_answer(name)}, now)

    def take_over(self, last: int) -> None:
        """Have the new trace keep the steps up to `last`, without a program that asks for them."""
        assert self.source is not None
        with self._lock:
            self._fork()
            for row in self.source.steps:
                if row.step <= last:
                    self.steps = row.step
                    self._serve(row.step, row.lane, row)

    def _go_live(
        self, answers: Answering, print_: str, request: Request, operation: Operation, lane: str, step: int, body: Body
    ) -> str:
        """A request that no step answers: it was to go live, or it is a miss; why. An error in strict replay."""
        if answers.is_to_go_live(print_, step, self._recording.begun):
            if not self._recording.begun:
                self._fork()
            return ""
        self.misses += 1
        error = answers.miss(print_, request, operation, lane, step, body)
        self._report({"record": "miss", "divergence": error.as_dict()})
        if answers.raises:
            raise error
        first = not self._recording.begun
        if first:
            self._fork()
        where = (
            f"from here on a new trace, {self.trace_id}, keeps what happens" if first else f"kept in {self.trace_id}"
        )
        warn(f"a replayed program asked for something new, and it goes live ({where}):\n{error}")
        if answers.leaves:
            answers.stop()
        return error.kind or error.reason

    def ended(self, exchange: Exchange) -> None:
        self._live.discard(exchange)

    def finished(
        self, asked: Mapping[str, Any], answered: Mapping[str, Any], operation: Operation, document: Mapping[str, Any]
    ) -> None:
        """A live call has ended and is written; `document` is its answer as JSON, empty where it is none."""
        with self._lock:
            self._in_flight -= 1
            began = time.time_ns() - answered.get(semconv.RESPONSE_ELAPSED, 0)
            use = usage.use_of(asked, answered, began)
            if 0 < answered.get(semconv.STATUS, 0) < 400:
                self.ledger.count(use)
            self._guards.answered(asked, answered, operation, document, use)
            if self._recording.length >= _SEGMENT and not self._in_flight:
                self._recording.go_on()

    # -- going live ----------------------------------------------------------------------------------------------

    def fork(self) -> None:
        """Answer nothing more from the trace. Raises ConfigError if the session does not replay one."""
        if self._answers is None or self._answers.over or not self.open:
            raise ConfigError(
                "fork() goes live out of a replay, and none is running here: call escapement.replay(trace) first"
            )
        with self._lock:
            if not self._recording.begun:
                self._fork()
            self._answers.stop()

    def _fork(self) -> None:
        assert self._answers is not None
        self.mode = "fork"
        try:
            self._answers.adopt()
        except EscapementError as error:
            warn(f"the trace that is replayed cannot be taken into the store: its steps will read as gone ({error})")
        self._begin()
        self._report({"record": "live"})
        self.keep(*[served_record(*served) for served in self._answers.served])

    # -- the trace that is written -------------------------------------------------------------------------------

    def _begin(self) -> None:
        """From here on there is a trace that is written. Raises StoreError."""
        parent = self.source.trace_id if self.source is not None else None
        if self.member is None or not self.member.otel_trace_id:
            self._recording.begin(self.name, self.tags, self.metadata, self.mode, parent)
            return
        self._recording.join(self.member)
        if self.mode == "fork" and self.family is not None and self.family.first("live"):
            self._recording.head(self.name, self.tags, self.metadata, self.mode, parent)

    def keep(self, *records: Record) -> bool:
        """Write records to the journal; False if they are not on disk."""
        return self._recording.keep(*records)

    def lose(self) -> None:
        """A step could not be written."""
        self.lost += 1
        self._report({"record": "lost"})

    def _report(self, record: Record) -> None:
        if record["record"] in ("miss", "killed"):
            self._recording.tell(record)
        if self.member is not None and self.family is not None:
            self.family.report(record)

    # -- the end -------------------------------------------------------------------------------------------------

    def _kill(self, error: GuardError) -> GuardError:
        """Latch the run: it is saved as killed, and every later call of it is refused."""
        self._latched = error
        self.status, self.error = "killed", str(error)
        self._recording.write_end(self.status, self.error, self.lost)
        self._report({"record": "killed", "error": self.error})
        return error

    def close(self, error: BaseException | None = None) -> None:
        """End the run: completed, or failed with `error`. Safe to call twice."""
        with self._lock:
            if not self.open:
                return
            for exchange in list(self._live):
                exchange.abandon()  # a stream that is still being read: keep what has arrived
            described = endings.describe(error) if error is not None else None
            if error is not None:
                self._report({"record": "ended", "kind": endings.kind(error), "error": described})
            if self.status == "running":
                self.status = "completed" if error is None else "failed"
                self.error = described
            self.open = False
        self._recording.close(self.status, self.error, self.lost)
        if self.family is not None and self.member is None and self.process_id == os.getpid():
            self.family.remove()

    # -- other processes -----------------------------------------------------------------------------------------

    def share(self) -> Family | None:
        """Before there is another process: have what is shared with it. None where that cannot be."""
        with self._lock:
            if self.family is None:
                try:
                    self.family = Family.create(self.steps)
                    self._guards.join(self.family.folder)
                    if self.mode == "fork":
                        self.family.first("live")  # and so no other process begins its trace
                except OSError as error:
                    self._recording.complain(f"other processes cannot take part ({error.strerror or error})")
            return self.family

    def membership(self, lane: str) -> Membership | None:
        """What another process needs to take part in this run, as `lane`. None where it cannot."""
        answers = self._answers
        if answers is not None and answers.edited:
            raise ConfigError(
                "edits reach no other process: write them into a trace of their own (`escapement edit`) and replay that"
            )
        family = self.share()
        if family is None:
            return None
        live = self.mode == "fork"
        if self.member is not None:
            return replace(self.member, lane=lane, live=live)
        storage = self.settings.storage_dir
        return Membership(
            folder=str(family.folder),
            storage_dir=storage if isinstance(storage, str) else str(storage.absolute()),
            otel_trace_id=self._recording.otel_trace_id,
            span_id=self._recording.span_id,
            name=self.name,
            replays=answers.reference if answers is not None and not answers.over else "",
            strict=self.settings.strict_replay,
            until=answers.until if answers is not None else None,
            leaves=answers is not None and answers.leaves,
            live=live,
            lane=lane,
        )

    def after_fork(self) -> None:
        """In a child process: write to a journal of its own, so that each has one writer."""
        self._lock = threading.RLock()
        self._live = set()
        self._in_flight = 0
        if self.family is not None:
            self.family.after_fork()
        if self.member is not None:
            if self._answers is not None:
                self._answers.served = []
            if self.mode == "fork":
                self._report({"record": "live"})
        self._splitter.reset()
        self._recording.after_fork()

    @property
    def remaining(self) -> int:
        """Recorded steps that the replay has not come to."""
        return self._answers.remaining if self._answers is not None else 0


def _title(attributes: Mapping[str, Any]) -> str:
    return f"{attributes[semconv.OPERATION_NAME]} {attributes.get(semconv.REQUEST_MODEL, '')}".strip()
