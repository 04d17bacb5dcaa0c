"""A segment: what one journal says about a trace, read from the journal itself or from the tables it was sealed into.

A trace is put together from all its segments: most have one, a run that forked processes or went on for long has
several.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from escapement.store import journal
from escapement.store.journal import Record
from escapement.store.pieces import Delta
from escapement.store.rows import StepRow, TraceRow
from escapement.words import semconv

HEADER = ("name", "tags", "metadata", "mode", "parent", "time", "trace_id", "span_id", "origin", "imported")


@dataclass(slots=True)
class Segment:
    """The content of one journal. `status` is None where it says nothing about how the run ended."""

    trace_id: str
    journal: str
    header: Record = field(default_factory=dict)
    """The first record of the run; empty where a process joined it, and in all but the first journal of a long run."""
    end: Record = field(default_factory=dict)
    status: str | None = None
    lost: int = 0
    damaged: int = 0
    steps: dict[str, StepRow] = field(default_factory=dict)
    """By span id."""
    spans: list[Record] = field(default_factory=list)
    pieces: dict[str, bytes] = field(default_factory=dict)
    began: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether the writer died before its first record was whole."""
        return not (self.header or self.end or self.steps or self.spans or self.damaged)


def read(path: Path, trace_id: str) -> Segment:
    """The segment that a journal holds. Raises OSError (FileNotFoundError: it was sealed or deleted meanwhile)."""
    # Whether the writer lives is asked first: one that ends in between has written its last record by then.
    alive = journal.has_writer(path)
    records, damaged = journal.read(path)
    segment = Segment(trace_id, path.stem)
    reader = _Reader(segment)
    for record in records:
        try:
            reader.take(record)
        except (KeyError, TypeError, ValueError):
            damaged += 1
    segment.damaged = damaged
    reader.tie()
    if segment.end:
        segment.status = segment.end["status"]
    elif alive:
        segment.status = "running"
    elif reader.continued or not (segment.header or reader.continues):
        segment.status = None  # it goes on in the next one; or of a process that joined, which does not end the trace
    else:
        segment.status = "interrupted"
    return segment


