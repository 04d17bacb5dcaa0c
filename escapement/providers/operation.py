"""One operation of a model API: its conventional name, and how its bodies are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from escapement.words import semconv

Attributes = dict[str, Any]
Document = Mapping[str, Any]
Event = tuple[str, dict[str, Any]]
"""Name (empty where the stream gives none) and data of a server-sent event."""


def _nothing(document: Document) -> Attributes:
    return {}


def _last(events: Iterable[Event]) -> Document:
    last = deque(events, maxlen=1)
    return last[0][1] if last else {}


def named(fields: Document, names: Mapping[str, str]) -> Attributes:
    """The plain values of a body, under the attribute names that they have by convention."""
    attributes: Attributes = {}
    for field, value in fields.items():
        name = names.get(field)
        if name is not None and isinstance(value, str | int | float):
            attributes[name] = value
    if fields.get("stream") is True:
        attributes[semconv.REQUEST_STREAM] = True
    return attributes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that a model asks for. `arguments` is JSON text as the model wrote it; `id` may be empty."""

    name: str
    arguments: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.name}({self.arguments})"


@dataclass(frozen=True, slots=True)
class Message:
    """A message: who, what, the tools called in it, and (of a tool's result) the id of the call it answers."""

    role: str
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    answers: str = ""


def _no_messages(document: Document) -> list[Message]:
    return []


@dataclass(frozen=True, slots=True)
class Operation:
    """`name` and `provider` are values of `gen_ai.operation.name` and `gen_ai.provider.name`.

    `request` and `answer` read attributes out of a body, `gather` puts the events of a stream together into what the
    answer would have been without streaming, `asked` and `said` give the messages of a request and an answer.
    """

    name: str
    provider: str
    request: Callable[[Document], Attributes] = _nothing
    answer: Callable[[Document], Attributes] = _nothing
    gather: Callable[[Iterable[Event]], Document] = _last
    asked: Callable[[Document], list[Message]] = _no_messages
    said: Callable[[Document], list[Message]] = _no_messages
