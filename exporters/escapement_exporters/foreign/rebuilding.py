"""Traces from the spans of others: calls of models become steps with rebuilt requests and answers, the rest stay spans.

What a span does not hold is listed on its step (`escapement.rebuilt`), so that nobody takes it for the original.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson

from escapement.engine import redaction
from escapement.engine.fingerprint import fingerprint
from escapement.engine.lanes import ROOT
from escapement.engine.normalising import Normalising
from escapement.providers import answer_attributes, request_attributes, streams, tools_called
from escapement.store import vetting
from escapement.store.exchange import described
from escapement.store.pieces import Delta, Splitter
from escapement.store.rows import Attributes, StepRow, TraceRow
from escapement.store.segments import place
from escapement.store.vetting import Unfit
from escapement.words import ids, semconv
from escapement.words.http import Request
from escapement_exporters.foreign import dialects
from escapement_exporters.foreign.decoding import Span, as_record, service_of
from escapement_exporters.foreign.dialects import bodies
from escapement_exporters.foreign.dialects.told import MESSAGES, RESPONSES, Told

_STATUS: Final = re.compile(r"\bError code: ([45]\d\d)\b(?: - )?")
_ADDRESSES: Final = ("server.address", "http.host")
_GONE: Final = Delta(vetting.NO_STEP, 0, [], 0)


def traces(spans: Iterable[Span], *, together: bool = False) -> list[TraceRow]:
    """The traces that spans make up, by their OpenTelemetry trace id; or (`together`) one of all of them.

    Raises Unfit for what cannot be a trace.
    """
    groups: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        groups.setdefault("" if together else span.trace_id, []).append(span)
    return [trace_of(group) for group in groups.values()]


def trace_of(spans: Sequence[Span], *, after: int = 0) -> TraceRow:
    """The trace of spans that belong together, of which there is at least one; its steps are numbered from behind
    `after`. Raises Unfit."""
    spans = sorted({span.span_id: span for span in spans}.values(), key=lambda span: (span.start, span.end))
    known = {span.span_id for span in spans}
    tops = [span for span in spans if span.parent not in known]
    root = next((span for span in tops if not span.parent and dialects.read(span) is None), None)
    first = root or spans[0]
    otel_id = first.trace_id
    failed = first.status == "ERROR"
    row = TraceRow(
        trace_id=trace_id_of(otel_id),
        name=service_of(first.resource) or (root.name if root is not None else ""),
        tags=(),
        metadata={},
        mode="record",
        parent=None,
        created=spans[0].start,
        status="failed" if failed else "completed",
        ended=max(max(span.start, span.end) for span in spans),
        error=(first.description or _exception(first) or "it failed") if failed else None,
        otel_trace_id=otel_id,
        span_id=root.span_id if root is not None else "",
        origin={
            "service": service_of(first.resource),
            "language": str(first.resource.get("telemetry.sdk.language") or ""),
            "sdk": str(first.resource.get("telemetry.sdk.name") or ""),
        },
    )
    builder = _Builder(row, after)
    for call in _calls(spans):
        builder.call(call)
    for span in spans:
        if span.scope == semconv.SCOPE and semconv.STEP in span.attributes:
            builder.own(span)
    row.steps.sort(key=lambda step: (step.step, step.start))
    steps = {step.span_id for step in row.steps}
    row.spans = [_record(span) for span in spans if span.span_id not in steps and span.span_id != row.span_id]
    row.pieces = builder.pieces
    return row


def trace_id_of(otel_trace_id: str) -> str:
    """The id of the trace. Where ids have 64 bits, with zeros before them, those are what tells them apart."""
    number = int(otel_trace_id, 16)
    return ids.trace_id_of(number if number >> 80 else number << 80)


def _record(span: Span) -> Mapping[str, Any]:
    record = as_record(span)
    vetting.mapping(record["attributes"])
    return record


# -- which spans are calls -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Call:
    span: Span
    told: Told


def _calls(spans: Sequence[Span]) -> list[_Call]:
    """The calls, each once: an SDK and what instruments it may both have told of one. That which tells most stands for
    it, with what only the other knows."""
    calls: dict[str, _Call] = {}
    by_answer: dict[str, str] = {}
    for span in spans:
        if span.scope == semconv.SCOPE and semconv.STEP in span.attributes:
            continue
        told = dialects.read(span)
        if told is None:
            continue
        twin = span.parent if span.parent in calls else by_answer.get(told.id, "") if told.id else ""
        if twin in calls:
            before = calls[twin]
            calls[span.span_id] = joined = _joined(before, _Call(span, told))
            calls |= dict.fromkeys([known for known, call in calls.items() if call is before], joined)
        else:
            calls[span.span_id] = _Call(span, told)
        if told.id:
            by_answer.setdefault(told.id, span.span_id)
    once = {call.span.span_id: call for call in calls.values()}
    return sorted(once.values(), key=lambda call: (call.span.start, call.span.end))


def _joined(one: _Call, other: _Call) -> _Call:
    best, rest = sorted((one, other), key=lambda call: _much(call.told), reverse=True)
    told, also = best.told, rest.told
    told.stream = told.stream or also.stream
    told.id, told.finish = told.id or also.id, told.finish or also.finish
    told.usage = also.usage | told.usage
    told.tools = told.tools if told.tools is not None else also.tools
    for name in (*_ADDRESSES, semconv.SERVER_PORT, semconv.RESPONSE_TIME_TO_FIRST_CHUNK, "http.response.status_code"):
        if name in rest.span.attributes:
            best.span.attributes.setdefault(name, rest.span.attributes[name])
    if told.stream and told.request is not None:
        told.request["stream"] = True
    return best


def _much(told: Told) -> tuple[bool, ...]:
    known = (told.answer, told.said, told.request, told.asked, told.tools)
    return (bool(told.answer or told.said), *(value is not None for value in known))


# -- steps -----------------------------------------------------------------------------------------------------------


class _Nowhere:
    """Where a request went, as far as a span says it."""

    scheme = "https"

    def __init__(self, span: Span) -> None:
        self.host = next((str(span.attributes[name]) for name in _ADDRESSES if name in span.attributes), "")
        port = span.attributes.get(semconv.SERVER_PORT)
        self.port = port if type(port) is int else None


class _Builder:
    """Steps on their way into a trace."""

    def __init__(self, row: TraceRow, after: int) -> None:
        self._after = after
        self.pieces: dict[str, bytes] = {}
        self._row = row
        self._splitter = Splitter()
        self._written: dict[int, StepRow] = {}
        self._normalising = Normalising(conversation=frozenset({"messages", "model"}))

    def call(self, call: _Call) -> None:
        span, told = call.span, call.told
        body = redaction.scrub(orjson.dumps(bodies.request(told)))
        kind = [(b"content-type", b"application/json")]
        request = Request("POST", _Nowhere(span), f"/v1/{told.path}", "", kind, body)
        operation = bodies.operation_of(told)
        attributes = request_attributes(operation, request, orjson.loads(body))
        if not attributes[semconv.SERVER_ADDRESS]:
            del attributes[semconv.SERVER_ADDRESS], attributes[semconv.SERVER_PORT]
        attributes |= {
            semconv.METHOD: "POST",
            semconv.PATH: request.path,
            semconv.REQUEST_HEADERS: [["content-type", "application/json"]],
            semconv.REQUEST_BYTES: len(body),
        }
        document = None
        with suppress(ValueError, TypeError, KeyError, AttributeError, IndexError):
            document = bodies.answer(told, span.end)
        if document is not None:
            document = orjson.loads(redaction.scrub(orjson.dumps(document)))
        lost = bodies.missing(told, document)
        if document is not None:
            attributes |= answer_attributes(operation, document) | tools_called(operation, document)
            attributes |= _answer(span, told, document)
        else:
            attributes |= _failure(span, told)
            if semconv.STATUS in attributes:
                lost[-1:] = ["response.headers", "response.body"]
        attributes[semconv.REBUILT] = lost
        number = self._after + len(self._row.steps) + 1
        print_, _ = fingerprint(request, Splitter(), ROOT, self._normalising)
        title = f"{attributes[semconv.OPERATION_NAME]} {attributes.get(semconv.REQUEST_MODEL, '')}".strip()
        self._add(span, number, ROOT, print_, title, attributes, body)

    def own(self, span: Span) -> None:
        """A step of ours, that was exported with or without its content."""
        given = dict(span.attributes)
        for name in semconv.STRUCTURED & given.keys():
            given[name] = _parsed(given[name])
        encoded = given.pop(f"{semconv.REQUEST_BODY}.base64", None)
        text = given.pop(semconv.REQUEST_BODY, None)
        body = base64.b64decode(encoded) if isinstance(encoded, str) else text.encode() if text is not None else None
        lost = ["request.body"] if body is None else []
        has_body = {semconv.RESPONSE_BODY, semconv.RESPONSE_BODY_BASE64} & given.keys()
        if semconv.STATUS in given and (semconv.RESPONSE_HEADERS not in given or not has_body):
            del given[semconv.STATUS]
            lost.append("response")
        elif semconv.RESPONSE_TIME_TO_FIRST_CHUNK in given:
            lost.append("response.chunks")
        for name in (semconv.SERVED_FROM, "escapement.in_flight"):
            given.pop(name, None)
        if lost:
            given[semconv.REBUILT] = lost
        number = vetting.step_number(given.get(semconv.STEP))
        lane = vetting.lane(given.get(semconv.LANE, ROOT))
        self._add(span, number, lane, vetting.text(given.get(semconv.FINGERPRINT, "")), span.name, given, body)

    def _add(
        self, span: Span, number: int, lane: str, print_: str, title: str, attributes: Attributes, body: bytes | None
    ) -> None:
        row = self._row
        delta = _GONE
        if body is not None:
            delta, new = self._splitter.describe(self._splitter.split(body, lane), lane, number)
            self.pieces |= new
        attributes |= {
            semconv.MODE: "record",
            semconv.TRACE_ID: row.trace_id,
            semconv.STEP: number,
            semconv.LANE: lane,
            semconv.FINGERPRINT: print_,
            semconv.REQUEST_BODY: described(delta),
        }
        step = StepRow(
            step=number,
            lane=lane,
            fingerprint=print_,
            name=title,
            start=span.start,
            end=max(span.start, span.end),
            otel_trace_id=span.trace_id,
            span_id=span.span_id,
            parent_span_id=span.parent,
            attributes=vetting.attributes(attributes, f"span {span.span_id}"),
            trace_id=row.trace_id,
            delta=delta,
        )
        place(step, self._written)
        row.steps.append(step)


def _answer(span: Span, told: Told, document: Mapping[str, Any]) -> Attributes:
    """The answer as it went over the wire, or would have."""
    operation = bodies.operation_of(told)
    elapsed = max(0, span.end - span.start)
    found: Attributes = {semconv.STATUS: 200, semconv.RESPONSE_ELAPSED: elapsed}
    named = span.attributes.get("anthropic.request.id")
    headers = [["request-id", named]] if isinstance(named, str) and named.isascii() and named.isprintable() else []
    if told.stream and operation.split is not None:
        like = b"event:" if told.path in (MESSAGES, RESPONSES) else b"data: [DONE]"
        events = operation.split(document, bodies.example(told, dict(document)))
        pieces = streams.write(events, "text/event-stream", like)
        first = span.attributes.get(semconv.RESPONSE_TIME_TO_FIRST_CHUNK)
        begin = int(first * 1e6) if isinstance(first, int | float) and 0 <= first < 1e6 else elapsed // 1000
        apart = max(0, elapsed // 1000 - begin) / max(1, len(pieces) - 1)
        chunks = [[len(piece), begin + round(apart * number)] for number, piece in enumerate(pieces)]
        found |= {
            semconv.RESPONSE_CHUNKS: chunks,
            semconv.RESPONSE_TIME_TO_FIRST_CHUNK: begin / 1e6,
            semconv.RESPONSE_ENDING: "end",
        }
        kind, body = "text/event-stream", b"".join(pieces)
    else:
        kind, body = "application/json", orjson.dumps(document)
    found[semconv.RESPONSE_HEADERS] = [["content-type", kind], *headers]
    found[semconv.RESPONSE_BODY] = body.decode()
    return found


def _failure(span: Span, told: Told) -> Attributes:
    """The error that a call ended with: an answer, where its status is known."""
    found: Attributes = {}
    kind = span.attributes.get(semconv.ERROR_TYPE)
    text = _exception(span) or span.description
    if span.status != "ERROR" and not kind:
        return found
    found[semconv.ERROR_TYPE] = str(kind or "error")
    said = _STATUS.search(text)
    status = span.attributes.get("http.response.status_code")
    status = int(said.group(1)) if said is not None else status if type(status) is int else 0
    if 400 <= status <= 599:
        error: dict[str, Any] = {"message": text[said.end() :] if said is not None else text}
        document = {"error": error, **({"type": "error"} if told.path == MESSAGES else {})}
        found |= {
            semconv.STATUS: status,
            semconv.RESPONSE_HEADERS: [["content-type", "application/json"]],
            semconv.RESPONSE_BODY: orjson.dumps(document).decode(),
            semconv.RESPONSE_ELAPSED: max(0, span.end - span.start),
        }
    return found


def _exception(span: Span) -> str:
    """What the exception says that a span tells of."""
    for event in span.events:
        if event["name"] == "exception":
            message = event["attributes"].get("exception.message")
            return message if isinstance(message, str) else ""
    return ""


def _parsed(value: object) -> Any:
    try:
        return orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        raise Unfit("an attribute of ours is no JSON") from None