class _Reader:
    """Takes in the records of one journal."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self.continues = False
        self.continued = False

    def take(self, record: Record) -> None:
        segment = self._segment
        kind = record["record"]
        if kind == "trace":
            _check_header(record)
            segment.header = segment.header or record
            segment.began = segment.began or record["time"]
        elif kind == "start":
            self._start(record)
        elif kind == "span":
            _texts(record["span_id"], record["trace_id"], record["name"])
            _times(record.get("start", 0), record["end"])
            row = segment.steps.get(record["span_id"])
            if row is None:
                segment.spans.append({**record, "attributes": dict(record["attributes"])})
            else:
                finish(row, record)
        elif kind == "served":
            _texts(record["lane"], record["source"])
            _times(record["time"], record["step"], record["source_step"])
            segment.steps[f"served-{record['step']}"] = served(
                segment.trace_id,
                record["step"],
                record["lane"],
                record["time"],
                record["source"],
                record["source_step"],
            )
        elif kind == "end":
            _times(record["time"])
            if record["time"] >= segment.end.get("time", 0):
                error = record.get("error")
                segment.end = {
                    "status": str(record["status"]),
                    "time": record["time"],
                    "error": error if error is None else str(error),
                }
            segment.lost = max(segment.lost, int(record.get("lost", 0)))
        elif kind == "continues":
            _times(record["time"])
            self.continues = True
            segment.began = record["time"]
        elif kind == "joins":
            _times(record["time"])
            segment.began = record["time"]
        elif kind == "continued":
            self.continued = True

    def _start(self, record: Record) -> None:
        attributes = dict(record["attributes"])
        _texts(record["trace_id"], record["span_id"], record["name"], record.get("parent", ""))
        _texts(attributes[semconv.LANE], attributes[semconv.FINGERPRINT])
        _times(record["start"], attributes[semconv.STEP])
        delta = Delta(**attributes[semconv.REQUEST_BODY])
        _times(delta.base, delta.keep, delta.suffix)
        _texts(*delta.add)
        row = StepRow(
            step=attributes[semconv.STEP],
            lane=attributes[semconv.LANE],
            fingerprint=attributes[semconv.FINGERPRINT],
            name=record["name"],
            start=record["start"],
            end=None,
            otel_trace_id=record["trace_id"],
            span_id=record["span_id"],
            parent_span_id=record.get("parent", ""),
            attributes=attributes,
            trace_id=self._segment.trace_id,
            delta=delta,
        )
        self._segment.steps[record["span_id"]] = row
        self._segment.pieces.update(pieces(record))

    def tie(self) -> None:
        """Put the steps in order. Threads that call at the same time write theirs in any: a base may come later."""
        segment = self._segment
        segment.steps = dict(sorted(segment.steps.items(), key=lambda item: (item[1].step, item[1].start)))
        written: dict[int, StepRow] = {}
        for row in segment.steps.values():
            if row.delta is not None:
                place(row, written)


def pieces(record: Record) -> dict[str, bytes]:
    """The pieces of requests that a record brings."""
    return {
        name: piece.encode() if isinstance(piece, str) else base64.b64decode(piece["base64"])
        for name, piece in record.get("pieces", {}).items()
    }


def _check_header(record: Record) -> None:
    _times(record["time"])
    _texts(record.get("name") or "", record.get("parent") or "", record.get("mode", ""), *record.get("tags", ()))
    if not isinstance(record.get("metadata", {}), dict) or not isinstance(record.get("origin", {}), dict):
        raise TypeError("metadata and origin are mappings")


def _texts(*values: object) -> None:
    """Damage can have any shape; what is let in here is put into columns later."""
    if not all(isinstance(value, str) for value in values):
        raise TypeError("not text")


def _times(*values: object) -> None:
    if not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise ValueError("not a time or a count")


def place(row: StepRow, written: dict[int, StepRow]) -> None:
    """Tie a step to the one that its request is described by, among those written before it to the same journal."""
    assert row.delta is not None
    row.base = written.get(row.delta.base)
    written[row.step] = row


def finish(row: StepRow, record: Mapping[str, Any]) -> None:
    """Give a step its answer."""
    row.end = record["end"]
    row.name = record["name"]
    row.attributes.update(record["attributes"])


def served(trace_id: str, step: int, lane: str, time: int, source: str, source_step: int) -> StepRow:
    """A step that a replay took from another trace."""
    return StepRow(
        step=step,
        lane=lane,
        fingerprint="",
        name="",
        start=time,
        end=None,
        otel_trace_id="",
        span_id="",
        parent_span_id="",
        attributes={semconv.STEP: step, semconv.LANE: lane, semconv.MODE: "replay"},
        trace_id=trace_id,
        source=(source, source_step),
    )


def assemble(trace_id: str, segments: Iterable[Segment]) -> TraceRow:
    """The trace that these segments make up."""
    ordered = sorted(segments, key=lambda segment: (not segment.header, segment.began, segment.journal))
    header: Record = next((segment.header for segment in ordered if segment.header), {})
    steps: dict[str, StepRow] = {}
    pieces: dict[str, bytes] = {}
    spans: list[Record] = []
    for segment in ordered:
        steps |= segment.steps
        pieces |= segment.pieces
    for segment in ordered:
        for span in segment.spans:
            begun = steps.get(span["span_id"])
            if begun is not None and begun.end is None:
                finish(begun, span)  # begun by one process, finished by another
            else:
                spans.append(span)
    end: Record = max((segment.end for segment in ordered if segment.end), key=lambda end: end["time"], default={})
    return TraceRow(
        trace_id=trace_id,
        name=header.get("name") or "",
        tags=tuple(header.get("tags", ())),
        metadata=header.get("metadata", {}),
        mode=header.get("mode", "record"),
        parent=header.get("parent"),
        created=header.get("time", 0),
        status=status({segment.status for segment in ordered}, end),
        ended=end.get("time"),
        error=end.get("error"),
        lost=sum(segment.lost for segment in ordered),
        damaged=sum(segment.damaged for segment in ordered),
        otel_trace_id=header.get("trace_id", ""),
        span_id=header.get("span_id", ""),
        origin=header.get("origin", {}),
        imported=header.get("imported"),
        steps=sorted(steps.values(), key=lambda row: (row.step, row.start)),
        pieces=pieces,
        spans=sorted(spans, key=lambda span: (span.get("start") or 0, span["span_id"])),
    )


def status(found: set[str | None], end: Mapping[str, Any]) -> str:
    """The status of a trace whose segments have these."""
    if "running" in found:
        return str(end.get("status", "running"))
    if "interrupted" in found or not end:
        return "interrupted"
    return str(end["status"])
