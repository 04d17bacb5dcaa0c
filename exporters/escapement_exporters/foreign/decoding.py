"""OTLP as others send it, read into spans: protobuf, JSON, and JSON lines.

It comes from strangers, so a span is looked at before it is one: ids, times and names are checked, values have to be
what an attribute can hold, and there are bounds to all of it. What is wrong is told with the way to it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from escapement.store import vetting
from escapement.store.vetting import Unfit

MOST_SPANS: Final = vetting.MOST_STEPS
"""Spans of one document."""

_KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUSES: Final = ("UNSET", "OK", "ERROR")
_LEVELS: Final = 64
_BEGINS: Final = re.compile(rb'\s*\{\s*"(?:resourceSpans|resource_spans)"')
_TRACE_ID, _SPAN_ID = vetting.hexadecimal(32), vetting.hexadecimal(16)


@dataclass(slots=True)
class Span:
    """A span that somebody made. Times are nanoseconds since the epoch; ids are hex."""

    trace_id: str
    span_id: str
    parent: str
    name: str
    kind: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    status: str = "UNSET"
    description: str = ""
    scope: str = ""
    resource: dict[str, Any] = field(default_factory=dict)


def is_otlp(data: bytes | bytearray) -> bool:
    """Whether a file looks like OTLP: JSON that begins as it does, or protobuf."""
    if data[:64].lstrip()[:1] == b"{":
        return _BEGINS.match(data) is not None
    return data[:1] in (b"\n", b"\x00")


def read(data: bytes | bytearray) -> list[Span]:
    """The spans of a file: JSON (one document, or one a line) or protobuf (one message, or several, each behind its
    length in four bytes, as the Collector writes them). Raises Unfit."""
    if data[:64].lstrip()[:1] == b"{":
        return _within(span for document in _documents(bytes(data)) for span in of_json(document))
    return _within(span for message in _messages(bytes(data)) for span in of_protobuf(message))


def _within(spans: Iterator[Span]) -> list[Span]:
    found: list[Span] = []
    for span in spans:
        found.append(span)
        if len(found) > MOST_SPANS:
            raise Unfit(f"there are more than {MOST_SPANS} spans in it")
    return found


# -- JSON ------------------------------------------------------------------------------------------------------------


def _documents(data: bytes) -> Iterator[Any]:
    try:
        yield orjson.loads(data)
    except orjson.JSONDecodeError as error:
        lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
        if len(lines) < 2:
            raise Unfit(f"its JSON breaks off or is wrong ({error})") from None
        for number, line in lines:
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as wrong:
                raise Unfit(f"line {number} is no JSON ({wrong})") from None


def of_json(document: object) -> Iterator[Span]:
    """The spans of an OTLP/JSON document. Raises Unfit."""
    for at, of_resource in _objects(document, "resourceSpans", "the document"):
        resource = _attributes((of_resource.get("resource") or {}).get("attributes"), f"{at}.resource")
        for inner, of_scope in _objects(of_resource, "scopeSpans", at):
            scope = str((of_scope.get("scope") or {}).get("name") or "")
            for where, span in _objects(of_scope, "spans", inner):
                yield _of_object(span, where, scope, resource)


def _objects(value: object, name: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict):
        raise Unfit(f"{where} should be an object, not {vetting.shown(value)}")
    items = value.get(name) or []
    if not isinstance(items, list):
        raise Unfit(f"{where}.{name} should be a list, not {vetting.shown(items)}")
    for index, item in enumerate(items):
        at = f"{name}[{index}]" if where == "the document" else f"{where}.{name}[{index}]"
        if not isinstance(item, dict):
            raise Unfit(f"{at} should be an object, not {vetting.shown(item)}")
        if not isinstance(item.get("resource") or item.get("scope") or {}, dict):
            raise Unfit(f"{at} should say what it is of in an object")
        yield at, item


def _of_object(span: dict[str, Any], where: str, scope: str, resource: dict[str, Any]) -> Span:
    status = span.get("status") or {}
    if not isinstance(status, dict):
        raise Unfit(f"{where}.status should be an object")
    return Span(
        trace_id=_checked(str(span.get("traceId", "")).lower(), _TRACE_ID, f"{where}.traceId"),
        span_id=_checked(str(span.get("spanId", "")).lower(), _SPAN_ID, f"{where}.spanId"),
        parent=_parent(str(span.get("parentSpanId") or "").lower(), where),
        name=_checked(span.get("name", ""), vetting.text, f"{where}.name"),
        kind=_one_of(span.get("kind"), _KINDS, "SPAN_KIND_"),
        start=_time(span.get("startTimeUnixNano"), f"{where}.startTimeUnixNano"),
        end=_time(span.get("endTimeUnixNano"), f"{where}.endTimeUnixNano"),
        attributes=_attributes(span.get("attributes"), where),
        events=[
            {
                "name": _checked(event.get("name", ""), vetting.text, f"{at}.name"),
                "time": _time(event.get("timeUnixNano"), f"{at}.timeUnixNano"),
                "attributes": _attributes(event.get("attributes"), at),
            }
            for at, event in _objects(span, "events", where)
        ],
        status=_one_of(status.get("code"), _STATUSES, "STATUS_CODE_"),
        description=str(status.get("message") or ""),
        scope=scope,
        resource=resource,
    )


def _checked(value: Any, check: vetting.Check, where: str) -> Any:
    try:
        return check(value)
    except Unfit as unfit:
        raise Unfit(f"{where} should be {unfit}, not {vetting.shown(value)}") from None


def _parent(value: str, where: str) -> str:
    return str(_checked(value, _SPAN_ID, f"{where}.parentSpanId")) if value.strip("0") else ""


def _one_of(value: object, names: tuple[str, ...], prefix: str) -> str:
    if isinstance(value, str):
        value = value.removeprefix(prefix)
        return value if value in names else names[0]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else names[0]


def _time(value: object, where: str) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    return int(_checked(0 if value is None else value, vetting.time, where))


def _attributes(pairs: object, where: str) -> dict[str, Any]:
    if pairs is None:
        return {}
    if not isinstance(pairs, list):
        raise Unfit(f"{where}.attributes should be a list, not {vetting.shown(pairs)}")
    found: dict[str, Any] = {}
    for pair in pairs:
        if not isinstance(pair, dict) or not isinstance(pair.get("key"), str):
            raise Unfit(f"{where}.attributes should be pairs of key and value, not {vetting.shown(pair)}")
        found[pair["key"]] = _value(pair.get("value"), f"{where}.attributes.{ascii(pair['key'])[1:-1][:80]}", _LEVELS)
    return found


def _value(value: object, where: str, levels: int) -> Any:
    """A plain value of an `AnyValue`."""
    if not levels:
        raise Unfit(f"{where} should be nested at most {_LEVELS} levels deep")
    if value is None or value == {}:
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise Unfit(f"{where} should be one value, not {vetting.shown(value)}")
    [(kind, inner)] = value.items()
    if kind == "stringValue" and isinstance(inner, str):
        return inner
    if kind == "boolValue" and isinstance(inner, bool):
        return inner
    if kind == "intValue" and (type(inner) is int or (isinstance(inner, str) and re.fullmatch(r"-?\d{1,19}", inner))):
        number = int(inner)
        if -(2**63) <= number < 2**63:
            return number
    if kind == "doubleValue" and type(inner) in (int, float):
        return float(inner)
    if kind == "bytesValue" and isinstance(inner, str):
        return inner
    if kind == "arrayValue" and isinstance(inner, dict) and isinstance(inner.get("values") or [], list):
        return [_value(item, where, levels - 1) for item in inner.get("values") or ()]
    if kind == "kvlistValue" and isinstance(inner, dict):
        pairs = inner.get("values") or []
        if isinstance(pairs, list) and all(isinstance(pair, dict) and "key" in pair for pair in pairs):
            return {str(pair["key"]): _value(pair.get("value"), where, levels - 1) for pair in pairs}
    raise Unfit(f"{where} should be a value of OTLP, not {vetting.shown(kind)}")


# -- protobuf --------------------------------------------------------------------------------------------------------


def _messages(data: bytes) -> Iterator[bytes]:
    """The messages of a file. One that begins with a zero byte has their lengths in it: no message begins so."""
    if data[:1] != b"\x00":
        yield data
        return
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + size > len(data):
            raise Unfit(f"it breaks off in the message at byte {at}")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def of_protobuf(data: bytes) -> Iterator[Span]:
    """The spans of an `ExportTraceServiceRequest`. Raises Unfit, and ImportError where protobuf is not installed."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        message = ExportTraceServiceRequest.FromString(data)
    except (DecodeError, RecursionError):
        raise Unfit("it is neither OTLP/JSON nor OTLP in protobuf") from None
    for of_resource in message.resource_spans:
        resource = _plain_pairs(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            scope = of_scope.scope.name
            for number, span in enumerate(of_scope.spans):
                yield _of_message(span, f"spans[{number}]", scope, resource)


def _of_message(span: Any, where: str, scope: str, resource: dict[str, Any]) -> Span:
    kind, code = span.kind, span.status.code
    return Span(
        trace_id=_checked(span.trace_id.hex(), _TRACE_ID, f"{where}.traceId"),
        span_id=_checked(span.span_id.hex(), _SPAN_ID, f"{where}.spanId"),
        parent=_parent(span.parent_span_id.hex(), where),
        name=span.name,
        kind=_KINDS[kind] if 0 <= kind < len(_KINDS) else _KINDS[0],
        start=_checked(span.start_time_unix_nano, vetting.time, f"{where}.startTimeUnixNano"),
        end=_checked(span.end_time_unix_nano, vetting.time, f"{where}.endTimeUnixNano"),
        attributes=_plain_pairs(span.attributes),
        events=[
            {
                "name": event.name,
                "time": _checked(event.time_unix_nano, vetting.time, f"{where}.events"),
                "attributes": _plain_pairs(event.attributes),
            }
            for event in span.events
        ],
        status=_STATUSES[code] if 0 <= code < len(_STATUSES) else _STATUSES[0],
        description=span.status.message,
        scope=scope,
        resource=resource,
    )


def _plain_pairs(pairs: Any) -> dict[str, Any]:
    return {pair.key: _plain(pair.value, _LEVELS) for pair in pairs}


def _plain(value: Any, levels: int) -> Any:
    if not levels:
        raise Unfit(f"attributes should be nested at most {_LEVELS} levels deep")
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    inner = getattr(value, kind)
    if kind == "array_value":
        return [_plain(item, levels - 1) for item in inner.values]
    if kind == "kvlist_value":
        return {pair.key: _plain(pair.value, levels - 1) for pair in inner.values}
    return base64.b64encode(inner).decode() if kind == "bytes_value" else inner


def as_record(span: Span) -> dict[str, Any]:
    """The span as journals hold those that are no steps."""
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent": span.parent,
        "name": span.name,
        "kind": span.kind,
        "scope": span.scope,
        "start": span.start,
        "end": max(span.start, span.end),
        "attributes": span.attributes,
        "events": span.events,
        "status": span.status,
        **({"description": span.description} if span.description else {}),
    }


def service_of(resource: Mapping[str, Any]) -> str:
    """The name of the program that made spans; empty where it did not say it."""
    name = resource.get("service.name")
    return name if isinstance(name, str) and not name.startswith("unknown_service") else ""
