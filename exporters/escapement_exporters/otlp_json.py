"""A trace as OTLP/JSON: one `ExportTraceServiceRequest`, which any collector takes at `/v1/traces`.

The encoding is that of the OTLP specification, not plain protobuf JSON: ids are hex, enums are numbers, 64-bit numbers
are text. Messages are left out unless they are asked for: telemetry is read by more people than recordings are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final

import orjson

from escapement.store.rows import StepRow, TraceRow
from escapement.words import semconv
from escapement.words.errors import StoreError

IN_FLIGHT: Final = "escapement.in_flight"
"""Of a step (or run) whose end is not known. Its span has no length."""

_KINDS: Final = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
_STATUSES: Final = {"OK": 1, "ERROR": 2}
_LINK_SAMPLED: Final = 1

_HEADERS: Final = frozenset({semconv.REQUEST_HEADERS, semconv.RESPONSE_HEADERS})
_LONGEST: Final = 1024
"""Characters of an attribute of somebody else's span. What is longer is, by all experience, somebody's message."""
_CONTENT: Final = re.compile(
    r"gen_ai\.(?:prompt|completion|content|input\.messages|output\.messages|system_instructions|tool\.(?:definitions"
    r"|call\.(?:arguments|result)))\b.*|(?:llm|input|output|traceloop\.entity|retrieval|tool|embedding)\b.*"
    r"(?:messages?|value|input|output|prompts?|completions?|documents?|parameters|text|json_schema)\b.*"
)
"""Where other instrumentation (genai, Traceloop, OpenInference) puts what was said."""


def export(row: TraceRow, *, content: bool = False) -> dict[str, Any]:
    """The document: the run as the root, a span for each step, and the spans of other instrumentation under them.

    With `content`, bodies and headers of requests and answers are attributes, too.
    """
    root = _Root(row)
    scopes: dict[str, list[dict[str, Any]]] = {semconv.SCOPE: [root.span()]}
    scopes[semconv.SCOPE] += [root.step(step, content) for step in row.steps]
    for record in row.spans:
        if record["span_id"] == row.span_id:
            continue  # the run itself: a fork begins inside a run, and takes note of its own root
        scopes.setdefault(str(record.get("scope") or ""), []).append(root.other(record, content))
    version = row.origin.get("escapement")
    ours = {"name": semconv.SCOPE, **({"version": version} if isinstance(version, str) else {})}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(_resource(row))},
                "scopeSpans": [
                    {"scope": ours if name == semconv.SCOPE else {"name": name}, "spans": spans}
                    for name, spans in scopes.items()
                ],
            }
        ]
    }


class _Root:
    """The run, and what is made with regard to it."""

    def __init__(self, row: TraceRow) -> None:
        self._row = row
        # A damaged recording may have lost the ids of its run: then they follow from what is left.
        self._trace_id = row.otel_trace_id or row.trace_id.removeprefix("tr_").ljust(32, "0")
        self._span_id = row.span_id or self._id("run")
        # What others began in the run without a parent began a trace of its own. Here it belongs to the run.
        self._own = {record["trace_id"] for record in row.spans if not (record.get("parent") or "").strip("0")}

    def _id(self, what: object) -> str:
        return blake2b(f"{self._row.trace_id} {what}".encode(), digest_size=8).hexdigest()

    def span(self) -> dict[str, Any]:
        row = self._row
        attributes: dict[str, Any] = {
            semconv.TRACE_ID: row.trace_id,
            semconv.TRACE_NAME: row.name,
            semconv.MODE: row.mode,
        }
        last = row.ended
        if last is None:
            attributes[IN_FLIGHT] = True
            last = max((step.end or step.start for step in row.steps), default=row.created)
        failed = row.status in ("failed", "killed", "interrupted")
        return _span(
            trace_id=self._trace_id,
            span_id=self._span_id,
            name=row.name or "escapement",
            kind="INTERNAL",
            start=row.created,
            end=last,
            attributes=attributes,
            status="ERROR" if failed else "UNSET",
            message=(row.error or row.status) if failed else None,
        )

    def step(self, step: StepRow, content: bool) -> dict[str, Any]:
        source = step.source or step.attributes.get(semconv.SERVED_FROM)
        attributes = _of_step(step.attributes)
        if content:
            attributes |= self._content(step)
        if step.end is None:
            attributes[IN_FLIGHT] = True
        span = _span(
            trace_id=self._trace_of(step.otel_trace_id),
            span_id=step.span_id or self._id(step.step),
            parent=self._parent_of(step.parent_span_id),
            name=step.name or "(gone)",
            kind="CLIENT",
            start=step.start,
            end=step.end,
            attributes=attributes,
            status="ERROR" if semconv.ERROR_TYPE in attributes else "UNSET",
            message=attributes.get(semconv.FAILURE_MESSAGE),
        )
        if source is not None:
            # Its span is in the trace that it was recorded in. This one stands for it here, and points there.
            span["attributes"] += _attributes({semconv.SERVED_FROM: f"{source[0]} step {source[1]}"})
            if step.span_id:
                span["links"] = [{"traceId": step.otel_trace_id, "spanId": step.span_id, "flags": _LINK_SAMPLED}]
            span |= {"traceId": self._trace_id, "spanId": self._id(step.step), "parentSpanId": self._span_id}
        return span

    def other(self, record: Mapping[str, Any], content: bool) -> dict[str, Any]:
        span = _span(
            trace_id=self._trace_of(record["trace_id"]),
            span_id=record["span_id"],
            parent=self._parent_of(record.get("parent") or ""),
            name=record["name"],
            kind=str(record.get("kind")),
            start=record.get("start") or record["end"],
            end=record["end"],
            attributes=_said(record["attributes"], content),
            status=str(record.get("status")),
            message=record.get("description"),
        )
        events = record.get("events") or ()
        if events:
            span["events"] = [
                {
                    "timeUnixNano": str(event["time"]),
                    "name": event["name"],
                    "attributes": _attributes(_said(event["attributes"], content, event["name"])),
                }
                for event in events
            ]
        return span

    def _trace_of(self, otel_trace_id: str) -> str:
        return self._trace_id if not otel_trace_id or otel_trace_id in self._own else otel_trace_id

    def _parent_of(self, span_id: str) -> str:
        return span_id if span_id.strip("0") else self._span_id

    def _content(self, step: StepRow) -> dict[str, Any]:
        given = step.attributes
        found: dict[str, Any] = {name: _json(given[name]) for name in _HEADERS if name in given}
        with suppress(StoreError):  # it is gone
            found |= _body(semconv.REQUEST_BODY, self._row.request_body(step))
        if step.has_body:
            found |= _body(semconv.RESPONSE_BODY, step.body())
        return found


def _resource(row: TraceRow) -> dict[str, Any]:
    origin = row.origin
    return {
        "service.name": origin.get("service") or row.name or "escapement",
        "telemetry.sdk.name": "escapement",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": origin.get("escapement"),
        "host.name": origin.get("host"),
        "process.pid": origin.get("pid"),
        "process.runtime.version": origin.get("python"),
        semconv.TRACE_ID: row.trace_id,
        semconv.TRACE_NAME: row.name,
        "escapement.trace.status": row.status,
        "escapement.trace.parent": row.parent,
        "escapement.trace.tags": list(row.tags) or None,
        "escapement.trace.metadata": _json(row.metadata) if row.metadata else None,
    }


def _of_step(given: Mapping[str, Any]) -> dict[str, Any]:
    """Its attributes without what was said, and without headers; what telemetry has no form for as JSON."""
    left_out = semconv.PAYLOAD | _HEADERS | {semconv.SERVED_FROM}
    return {
        name: _json(value) if name in semconv.STRUCTURED else value
        for name, value in sorted(given.items())
        if name not in left_out
    }


def _said(attributes: Mapping[str, Any], content: bool, event: str = "") -> Mapping[str, Any]:
    """Attributes of other instrumentation; without `content`, those that do not hold what was said."""
    if content:
        return attributes
    if event.startswith("gen_ai."):
        return {}  # an event of a message is its content
    return {name: value for name, value in attributes.items() if not _holds_content(name, value)}


def _holds_content(name: str, value: object) -> bool:
    if name in semconv.PAYLOAD or name in _HEADERS:
        return True
    if isinstance(value, str) and len(value) > _LONGEST and not name.startswith("exception."):
        return True
    return not isinstance(value, int | float) and _CONTENT.fullmatch(name) is not None


# -- the encoding ----------------------------------------------------------------------------------------------------


def _span(
    *,
    trace_id: str,
    span_id: str,
    name: str,
    kind: str,
    start: int,
    end: int | None,
    attributes: Mapping[str, Any],
    status: str,
    message: Any = None,
    parent: str = "",
) -> dict[str, Any]:
    span: dict[str, Any] = {"traceId": trace_id, "spanId": span_id}
    if parent.strip("0"):
        span["parentSpanId"] = parent
    span |= {
        "name": name,
        "kind": _KINDS.get(kind, 0),
        "startTimeUnixNano": str(start),
        # Never missing, zero or before the start: collectors take such a span, but what stands behind them subtracts
        # without looking, and shows 585 years (or leaves the span out).
        "endTimeUnixNano": str(max(start, end or 0)),
        "attributes": _attributes(attributes),
    }
    code = _STATUSES.get(status)
    if code is not None:
        span["status"] = {"code": code, **({"message": message} if isinstance(message, str) and message else {})}
    return span


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in attributes.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    """An `AnyValue`."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        # It has no number past 64 bits with a sign.
        return {"intValue": str(value)} if -(2**63) <= value < 2**63 else {"stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": [{"key": str(key), "value": _value(item)} for key, item in value.items()]}}
    if isinstance(value, Iterable):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {}  # null


def _body(name: str, body: bytes) -> dict[str, str]:
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        from base64 import b64encode

        return {f"{name}.base64": b64encode(body).decode()}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
