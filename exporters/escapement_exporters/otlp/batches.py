"""Spans as OTLP in protobuf, in requests that a receiver takes.

A gRPC server refuses what is over 4 MiB, all of it, so a request is closed before it gets there. Requests put one
behind the other are one request again: that is how protobuf has it, and what the spool rests on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2 as proto

from escapement.words import semconv
from escapement_exporters.otlp.documents import KINDS, SAMPLED, STATUSES
from escapement_exporters.spans import Span

LIMIT: Final = 3_500_000
"""Bytes of a request, below the 4 MiB of gRPC servers with room for what stands around the spans."""
_LARGE: Final = 65_536
"""Characters of an attribute that are sent; what is longer is named by its hash, its size and where it is."""
_SMALL: Final = 256
"""The same, in a span that would be too large for a request."""
_SHORT: Final = 64
"""Characters of an attribute that is worth remembering in its encoded form."""
_FEW: Final = 32
"""Events of such a span."""

Owner = Any
"""Whose spans they are, for those who count."""


@dataclass(slots=True)
class Batch:
    """An encoded request, the number of spans in it, and whose they are."""

    data: bytes
    spans: int
    of: Counter[Owner] = field(default_factory=Counter)


class Batches:
    """Spans on their way into requests."""

    def __init__(self) -> None:
        self._request = ExportTraceServiceRequest()
        self._groups: dict[tuple[int, str], tuple[object, proto.ScopeSpans]] = {}
        self._size = 0
        self._of: Counter[Owner] = Counter()

    def add(self, span: Span, owner: Owner, resource: Mapping[str, Any], version: object = None) -> Iterator[Batch]:
        """Take a span in; what is full is given back. `resource` counts by identity."""
        encoded, size, slimmed = _fitting(span)
        if slimmed:
            owner.counted["slimmed"] += 1
        if self._size and self._size + size > LIMIT:
            yield from self.flush()
        _, group = self._groups.get((id(resource), span.scope)) or self._group(span.scope, resource, version)
        group.spans.append(encoded)
        self._size += size
        self._of[owner] += 1

    def _group(self, scope: str, resource: Mapping[str, Any], version: object) -> tuple[object, proto.ScopeSpans]:
        around = self._request.resource_spans.add()
        _fill(around.resource.attributes, resource)
        group = around.scope_spans.add()
        group.scope.name = scope
        if scope == semconv.SCOPE and isinstance(version, str):
            group.scope.version = version
        self._size += around.ByteSize() + 32
        self._groups[id(resource), scope] = made = resource, group  # held, so that the identity stays its own
        return made

    def flush(self) -> Iterator[Batch]:
        """What has come together so far, if anything has."""
        if self._of:
            yield Batch(self._request.SerializeToString(), self._of.total(), self._of)
        Batches.__init__(self)


def halves(batch: Batch) -> list[Batch]:
    """The spans of a batch as two, for a receiver whose limit is lower than ours."""
    request = ExportTraceServiceRequest.FromString(batch.data)
    groups = [
        (around.resource, scope.scope, span)
        for around in request.resource_spans
        for scope in around.scope_spans
        for span in scope.spans
    ]
    middle = (len(groups) + 1) // 2
    left = Counter(batch.of)
    made = []
    for part in (groups[:middle], groups[middle:]):
        half = ExportTraceServiceRequest()
        of: Counter[Owner] = Counter()
        for resource, scope, span in part:
            around = half.resource_spans.add()
            around.resource.CopyFrom(resource)
            inside = around.scope_spans.add()
            inside.scope.CopyFrom(scope)
            inside.spans.append(span)
            owner = next((owner for owner, count in left.items() if count), None)
            if owner is not None:
                left[owner] -= 1
                of[owner] += 1
        made.append(Batch(half.SerializeToString(), len(part), of))
    return made


def count(data: bytes) -> int:
    """Spans in a request; 0 for what is none."""
    try:
        request = ExportTraceServiceRequest.FromString(data)
    except Exception:  # protobuf's own, of which there are several
        return 0
    return sum(len(scope.spans) for around in request.resource_spans for scope in around.scope_spans)


def encode(span: Span, longest: int = _LARGE) -> proto.Span:
    """A span, with what is longer than `longest` named instead of sent."""
    made = proto.Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        name=span.name[:longest],
        kind=KINDS.get(span.kind, 0),  # type: ignore[arg-type]
        start_time_unix_nano=span.start,
        end_time_unix_nano=max(span.start, span.end or 0),
    )
    if span.parent.strip("0"):
        made.parent_span_id = bytes.fromhex(span.parent)
    at = f"{span.attributes.get(semconv.TRACE_ID, '')} step {span.attributes.get(semconv.STEP, '')}"
    _fill(made.attributes, span.attributes, longest, at)
    code = STATUSES.get(span.status)
    if code is not None:
        made.status.code = code  # type: ignore[assignment]
        if isinstance(span.message, str):
            made.status.message = span.message[:longest]
    for trace_id, span_id in span.links:
        made.links.add(trace_id=bytes.fromhex(trace_id), span_id=bytes.fromhex(span_id), flags=SAMPLED)
    for time, name, attributes in span.events:
        event = made.events.add(time_unix_nano=time, name=name)
        _fill(event.attributes, attributes, longest, at)
    return made


def _fitting(span: Span) -> tuple[proto.Span, int, bool]:
    """A span that a request has room for, its size, and whether more than usual had to be left out."""
    encoded = encode(span)
    size = encoded.ByteSize() + 8
    if size <= LIMIT // 2:
        return encoded, size, False
    span.events = span.events[:_FEW]
    encoded = encode(span, _SMALL)
    size = encoded.ByteSize() + 8
    if size > LIMIT // 2:  # a hundred thousand attributes
        span.attributes = {name: value for name, value in span.attributes.items() if name.startswith("escapement.")}
        encoded = encode(span, _SMALL)
        size = encoded.ByteSize() + 8
    return encoded, size, True


def _fill(pairs: Any, attributes: Mapping[str, Any], longest: int = _LARGE, at: str = "") -> None:
    pairs.extend(_pairs(attributes, longest, at))


def _pairs(attributes: Mapping[str, Any], longest: int, at: str) -> Iterable[KeyValue]:
    for name, value in attributes.items():
        if value is None:
            continue
        kind = type(value)
        if kind is bool or kind is int or (kind is str and len(value) <= _SHORT):
            yield _pair(name, value, kind.__name__)
        else:
            yield KeyValue(key=str(name), value=_value(value, longest, at))


@lru_cache(maxsize=2048)
def _pair(name: str, value: Any, kind: str) -> KeyValue:
    """Most attributes are in the next span, too. `kind` is a name that tells 1 from True."""
    return KeyValue(key=str(name), value=_value(value, _LARGE, ""))


def _named(text: str, at: str) -> str:
    data = text.encode("utf-8", "replace")
    return f"[{len(data)} bytes, blake2b {blake2b(data, digest_size=16).hexdigest()}, in the span store: {at}]"


def _value(value: Any, longest: int, at: str) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value) if -(2**63) <= value < 2**63 else AnyValue(string_value=str(value))
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=_named(value, at) if len(value) > longest else value)
    made = AnyValue()
    if isinstance(value, Mapping):
        made.kvlist_value.SetInParent()
        _fill(made.kvlist_value.values, value, longest, at)
    elif isinstance(value, Iterable):
        made.array_value.SetInParent()
        made.array_value.values.extend(_value(item, longest, at) for item in value)
    return made
