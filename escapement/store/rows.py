"""Rows: a trace and its steps as the store holds them, whatever table or journal they came from."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from escapement.store.pieces import Delta, join
from escapement.words import semconv
from escapement.words.errors import StoreError
from escapement.words.http import REASONS, Chunk, Failure, Response

Attributes = dict[str, Any]
_ENDED_BY_THE_PROGRAM = ("KeyboardInterrupt", "SystemExit", "GeneratorExit")


@dataclass(slots=True)
class StepRow:
    """One step. `end` is None while it is in flight (or was, when its process died)."""

    step: int
    lane: str
    fingerprint: str
    name: str
    start: int
    end: int | None
    otel_trace_id: str
    span_id: str
    parent_span_id: str
    attributes: Attributes
    trace_id: str
    source: tuple[str, int] | None = None
    """Trace and step that it was served from."""
    delta: Delta | None = None
    base: StepRow | None = field(default=None, repr=False)
    """How the body of its request is put together: as a change of the body of `base`."""

    @property
    def answered(self) -> bool:
        """Whether there is an answer (or an error in place of one) that can be served again."""
        if self.attributes.get(semconv.FAILURE_TYPE) in _ENDED_BY_THE_PROGRAM:
            return False
        return self.end is not None and (self.has_response or semconv.FAILURE_TYPE in self.attributes)

    @property
    def arrived(self) -> int:
        """When the answer (of a stream: its first chunk) came, in nanoseconds since the epoch."""
        first = self.attributes.get(semconv.RESPONSE_TIME_TO_FIRST_CHUNK)
        return self.start + int(first * 1e9) if first is not None else self.end or self.start

    @property
    def duration(self) -> int | None:
        """Nanoseconds from start to end."""
        return None if self.end is None else self.end - self.start

    @property
    def elapsed(self) -> int:
        """Nanoseconds from the request (the last attempt) to the end of its answer, or to its failure."""
        return int(self.attributes.get(semconv.RESPONSE_ELAPSED, 0))

    def body(self) -> bytes:
        """The decoded body of the answer."""
        if semconv.RESPONSE_BODY_BASE64 in self.attributes:
            return base64.b64decode(self.attributes[semconv.RESPONSE_BODY_BASE64])
        return str(self.attributes.get(semconv.RESPONSE_BODY, "")).encode()

    def encoded(self) -> list[bytes] | None:
        """The chunks of a compressed body as they were received; None where they are not kept."""
        kept = self.attributes.get(semconv.RESPONSE_ENCODED)
        return None if kept is None else [base64.b64decode(chunk) for chunk in kept.split(".")]

    @property
    def has_body(self) -> bool:
        return semconv.RESPONSE_BODY in self.attributes or semconv.RESPONSE_BODY_BASE64 in self.attributes

    @property
    def has_response(self) -> bool:
        return semconv.STATUS in self.attributes

    def failure(self) -> Failure | None:
        kind = self.attributes.get(semconv.FAILURE_TYPE)
        if not kind:
            return None
        return Failure(
            kind, self.attributes.get(semconv.FAILURE_MESSAGE, ""), self.attributes.get(semconv.FAILURE_CAUSES, ())
        )

    def response(self) -> Response | None:
        """The answer as it was received; None where there was none (then `failure` says why)."""
        attributes = self.attributes
        if not self.has_response:
            return None
        body = self.body()
        chunks = attributes.get(semconv.RESPONSE_CHUNKS)
        return Response(
            status=attributes[semconv.STATUS],
            headers=attributes[semconv.RESPONSE_HEADERS],
            body=body,
            chunks=[Chunk(size, at * 1000) for size, at in chunks] if chunks else (),
            http_version=attributes.get(semconv.HTTP_VERSION, "HTTP/1.1"),
            reason=attributes.get(semconv.REASON, REASONS.get(attributes[semconv.STATUS], "")),
            wire_size=attributes.get(semconv.RESPONSE_WIRE, len(body)),
            elapsed=self.elapsed,
            ending=attributes.get(semconv.RESPONSE_ENDING, "end"),
            failure=self.failure(),
        )


@dataclass(slots=True)
class TraceRow:
    """One trace, with all its steps in order and the pieces of their requests.

    `status`: running, completed, failed, killed, or interrupted. `lost` counts steps that could not be written,
    `damaged` lines that could not be read: either makes the trace incomplete.
    """

    trace_id: str
    name: str
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    mode: str
    parent: str | None
    created: int
    status: str
    ended: int | None = None
    error: str | None = None
    lost: int = 0
    damaged: int = 0
    otel_trace_id: str = ""
    span_id: str = ""
    """The OpenTelemetry span of the whole run."""
    imported: Mapping[str, Any] | None = None
    """When and by what it was imported; None where it was recorded here."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    steps: list[StepRow] = field(default_factory=list)
    pieces: Mapping[str, bytes] = field(default_factory=dict)
    sources: dict[str, TraceRow] = field(default_factory=dict)
    """The traces that steps of this one were served from."""
    spans: Sequence[Mapping[str, Any]] = ()
    """Spans that other instrumentation made during the run."""
    _by_number: dict[int, StepRow] = field(default_factory=dict, repr=False, compare=False)
    _resolved: tuple[StepRow | None, list[str]] = field(default=(None, []), repr=False, compare=False)

    @property
    def complete(self) -> bool:
        return not (self.lost or self.damaged)

    def step(self, number: int) -> StepRow | None:
        if len(self._by_number) != len(self.steps):
            self._by_number = {row.step: row for row in self.steps}
        return self._by_number.get(number)

    def request_body(self, row: StepRow) -> bytes:
        """The body of a step's request. Raises StoreError where it is gone."""
        if row.source is not None:
            trace_id, number = row.source
            source = self.sources.get(trace_id)
            original = source.step(number) if source is not None else None
            if source is None or original is None:
                raise StoreError(
                    f"trace {self.trace_id} step {row.step} was served from {trace_id} step {number}, "
                    "which is not in the store any more"
                )
            return source.request_body(original)
        try:
            return join(self._piece_ids(row), self.pieces)
        except KeyError as missing:
            raise StoreError(
                f"trace {self.trace_id} step {row.step}: its request is not whole ({missing} is gone)"
            ) from None

    def _piece_ids(self, row: StepRow) -> list[str]:
        """Follow the bases back to one that is known, then forward again. Raises KeyError for a base that is gone."""
        chain: list[tuple[StepRow, Delta]] = []
        known, ids = self._resolved
        at: StepRow | None = row
        while at is not None and at is not known:
            if at.delta is None:
                raise KeyError(f"the request of step {at.step}")
            chain.append((at, at.delta))
            if at.delta.base and at.base is None:
                raise KeyError(f"the request of step {at.delta.base}")
            at = at.base
        if at is None:
            ids = []
        for _, delta in reversed(chain):
            ids = delta.apply(ids)
        # Readers go through steps in order, where the last one is the base of the next. Keeping all is quadratic.
        self._resolved = (row, ids)
        return ids
