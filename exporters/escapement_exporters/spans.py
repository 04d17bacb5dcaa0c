"""A trace as the spans that telemetry has: the run as the root, a span for each step, others' spans under them.

Messages are left out unless they are asked for: telemetry is read by more people than recordings are. What a span
leaves out is in the store, by the trace id and the step that it carries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import orjson

from escapement.engine import usage
from escapement.engine.spans import slim
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.words import semconv

IN_FLIGHT: Final = "escapement.in_flight"
"""Of a step (or run) whose end is not known. Its span has no length."""

Attributes = Mapping[str, Any]

_HEADERS: Final = frozenset({semconv.REQUEST_HEADERS, semconv.RESPONSE_HEADERS})
_NOT_TOLD: Final = _HEADERS | {semconv.SERVED_FROM}
_USED: Final = "gen_ai.usage."
_COUNTED: Final = (_USED, "llm.usage.", "llm.token_count.", "llm.cost.")
"""How other instrumentation (genai and Anthropic's SDK, Traceloop, OpenInference) says what a call used."""
_CALLS: Final = frozenset(
    {"chat", "text_completion", "generate_content", "embeddings", "llm", "embedding", "completion"}
)
"""What it names a call of a model, in `_KINDS`; an agent's span, which has a sum of its own, is another thing."""
_KINDS: Final = ("gen_ai.operation.name", "openinference.span.kind", "llm.request.type")
_RECENT: Final = 10_000
"""Calls that are remembered while a run goes on: whoever else tells of one does so soon."""
_DONE: Final = frozenset({semconv.DIVERGENCE, semconv.TOOLS_FAILED, semconv.TOOL_FAILURES})
"""What happened when a step was recorded, and does not happen again."""
_LONGEST: Final = 1024
"""Characters of an attribute of somebody else's span. What is longer is, by all experience, somebody's message."""
_CONTENT: Final = re.compile(
    r"gen_ai\.(?:prompt|completion|content|input\.messages|output\.messages|system_instructions|tool\.(?:definitions"
    r"|call\.(?:arguments|result)))\b.*|(?:llm|input|output|traceloop\.entity|retrieval|tool|embedding)\b.*"
    r"(?:messages?|value|input|output|prompts?|completions?|documents?|parameters|text|json_schema)\b.*"
)
"""Where other instrumentation (genai, Traceloop, OpenInference) puts what was said."""


@dataclass(slots=True, kw_only=True)
class Span:
    """One span, whatever it is encoded as. Ids are hex; times are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent: str = ""
    name: str
    kind: str
    start: int
    end: int | None
    attributes: Attributes
    status: str = "UNSET"
    message: Any = None
    events: Sequence[tuple[int, str, Attributes]] = ()
    links: Sequence[tuple[str, str]] = ()
    """Trace id and span id of each."""
    scope: str = field(default=semconv.SCOPE)


class RunSpans:
    """The spans of one run. Of `row` only the run itself is looked at: its steps may still be to come.

    What others began in the run, without a parent, lies below it. In older recordings it is a trace of its own, which
    is made part of the run (`adopts`) or linked. Without `prices` no span says what its call cost.
    """

    def __init__(self, row: TraceRow, *, adopts: bool = False, prices: Prices | None = None) -> None:
        self._row = row
        self._prices = prices
        # A damaged recording may have lost the ids of its run: then they follow from what is left.
        self._trace_id = row.otel_trace_id or row.trace_id.removeprefix("tr_").ljust(32, "0")
        self._span_id = row.span_id or self._id("run")
        begun = row.spans if adopts else ()
        self._own = {record["trace_id"] for record in begun if not (record.get("parent") or "").strip("0")}
        self._calls: dict[object, None] = {}
        """Ids of answers, and of what calls lie in. A span of others that has one of them is about the same call."""
        for step in row.steps:
            self._remember(step)
        for record in sorted(row.spans, key=lambda record: int(record["end"] or 0)):  # as they came
            self._is_told(record)

    def _id(self, what: object) -> str:
        return blake2b(f"{self._row.trace_id} {what}".encode(), digest_size=8).hexdigest()

    def root(self, divergence: str = "") -> Span:
        """The run itself, as far as it has come. `divergence`: why it left its trace, where no step says it."""
        row = self._row
        for step in row.steps:
            divergence = divergence or step.attributes.get(semconv.DIVERGENCE, "")
        attributes: dict[str, Any] = {
            semconv.TRACE_ID: row.trace_id,
            semconv.TRACE_NAME: row.name,
            semconv.MODE: row.mode,
        }
        if divergence:
            attributes[semconv.DIVERGENCE] = divergence
        last = row.ended
        if last is not None:
            attributes[semconv.TRACE_STATUS] = row.status
        else:
            attributes[IN_FLIGHT] = True
            last = max((step.end or step.start for step in row.steps), default=row.created)
        failed = row.status in ("failed", "killed", "interrupted")
        return Span(
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

    def step(self, step: StepRow, said: Attributes | None = None) -> Span:
        """A step, with what was `said` in it where that may be told."""
        attributes = _of_step(step.attributes) | dict(said or {})
        if step.end is None:
            attributes[IN_FLIGHT] = True
        self._remember(step)
        span = Span(
            trace_id=self._trace_of(step.otel_trace_id),
            span_id=step.span_id or self._id(step.step),
            parent=self._parent_of(step.parent_span_id, step.otel_trace_id),
            name=step.name or "(gone)",
            kind="CLIENT",
            start=step.start,
            end=step.end,
            attributes=attributes,
            status="ERROR" if semconv.ERROR_TYPE in attributes else "UNSET",
            message=attributes.get(semconv.FAILURE_MESSAGE),
        )
        source = step.source or step.attributes.get(semconv.SERVED_FROM)
        if source is None and step.end is not None:
            attributes[semconv.CALL_FAILED] = int(semconv.ERROR_TYPE in attributes)
        cost = self._cost(step)
        if cost is not None:
            attributes[semconv.CALL_COST if source is None else semconv.CALL_SAVED] = cost
        return span if source is None else self._served(span, step, (source[0], source[1]))

    def _cost(self, step: StepRow) -> float | None:
        """US dollars for a call that was answered; None of what is not known."""
        status = step.attributes.get(semconv.STATUS)
        if self._prices is None or not isinstance(status, int) or not 0 < status < 400:
            return None
        return usage.cost_of(step.attributes, step.start, self._prices)

    def _served(self, span: Span, step: StepRow, source: tuple[str, int]) -> Span:
        """Its span is in the trace that it was recorded in. This one stands for it here, and points there.

        It was not paid for again, so it has no usage: whoever adds up tokens and costs counts them where they were.
        """
        span.attributes = {
            **{name: value for name, value in span.attributes.items() if not _is_of_recording(name)},
            semconv.MODE: "replay",
            semconv.SERVED_FROM: f"{source[0]} step {source[1]}",
        }
        if step.span_id:
            span.links = [(step.otel_trace_id, step.span_id)]
        span.trace_id, span.span_id, span.parent = self._trace_id, self._id(step.step), self._span_id
        return span

    def _remember(self, step: StepRow) -> None:
        ids = (step.parent_span_id, step.attributes.get(semconv.RESPONSE_ID))
        self._calls |= dict.fromkeys(filter(None, ids))
        while len(self._calls) > 2 * max(_RECENT, len(self._row.steps)):
            del self._calls[next(iter(self._calls))]

    def _is_told(self, record: Mapping[str, Any], around: bool = False) -> bool:
        """Whether a span of others is about a call that a step is, too."""
        about = record["attributes"]
        if not any(str(about.get(kind)).lower() in _CALLS for kind in _KINDS):
            return False
        told = around or record["span_id"] in self._calls or about.get(semconv.RESPONSE_ID) in self._calls
        if told and record.get("parent"):
            self._calls[record["parent"]] = None  # there may be another one around it
        return told

    def other(self, record: Mapping[str, Any], content: bool, *, around: bool = False) -> Span:
        """A span of other instrumentation, or of a frame. Where it is about a call that is a step (it is `around` one,
        or they have the same answer), what was used is said there: nobody is to count it twice."""
        attributes = _said(record["attributes"], content)
        if self._is_told(record, around):
            attributes = {name: value for name, value in attributes.items() if not name.startswith(_COUNTED)}
        trace_id = self._trace_of(record["trace_id"])
        parent = self._parent_of(record.get("parent") or "", record["trace_id"])
        return Span(
            trace_id=trace_id,
            span_id=record["span_id"],
            parent=parent,
            links=[(self._trace_id, self._span_id)] if not parent else (),
            name=record["name"],
            kind=str(record.get("kind")),
            start=record.get("start") or record["end"],
            end=record["end"],
            attributes=attributes,
            status=str(record.get("status")),
            message=record.get("description"),
            events=[
                (event["time"], event["name"], _said(event["attributes"], content, event["name"]))
                for event in record.get("events") or ()
            ],
            scope=str(record.get("scope") or ""),
        )

    def _trace_of(self, otel_trace_id: str) -> str:
        return self._trace_id if not otel_trace_id or otel_trace_id in self._own else otel_trace_id

    def _parent_of(self, span_id: str, otel_trace_id: str) -> str:
        if span_id.strip("0"):
            return span_id
        return self._span_id if self._trace_of(otel_trace_id) == self._trace_id else ""


def surroundings() -> dict[str, Any]:
    """What `OTEL_RESOURCE_ATTRIBUTES` says of this process: where it is deployed, to which project spans go."""
    from opentelemetry.sdk.resources import OTELResourceDetector

    return dict(OTELResourceDetector().detect().attributes)


def resource(row: TraceRow, around: Attributes | None = None) -> dict[str, Any]:
    """What all spans of a run come from; None for what is not known. It counts before what is known `around` it."""
    origin = row.origin
    return {
        **(around or {}),
        "service.name": origin.get("service") or row.name or "escapement",
        "telemetry.sdk.name": "escapement",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": origin.get("escapement"),
        "host.name": origin.get("host"),
        "process.pid": origin.get("pid"),
        "process.runtime.version": origin.get("python"),
        semconv.TRACE_ID: row.trace_id,
        semconv.TRACE_NAME: row.name,
        semconv.TRACE_STATUS: row.status,
        "escapement.trace.parent": row.parent,
        "escapement.trace.tags": list(row.tags) or None,
        "escapement.trace.metadata": orjson.dumps(row.metadata).decode() if row.metadata else None,
    }


def _of_step(given: Attributes) -> dict[str, Any]:
    """Its attributes without what was said, and without headers; the answer as its size and hash."""
    return dict(sorted(slim({name: given[name] for name in given if name not in _NOT_TOLD}).items()))


def _is_of_recording(name: str) -> bool:
    return name.startswith(_USED) or name in _DONE


def _said(attributes: Attributes, content: bool, event: str = "") -> Attributes:
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
