"""A trace as OTLP/JSON: one `ExportTraceServiceRequest`, which any collector takes at `/v1/traces`.

The encoding is that of the OTLP specification, not plain protobuf JSON: ids are hex, enums are numbers, 64-bit numbers
are text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson

from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.words import semconv
from escapement.words.errors import StoreError
from escapement_exporters.spans import RunSpans, Span, resource

KINDS: Final = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
STATUSES: Final = {"OK": 1, "ERROR": 2}
SAMPLED: Final = 1
"""The flag of a link."""


def export(row: TraceRow, *, content: bool = False, prices: Prices | None = None) -> dict[str, Any]:
    """The document: the run as the root, a span for each step, and the spans of other instrumentation under them.

    With `content`, bodies and headers of requests and answers are attributes, too; with `prices`, what calls cost.
    """
    run = RunSpans(row, adopts=True, prices=prices)
    made = [run.root(), *(run.step(step, _bodies(row, step) if content else None) for step in row.steps)]
    scopes: dict[str, list[dict[str, Any]]] = {semconv.SCOPE: [_encoded(span) for span in made]}
    for record in row.spans:
        if record["span_id"] == row.span_id:
            continue  # the run itself: a fork begins inside a run, and takes note of its own root
        span = run.other(record, content)
        scopes.setdefault(span.scope, []).append(_encoded(span))
    version = row.origin.get("escapement")
    ours = {"name": semconv.SCOPE, **({"version": version} if isinstance(version, str) else {})}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource(row))},
                "scopeSpans": [
                    {"scope": ours if name == semconv.SCOPE else {"name": name}, "spans": spans}
                    for name, spans in scopes.items()
                ],
            }
        ]
    }


def _bodies(row: TraceRow, step: StepRow) -> dict[str, Any]:
    given = step.attributes
    headers = (semconv.REQUEST_HEADERS, semconv.RESPONSE_HEADERS)
    found: dict[str, Any] = {name: orjson.dumps(given[name]).decode() for name in headers if name in given}
    with suppress(StoreError):  # it is gone
        found |= _body(semconv.REQUEST_BODY, row.request_body(step))
    if step.has_body:
        found |= _body(semconv.RESPONSE_BODY, step.body())
    return found


def _encoded(made: Span) -> dict[str, Any]:
    span: dict[str, Any] = {"traceId": made.trace_id, "spanId": made.span_id}
    if made.parent.strip("0"):
        span["parentSpanId"] = made.parent
    span |= {
        "name": made.name,
        "kind": KINDS.get(made.kind, 0),
        "startTimeUnixNano": str(made.start),
        # Never missing, zero or before the start: collectors take such a span, but what stands behind them subtracts
        # without looking, and shows 585 years (or leaves the span out).
        "endTimeUnixNano": str(max(made.start, made.end or 0)),
        "attributes": _attributes(made.attributes),
    }
    code = STATUSES.get(made.status)
    if code is not None:
        message = made.message
        span["status"] = {"code": code, **({"message": message} if isinstance(message, str) and message else {})}
    if made.links:
        span["links"] = [{"traceId": trace, "spanId": linked, "flags": SAMPLED} for trace, linked in made.links]
    if made.events:
        span["events"] = [
            {"timeUnixNano": str(time), "name": name, "attributes": _attributes(attributes)}
            for time, name, attributes in made.events
        ]
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
