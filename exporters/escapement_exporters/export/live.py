"""One run as it happens: what its journal is told, turned into spans as they end.

What waits to be turned is slim already, unless messages are wanted: an answer is only held on to for its hash, and
where there is too much of that, not even for that.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from escapement.engine.exporting import Outlet
from escapement.engine.telemetry import own_version, service_name
from escapement.store import segments
from escapement.store.journal import Record
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.words import ids, semconv
from escapement.words.config import Settings
from escapement_exporters import content
from escapement_exporters.spans import RunSpans, Span, resource, surroundings

if TYPE_CHECKING:
    from escapement_exporters.export.pipeline import Pipeline

_RECENT = 1_000
_ANSWER = (semconv.RESPONSE_BODY, semconv.RESPONSE_BODY_BASE64, semconv.RESPONSE_ENCODED)


class Run(Outlet):
    """The outlet of one run. The program's threads leave records; the pipeline's thread turns them into spans."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._prices: Prices | None = None
        self._divergence = ""
        self.counted: Counter[str] = Counter()
        """By the pipeline's threads: sent, spooled, slimmed, dropped."""
        self._missed = 0
        self._said = content.wanted()
        self._process = os.getpid()
        self._row: TraceRow | None = None
        self._spans: RunSpans | None = None
        self.resource: Mapping[str, Any] = {}
        self._begun: dict[str, tuple[Mapping[str, Any], str, int]] = {}
        """What a step is told with at its start, until its end: two records in the queue would be twice the work."""
        self._around: dict[str, None] = {}
        """Spans of others that steps have begun in: the SDK's own may end before the step does."""
        self._steps: dict[str, StepRow] = {}
        self._written: dict[int, StepRow] = {}
        self._pieces: dict[str, bytes] = {}
        self._content = content.Content(self._pieces)
        self._served: RunSpans | None = None

    # -- on the program's threads --------------------------------------------------------------------------------

    def take(self, records: Sequence[Record]) -> None:
        for record in records:
            kind = record["record"]
            if kind == "start":
                self._is_around(record["parent"])
                if self._said:
                    self._leave(record, sum(map(len, record["pieces"].values())))
                else:
                    self._begun[record["span_id"]] = record["attributes"], record["parent"], record["start"]
            elif kind == "span":
                answer = record["attributes"]
                size = sum(len(answer[name]) for name in _ANSWER if name in answer)
                if size and not self._pipeline.has_room_for(size):
                    record = {**record, "attributes": {name: answer[name] for name in answer if name not in _ANSWER}}
                    size = 0
                begun = self._begun.pop(record["span_id"], None)
                if begun is not None:
                    record = {**record, "begun": begun}
                elif self._around.pop(record["span_id"], self) is None:
                    record = {**record, "around": True}
                self._leave(record, size)
            elif kind in ("trace", "end", "miss"):
                self._leave(record, 0)

    def _is_around(self, span_id: str) -> None:
        if len(self._around) >= _RECENT:
            self._around.clear()  # of those that another provider has, no end is heard
        self._around[span_id] = None

    def serve(self, row: StepRow, record: Record) -> None:
        self._leave({"record": "serve", "row": row, "of": record}, 0)

    def close(self, status: str, error: str | None) -> None:
        if os.getpid() == self._process:
            self._leave({"record": "close", "status": status, "error": error, "time": time.time_ns()}, 0)
        self._pipeline.hurry()

    def after_fork(self) -> None:
        self.counted = Counter()
        self._missed = 0
        self._begun = {}
        self._around = {}

    def counts(self) -> Counter[str]:
        return self.counted + Counter(dropped=self._missed)

    def _leave(self, record: Record, size: int) -> None:
        if self._pipeline.has_room:
            self._pipeline.put((self, record), size)
        elif record["record"] not in ("start", "miss"):  # a span is counted once, by its end
            self._missed += 1
            self._pipeline.missed()

    # -- on the pipeline's thread --------------------------------------------------------------------------------

    def spans(self, record: Record) -> Iterator[Span]:
        """The spans that are whole with this record."""
        kind = record["record"]
        if kind == "trace":
            self._begin(record)
        elif kind == "start":
            self._start(record, record["attributes"], record["parent"], record["start"])
        elif kind == "span":
            yield from self._end(record)
        elif kind == "serve":
            yield self._serve(record["row"], record["of"])
        elif kind == "miss":
            self._divergence = self._divergence or record["divergence"]["kind"] or record["divergence"]["reason"]
        elif kind == "end" and self._row is not None and self._row.ended is None:  # one that is killed ends twice
            self._row.status, self._row.error = record["status"], record["error"]
            self._row.ended = record["time"]
            yield RunSpans(self._row).root(self._divergence)
        elif kind == "close" and self._served is not None:
            yield self._replayed(record)

    def _begin(self, header: Record) -> None:
        self._row = TraceRow(
            trace_id=header["trace"],
            name=header["name"],
            tags=header["tags"],
            metadata=header["metadata"],
            mode=header["mode"],
            parent=header["parent"],
            created=header["time"],
            status="running",
            otel_trace_id=header["trace_id"],
            span_id=header["span_id"],
            origin=header["origin"],
        )
        self._know(self._row)

    def _know(self, row: TraceRow) -> RunSpans:
        self.resource = _resource(row)
        self._spans = RunSpans(row, prices=self._priced())
        return self._spans

    def _priced(self) -> Prices:
        if self._prices is None:
            self._prices = Prices.of(self._settings)
        return self._prices

    def _join(self, trace_id: str, otel_trace_id: str) -> RunSpans:
        """Of a process that takes part in a run: its header and its end are told elsewhere."""
        origin = {"escapement": own_version(), "service": service_name(), "pid": os.getpid()}
        return self._know(
            TraceRow(trace_id, "", (), {}, "record", None, 0, "running", otel_trace_id=otel_trace_id, origin=origin)
        )

    def _start(self, record: Record, asked: Mapping[str, Any], parent: str, start: int) -> None:
        attributes = dict(asked)
        row = StepRow(
            step=attributes[semconv.STEP],
            lane=attributes[semconv.LANE],
            fingerprint=attributes[semconv.FINGERPRINT],
            name=record["name"],
            start=start,
            end=None,
            otel_trace_id=record["trace_id"],
            span_id=record["span_id"],
            parent_span_id=parent,
            attributes=attributes,
            trace_id=attributes[semconv.TRACE_ID],
        )
        self._steps[row.span_id] = row
        if self._said:
            row.delta = attributes[semconv.REQUEST_BODY]
            segments.place(row, self._written)
            self._pieces |= segments.pieces(record)

    def _end(self, record: Record) -> Iterator[Span]:
        if "begun" in record:
            self._start(record, *record["begun"])
        row = self._steps.pop(record["span_id"], None)
        if row is None:
            if semconv.STATUS in record["attributes"] or self._is_root(record):
                return  # its start was dropped; or the run itself, which is told at its end
            spans = self._spans or self._join("", record["trace_id"])
            yield spans.other(record, self._said, around="around" in record)
            return
        segments.finish(row, record)
        spans = self._spans or self._join(row.trace_id, row.otel_trace_id)
        yield spans.step(row, self._content.of(row) if self._said else None)
        self._forget(row)

    def _is_root(self, record: Record) -> bool:
        return self._row is not None and record["span_id"] == self._row.span_id

    def _forget(self, row: StepRow) -> None:
        """Of steps that later ones are described by, only what that takes is kept."""
        for name in _ANSWER:
            row.attributes.pop(name, None)

    def _serve(self, row: StepRow, record: Record) -> Span:
        """A step that was served. It takes no time and costs nothing, and its messages are where it was recorded."""
        spans = self._spans
        if spans is None:
            # Nothing is written yet, and perhaps never will be: a replay is a run of its own in telemetry.
            if self._served is None:
                self._served = self._provisional(row, record)
            spans = self._served
        shown = StepRow(
            step=record["step"],
            lane=record["lane"],
            fingerprint=row.fingerprint,
            name=row.name,
            start=record["time"],
            end=record["time"],
            otel_trace_id=row.otel_trace_id,
            span_id=row.span_id,
            parent_span_id="",
            attributes={**row.attributes, semconv.STEP: record["step"], semconv.LANE: record["lane"]},
            trace_id=row.trace_id,
            source=(record["source"], record["source_step"]),
        )
        return spans.step(shown)

    def _provisional(self, row: StepRow, record: Record) -> RunSpans:
        otel_id = f"{ids.new_otel_trace_id():032x}"
        # Without a name of the program's, all replays are of one service, not each of one of its own.
        origin = {"escapement": own_version(), "service": service_name() or "escapement", "pid": os.getpid()}
        self._replay = TraceRow(
            trace_id=row.trace_id,
            name=f"replay of {row.trace_id}",
            tags=(),
            metadata={},
            mode="replay",
            parent=None,
            created=record["time"],
            status="running",
            otel_trace_id=otel_id,
            span_id=otel_id[16:],
            origin=origin,
        )
        self.resource = _resource(self._replay)
        return RunSpans(self._replay, prices=self._priced())

    def _replayed(self, record: Record) -> Span:
        row = self._replay
        row.ended, row.status, row.error = record["time"], record["status"], record["error"]
        return RunSpans(row).root(self._divergence if self._row is None else "")  # else it is told by what came of it


def _resource(row: TraceRow) -> Mapping[str, Any]:
    """Of a run that is under way: how it ends is not known yet."""
    return {name: value for name, value in resource(row, surroundings()).items() if name != semconv.TRACE_STATUS}
