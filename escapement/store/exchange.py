"""A whole trace as one JSON document, to be kept in a file and given to others. `documents` reads it.

    {"format": "escapement-trace", "version": 1, "exported_by": "escapement 0.1.0",
     "trace": {"id": "tr_…", "name": …, "status": …, …},
     "steps": [{"step": 1, "lane": "main", "request": {"base": 0, "keep": 0, "add": ["<id>", …], "suffix": 0},
                "attributes": {…}, …}, …],
     "pieces": {"<id>": "text" or {"base64": …}, …},
     "spans": [spans of other instrumentation]}

A request is what `pieces` describes: so many pieces from the start of the request of step `base`, those of `add`, so
many from its end. It is null where the recording lost it. Attributes are those of the journal, answers among them
byte for byte. Steps that were served from another trace are here whole, and `served_from` names where they come from.
Fields that are not known are ignored; what old readers must not ignore makes a new `version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import orjson

from escapement.store import vetting
from escapement.store.pieces import Delta, Splitter, as_json
from escapement.store.rows import StepRow, TraceRow
from escapement.words import semconv
from escapement.words.errors import StoreError

FORMAT: Final = "escapement-trace"
VERSION: Final = 1

Document = dict[str, Any]

OWN: Final = frozenset({semconv.STEP, semconv.LANE, semconv.FINGERPRINT, semconv.REQUEST_BODY, semconv.SERVED_FROM})
"""Attributes that are fields of the step in a document."""


def exported_by() -> str:
    try:
        return f"escapement {version('escapement')}"
    except PackageNotFoundError:
        return "escapement"


def export_document(row: TraceRow) -> Document:
    """The document of a trace, as it is now."""
    steps = _Steps(row)
    pieces: dict[str, bytes] = {}
    exported = [steps.export(step, pieces) for step in sorted(row.steps, key=lambda step: (step.step, step.start))]
    trace: Document = {
        "id": row.trace_id,
        "name": row.name,
        "tags": list(row.tags),
        "metadata": dict(row.metadata),
        "mode": row.mode,
        "parent": row.parent,
        "status": row.status,
        "created": row.created,
        "ended": row.ended,
        "error": row.error,
        "lost": row.lost,
        "damaged": row.damaged,
        "otel_trace_id": row.otel_trace_id,
        "span_id": row.span_id,
        "origin": dict(row.origin),
    }
    if row.imported is not None:
        trace["imported"] = dict(row.imported)
    return {
        "format": FORMAT,
        "version": VERSION,
        "exported_by": exported_by(),
        "trace": trace,
        "steps": exported,
        "pieces": {name: as_json(piece) for name, piece in pieces.items()},
        "spans": [_span(span) for span in row.spans if span["span_id"] not in steps.span_ids],
    }


def dump(document: Document) -> bytes:
    """The text of a document. Raises StoreError for metadata that JSON cannot hold."""
    try:
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise StoreError(f"trace {document['trace']['id']} cannot be put into JSON: {error}") from None


def content_hash(row: TraceRow) -> str:
    """The hash of what a trace holds, whoever exported or imported it. A run that nobody ends was interrupted."""
    document = export_document(row)
    del document["exported_by"]
    document["trace"].pop("imported", None)
    if row.status == "running":
        document["trace"]["status"] = "interrupted"
    try:
        return blake2b(orjson.dumps(document, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
    except TypeError as error:
        raise StoreError(f"trace {row.trace_id} cannot be put into JSON: {error}") from None


class _Steps:
    """Steps on their way out; their requests are cut anew, because those of several traces may come together."""

    def __init__(self, row: TraceRow) -> None:
        self._row = row
        self._splitter = Splitter()
        self._numbers: set[int] = set()
        self.span_ids: set[str] = set()

    def export(self, step: StepRow, pieces: dict[str, bytes]) -> Document:
        if step.step in self._numbers:
            self._splitter.reset()  # a forked process counted on: which of the two a base means must not be a question
        self._numbers.add(step.step)
        document: Document = {
            "step": step.step,
            "lane": step.lane,
            "fingerprint": step.fingerprint,
            "name": step.name,
            "start": step.start,
            "end": step.end,
            "otel_trace_id": step.otel_trace_id or self._row.otel_trace_id or self._row.trace_id[3:].ljust(32, "0"),
            "span_id": self._span_id(step),
            "parent_span_id": step.parent_span_id,
            "request": self._request(step, pieces),
            "attributes": {name: step.attributes[name] for name in sorted(step.attributes) if name not in OWN},
        }
        source = step.source or step.attributes.get(semconv.SERVED_FROM)
        if source is not None:
            document["served_from"] = list(source)
        return document

    def _span_id(self, step: StepRow) -> str:
        """Its span id. What is gone has none; but it needs one to be told apart by, always the same."""
        found = step.span_id
        if not found or found in self.span_ids:
            found = blake2b(f"{self._row.trace_id} {len(self.span_ids)}".encode(), digest_size=8).hexdigest()
        self.span_ids.add(found)
        return found

    def _request(self, step: StepRow, pieces: dict[str, bytes]) -> Document | None:
        try:
            body = self._row.request_body(step)
        except StoreError:
            return None
        delta, new = self._splitter.describe(self._splitter.split(body, step.lane), step.lane, step.step)
        pieces |= new
        return described(delta)


def described(delta: Delta) -> Document:
    """A request as a document and a journal have it."""
    return {"base": delta.base, "keep": delta.keep, "add": delta.add, "suffix": delta.suffix}


def _span(record: Mapping[str, Any]) -> Document:
    attributes = record["attributes"]
    return {
        **{name: record.get(name) for name in vetting.OF_SPAN},
        "attributes": {name: attributes[name] for name in sorted(attributes)},
        "events": list(record.get("events") or ()),
    }
