"""Steps as rules see them: of a run under way, and of a recorded trace."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

from escapement.engine import usage
from escapement.engine.guards.reading import CHATS, Reader
from escapement.engine.guards.steps import Answered, Asked
from escapement.providers import Operation, answer_document, recognise
from escapement.store.pieces import Body, Splitter
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.words import semconv
from escapement.words.errors import StoreError
from escapement.words.http import content_type

_UNEXPECTED = (TypeError, ValueError, AttributeError, KeyError, IndexError, RecursionError)
"""What reading a body of an unexpected shape may raise: then its messages are not judged."""


def only_reads(method: str) -> bool:
    """Whether a request just looks (RFC 9110's safe methods): a job is polled until it is done, and that is no loop."""
    return method in ("GET", "HEAD", "OPTIONS")


def asked(
    reader: Reader,
    operation: Operation | None,
    path: str,
    body: Body | None,
    *,
    step: int,
    lane: str,
    fingerprint: str,
    at: int,
    beside: bool,
) -> Asked:
    """A step that is asked for."""
    if body is None or operation is None or operation.name not in CHATS or not body.parsed:
        size = len(body.raw) if body is not None else 0
        return Asked(step, lane, fingerprint, at, size, beside)
    try:
        after, uses, news = reader.request(step, lane, operation, path, body)
    except _UNEXPECTED:
        return Asked(step, lane, fingerprint, at, len(body.raw), beside)
    return Asked(step, lane, fingerprint, at, len(body.raw), beside, True, after, uses, news)


def answered(
    reader: Reader,
    operation: Operation | None,
    document: Mapping[str, Any],
    attributes: Mapping[str, Any],
    *,
    step: int,
    lane: str,
    at: int,
    tokens: int,
    cost: float | None,
) -> Answered:
    """A step that has ended. An error, or a stream that was not read to its end, says nothing about the model."""
    ending = attributes.get(semconv.RESPONSE_ENDING, "end")
    whole = (
        operation is not None
        and operation.name in CHATS
        and 0 < attributes.get(semconv.STATUS, 0) < 400
        and semconv.FAILURE_TYPE not in attributes
        and ending in ("end", "closed")
        and bool(document)
    )
    if operation is None or not whole:
        return Answered(step, lane, at, tokens=tokens, cost=cost)
    try:
        said = operation.said(document)
    except _UNEXPECTED:
        return Answered(step, lane, at, tokens=tokens, cost=cost)
    reader.answer(step, attributes, said)
    text = "\n".join([message.text for message in said])
    calls = sum([len(message.tool_calls) for message in said])
    # Readers close streams when they have seen the end. Of one that was closed before, more might have come.
    read = bool(text or calls or ending == "end" or attributes.get(semconv.RESPONSE_FINISH_REASONS))
    return Answered(step, lane, at, read, text, calls, tokens, cost)


class Recorded:
    """The steps of a recorded trace. Each is asked for in turn; its answer counts when it had come by then."""

    def __init__(self, trace: TraceRow, reader: Reader, prices: Prices | None) -> None:
        self._trace = trace
        self._reader = reader
        self._prices = prices
        self._splitter = Splitter()
        self._ends: dict[str, int] = {}
        self._due: list[tuple[int, int, StepRow]] = []

    def is_beside(self, row: StepRow) -> bool:
        """Whether it is no repetition of the request that it equals: that one was under way when this one was made, or
        it only reads. To be asked of each step once, in order."""
        last = self._ends.get(row.fingerprint, 0)
        self._ends[row.fingerprint] = max(last, row.end or 0)
        return row.start < last or only_reads(row.attributes.get(semconv.METHOD, ""))

    def asked(self, row: StepRow, step: int, lane: str, beside: bool) -> Asked:
        """A recorded step, that is step `step` now."""
        attributes = row.attributes
        path = attributes.get(semconv.PATH, "")
        try:
            raw: bytes | None = self._trace.request_body(row)
        except StoreError:
            raw = None  # gone, or damaged
        if row.end is not None:
            heapq.heappush(self._due, (row.end, step, row))
        return asked(
            self._reader,
            recognise(attributes.get(semconv.METHOD, ""), path, "-"),
            path,
            self._splitter.split(raw, lane) if raw is not None else None,
            step=step,
            lane=lane,
            fingerprint=row.fingerprint,
            at=self.at(row.start),
            beside=beside,
        )

    def at(self, time: int) -> int:
        """Nanoseconds from the beginning of the run to a time since the epoch."""
        return max(0, time - self._trace.created)

    def clock(self, last: int, served: int) -> int:
        """When the request behind the last served one was made: of a run that was stopped, when it was stopped."""
        trace = self._trace
        if trace.status == "killed" and served == len(trace.steps) and trace.ended:
            return max(last, self.at(trace.ended))
        return last

    def answers(self, until: int | None = None) -> Iterator[tuple[Answered, usage.Use]]:
        """The answers that had come by then (of all steps so far: without a time), in order, with what they used."""
        while self._due and (until is None or self._due[0][0] <= until):
            end, step, row = heapq.heappop(self._due)
            attributes = row.attributes
            operation = recognise(attributes.get(semconv.METHOD, ""), attributes.get(semconv.PATH, ""), "-")
            kind = content_type(attributes.get(semconv.RESPONSE_HEADERS))
            document = answer_document(operation, row.body(), kind) if operation is not None else {}
            use = usage.use_of(attributes, attributes, row.start)
            seen = answered(
                self._reader,
                operation,
                document,
                attributes,
                step=step,
                lane=row.lane,
                at=self.at(end),
                tokens=use.input + use.output,
                cost=use.cost(self._prices) if self._prices is not None else 0.0,
            )
            yield seen, use
