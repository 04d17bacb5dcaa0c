"""A document of `exchange` back into a trace. It comes from a stranger: nothing in it is believed unseen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO, Any, Final

import orjson

from escapement.store import vetting
from escapement.store.exchange import FORMAT, OWN, VERSION, Document, described
from escapement.store.pieces import Delta, digest
from escapement.store.rows import StepRow, TraceRow
from escapement.store.segments import place
from escapement.store.vetting import Fields, Unfit
from escapement.words import ids, semconv
from escapement.words.errors import TraceImportError, TraceNotFoundError

MOST_BYTES: Final = 1 << 30
"""Bytes of a document. It is read into memory, where it takes several times its size."""

_GONE: Final = Delta(vetting.NO_STEP, 0, [], 0)
"""A request that the recording lost: it goes on from a step that is not there, and so is not whole."""


def read_file(path: str | os.PathLike[str]) -> TraceRow:
    """The trace in a file. Raises TraceNotFoundError where there is none, TraceImportError for one that is none."""
    return read_document(load(path), os.fspath(path))


def is_file(reference: str | os.PathLike[str]) -> bool:
    """Whether a reference to a trace means a file. What could be an id is one."""
    if not isinstance(reference, str):
        return True
    if ids.as_prefix(reference) is not None or reference.startswith("@"):
        return False
    return reference.endswith(".json") or os.path.isfile(reference)


def load(path: str | os.PathLike[str]) -> bytearray:
    """The content of a file, unless that is more than a document can be. Raises as `read_file` does."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            return load_from(file, name)
    except FileNotFoundError:
        raise TraceNotFoundError(f"there is no file {name}") from None
    except (OSError, ValueError) as error:  # ValueError: a null in the name
        reason = getattr(error, "strerror", None) or error
        raise TraceImportError(f"{name} cannot be read: {reason}") from None


def load_from(file: IO[bytes], name: str) -> bytearray:
    """What a file that is open has to give, a bounded amount at a time. Raises TraceImportError."""
    data = bytearray()
    while part := file.read(1 << 20):
        data += part
        if len(data) > MOST_BYTES:
            raise TraceImportError(f"{name} is larger than {MOST_BYTES} bytes, which no trace is. Nothing was changed")
    return data


def read_document(data: bytes | bytearray, name: str = "the document") -> TraceRow:
    """The trace that a document holds; nothing in it is believed unseen.

    Raises TraceImportError that calls the document `name`, and says what is wrong with it and where.
    """
    document = _parse(data, name)
    try:
        return _trace(document)
    except Unfit as unfit:
        raise TraceImportError(
            f"{name} is not a trace that can be read: {unfit}. It is damaged, or was not made by `escapement export`; "
            "get it again. Nothing was changed"
        ) from None


def _parse(data: bytes | bytearray, name: str) -> Document:
    try:
        document = orjson.loads(data)
    except (orjson.JSONDecodeError, MemoryError) as error:
        tail = bytes(data[-64:]).rstrip()
        cut = not tail.endswith(b"}")
        raise TraceImportError(
            f"{name} is not a trace: {'it is empty' if not tail else f'its JSON breaks off or is wrong ({error})'}. "
            f"{'It looks cut off: copy it again' if cut else 'Export the trace again'}. Nothing was changed"
        ) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        hint = ""
        if isinstance(document, dict) and "resourceSpans" in document:
            hint = " It is OTLP: `escapement import` makes a trace of it."
        raise TraceImportError(
            f'{name} is not a trace: it does not say "format": "{FORMAT}", as what `escapement export` writes does.'
            f"{hint} Nothing was changed"
        )
    found = document.get("version")
    if type(found) is not int or found < 1:
        raise TraceImportError(f"{name} is not a trace: its version is {vetting.shown(found)}. Nothing was changed")
    if found > VERSION:
        raise TraceImportError(
            f"{name} has version {found}; this Escapement reads versions up to {VERSION}. "
            "Use a newer Escapement. Nothing was changed"
        )
    return document


def _trace(document: Document) -> TraceRow:
    whole = Fields(document, "the document")
    trace = Fields(whole.take("trace", vetting.an_object), "trace")
    row = TraceRow(
        trace_id=trace.take("id", vetting.trace_id),
        name=trace.take("name", vetting.text),
        tags=tuple(trace.take("tags", vetting.texts)),
        metadata=trace.take("metadata", vetting.mapping),
        mode=trace.take("mode", vetting.mode),
        parent=trace.take("parent", vetting.trace_id, optional=True),
        created=trace.take("created", vetting.time),
        status=trace.take("status", vetting.status),
        ended=trace.take("ended", vetting.time, optional=True),
        error=trace.take("error", vetting.text, optional=True),
        lost=trace.take("lost", vetting.count),
        damaged=trace.take("damaged", vetting.integer(0, 1_000_000)),
        otel_trace_id=trace.take("otel_trace_id", vetting.hexadecimal(32, empty=True)),
        span_id=trace.take("span_id", vetting.hexadecimal(16, empty=True)),
        imported=trace.take("imported", vetting.mapping, optional=True),
        origin=trace.take("origin", vetting.mapping),
        pieces=_pieces(whole.take("pieces", vetting.an_object)),
    )
    if row.status == "running":
        row.status = "interrupted"  # as far as anybody here will ever know
    if row.ended is None and (row.status != "interrupted" or row.error is not None or row.lost):
        raise Unfit("trace.ended is missing, but the trace says how it ended")
    steps = whole.take("steps", vetting.a_list)
    if len(steps) > vetting.MOST_STEPS:
        raise Unfit(f"steps should be at most {vetting.MOST_STEPS}, not {len(steps)}")
    reader = _Reader(row)
    for index, step in enumerate(steps):
        reader.step(Fields(step, f"steps[{index}]"))
    row.spans = [
        reader.span(Fields(span, f"spans[{index}]")) for index, span in enumerate(whole.take("spans", vetting.a_list))
    ]
    return row


