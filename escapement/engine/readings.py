"""Readings: the steps of a trace as they are compared with those of another, each by what it adds to its conversation.

A request holds the whole conversation again; what is new in it is found by its pieces, so that reading a trace costs
what it holds, and not what was sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

from escapement.engine.kinds import SPOKEN
from escapement.providers import Message
from escapement.store.messages import Asked, Messages, answered, new_since, operation_of
from escapement.store.rows import StepRow, TraceRow
from escapement.words import semconv

_SAME_KIND = 0.05
_WORDS = 80  # of what a step asks, to say how alike two steps are


@dataclass(frozen=True)
class Reading:
    """One step. `asked` is what it says that its branch had neither said nor been told before."""

    row: StepRow
    asked: Sequence[Message]
    said: Sequence[Message]
    fields: Mapping[str, Any]
    """The settings of the request: all but the model, the tools and what is said."""
    tools: Sequence[Any]

    @property
    def model(self) -> str:
        return str(self.row.attributes.get(semconv.REQUEST_MODEL) or "")

    @property
    def prompt(self) -> list[str]:
        """What it asks, a text a message; the ids of tool calls are new in every run and do not count."""
        return [f"{message.role}: {_text(message)}" for message in self.asked]

    @property
    def answer(self) -> list[str]:
        return [message.text for message in self.said if message.text]

    @property
    def calls(self) -> list[str]:
        return [str(call) for message in self.said for call in message.tool_calls]

    @property
    def error(self) -> str:
        """What it got in place of an answer."""
        attributes = self.row.attributes
        failure = self.row.failure()
        if failure is not None:
            return f"{failure.type}: {failure.message}"
        if not self.row.has_response:
            return "no answer"
        status = attributes[semconv.STATUS]
        return f"HTTP {status}: {self.row.body().decode('utf-8', 'replace')[:2000]}" if status >= 400 else ""

    @property
    def raw(self) -> str:
        """The answer where nobody has said how to read it."""
        return "" if self.said or self.error else blake2b(self.row.body(), digest_size=16).hexdigest()

    @property
    def keys(self) -> tuple[str, str, str]:
        """What tells it from others: its request as a whole, what it asks, and the last of that."""
        return self.row.fingerprint, _digest(self.kind, *self.prompt), _digest(self.kind, *self.prompt[-1:])

    @cached_property
    def kind(self) -> str:
        """The kind of operation: `chat` of `chat gpt-4o`."""
        return self.row.name.partition(" ")[0]

    @cached_property
    def words(self) -> frozenset[str]:
        called = (call.name for message in self.said for call in message.tool_calls)
        return frozenset(" ".join((*self.prompt, *called))[: 20 * _WORDS].split()[:_WORDS])


def readings(trace: TraceRow) -> Iterator[Reading]:
    """The steps of a trace, in order; those that it took over from another as they are there."""
    readers: dict[int, Messages] = {}
    before: dict[str, list[Message]] = {}
    for step in trace.steps:
        holder, row = _original(trace, step)
        operation = operation_of(step)
        asked = Asked()
        said: Sequence[Message] = ()
        if operation is not None:
            reader = readers.setdefault(id(holder), Messages(holder.pieces))
            asked, said = reader.asked(row, operation), tuple(answered(step, operation))
        new = new_since(before.get(step.lane, ()), asked.messages)
        before[step.lane] = [*asked.messages, *said]
        fields = {key: value for key, value in asked.fields.items() if key not in SPOKEN and key not in _APART}
        yield Reading(step, new, said, fields, asked.tools)


def likeness(mine: Reading, theirs: Reading) -> float:
    """How alike two steps are, from 0 to 1: by the words of what they ask, within one kind of operation."""
    if mine.kind != theirs.kind:
        return 0.0
    one, other = mine.words, theirs.words
    both = len(one & other)
    return max(_SAME_KIND, both / (len(one) + len(other) - both)) if one or other else 1.0


_APART = ("model", "tools", "functions")


def _original(trace: TraceRow, step: StepRow) -> tuple[TraceRow, StepRow]:
    """The trace that holds the request of a step, and the step as it is there."""
    while step.source is not None:
        source = trace.sources.get(step.source[0])
        original = source.step(step.source[1]) if source is not None else None
        if source is None or original is None:
            break
        trace, step = source, original
    return trace, step


def _digest(kind: str, *texts: str) -> str:
    return blake2b("\0".join((kind, *texts)).encode(), digest_size=16).hexdigest() if texts else ""


def _text(message: Message) -> str:
    return "\n".join((message.text, *(str(call) for call in message.tool_calls)))