class _Reader:
    """Steps and spans on their way in."""

    def __init__(self, row: TraceRow) -> None:
        self._row = row
        self._written: dict[int, StepRow] = {}
        self._span_ids: set[str] = set()
        self._lengths = vetting.Lengths(row.pieces)

    def step(self, fields: Fields) -> None:
        row = StepRow(
            step=fields.take("step", vetting.step_number),
            lane=fields.take("lane", vetting.lane),
            fingerprint=fields.take("fingerprint", vetting.text),
            name=fields.take("name", vetting.text),
            start=fields.take("start", vetting.time),
            end=fields.take("end", vetting.time, optional=True),
            otel_trace_id=fields.take("otel_trace_id", vetting.hexadecimal(32)),
            span_id=fields.take("span_id", vetting.hexadecimal(16)),
            parent_span_id=fields.take("parent_span_id", vetting.hexadecimal(16, empty=True)),
            attributes={},
            trace_id=self._row.trace_id,
        )
        if self._row.steps and (row.step, row.start) < (self._row.steps[-1].step, self._row.steps[-1].start):
            raise Unfit(f"{fields.where} should stand before the step it follows: steps go by number and start")
        if row.span_id in self._span_ids:
            raise Unfit(f"{fields.where}.span_id is that of another step, too")
        self._span_ids.add(row.span_id)
        given = vetting.attributes(fields.take("attributes", vetting.an_object), f"{fields.where}.attributes")
        row.attributes = {name: value for name, value in given.items() if name not in OWN}
        source = fields.take("served_from", vetting.served_from, optional=True)
        if source is not None:
            row.attributes[semconv.SERVED_FROM] = source
        row.delta = self._request(fields, row)
        row.attributes |= {
            semconv.STEP: row.step,
            semconv.LANE: row.lane,
            semconv.FINGERPRINT: row.fingerprint,
            semconv.REQUEST_BODY: described(row.delta),
        }
        place(row, self._written)
        self._row.steps.append(row)

    def _request(self, fields: Fields, row: StepRow) -> Delta:
        if row.step in self._written:
            self._lengths.forget()
        request = fields.take("request", vetting.an_object, optional=True)
        if request is None:
            return _GONE
        inner = Fields(request, f"{fields.where}.request")
        delta = Delta(
            base=inner.take("base", vetting.count),
            keep=inner.take("keep", vetting.count),
            add=inner.take("add", vetting.texts),
            suffix=inner.take("suffix", vetting.count),
        )
        try:
            self._lengths.take(delta, row.step, row.lane)
        except Unfit as unfit:
            raise Unfit(f"{inner.where} should be {unfit}") from None
        return delta

    def span(self, fields: Fields) -> Mapping[str, Any]:
        taken = {
            name: fields.take(name, check, optional=optional) for name, (check, optional) in vetting.OF_SPAN.items()
        }
        span = {name: value for name, value in taken.items() if value is not None}
        if span["span_id"] in self._span_ids:
            raise Unfit(f"{fields.where}.span_id is that of a step, too")
        span["attributes"] = vetting.attributes(
            fields.take("attributes", vetting.an_object), f"{fields.where}.attributes"
        )
        span["events"] = [
            _event(Fields(event, f"{fields.where}.events[{index}]"))
            for index, event in enumerate(fields.take("events", vetting.a_list))
        ]
        return span


def _event(fields: Fields) -> Document:
    return {
        "name": fields.take("name", vetting.text),
        "time": fields.take("time", vetting.time),
        "attributes": fields.take("attributes", vetting.mapping),
    }


def _pieces(given: Mapping[str, Any]) -> dict[str, bytes]:
    pieces: dict[str, bytes] = {}
    for name, value in given.items():
        if isinstance(value, str):
            piece = value.encode()
        else:
            piece = Fields(value, f"pieces.{ascii(name)[1:-1][:80]}").take("base64", vetting.unbase64)
        if digest(piece) != name:
            raise Unfit(f"pieces.{ascii(name)[1:-1][:80]} is not what its id says: it was changed")
        pieces[name] = piece
    return pieces
