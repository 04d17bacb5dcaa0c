"""One operation of a model API: its conventional name, and how its bodies are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from escapement.words import semconv

Attributes = dict[str, Any]
Document = Mapping[str, Any]
Event = tuple[str, dict[str, Any]]
"""Name (empty where the stream gives none) and data of an event of a stream."""


def _nothing(document: Document) -> Attributes:
    return {}


def _last(events: Iterable[Event]) -> Document:
    last = deque(events, maxlen=1)
    return last[0][1] if last else {}


def named(fields: Document, names: Mapping[str, str]) -> Attributes:
    """The plain values of a body, under the attribute names and of the types that they have by convention."""
    attributes: Attributes = {}
    for key, value in fields.items():
        name = names.get(key)
        if name is None:
            continue
        if type(value) is str and name not in semconv.DOUBLES and name not in semconv.INTEGERS:
            attributes[name] = value
        elif type(value) in (int, float) and name in semconv.DOUBLES:
            attributes[name] = float(value)
        elif name in semconv.INTEGERS and (type(value) is int or (type(value) is float and value.is_integer())):
            attributes[name] = int(value)
    if fields.get("stream") is True:
        attributes[semconv.REQUEST_STREAM] = True
    return attributes


class ToolCall(NamedTuple):
    """A tool that a model asks for. `arguments` is JSON text as the model wrote it; `id` may be empty."""

    name: str
    arguments: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.name}({self.arguments})"


@dataclass(slots=True, unsafe_hash=True)
class Message:
    """A message: who, what, the tools called in it, and (of a tool's result) the id of the call it answers.

    Nobody changes one. It is not frozen because many are made, and making frozen ones takes four times as long.

    `failed` is a result that its protocol says is an error. `thought` is what the model thought before, where a
    protocol tells it apart. A program may send a message again without it, and that is the same message.
    """

    role: str
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    answers: str = ""
    thought: str = field(default="", compare=False)
    failed: bool = field(default=False, compare=False)

    @property
    def shown(self) -> str:
        """Thought and text, to be read."""
        return "\n".join(filter(None, (f"[thinking] {self.thought}" if self.thought else "", self.text)))


def _no_messages(document: Document) -> list[Message]:
    return []


@dataclass(frozen=True, slots=True)
class Operation:
    """`name` and `provider` are values of `gen_ai.operation.name` and `gen_ai.provider.name`.

    `request` and `answer` read attributes out of a body, `gather` puts the events of a stream together into what the
    answer would have been without streaming, `asked` and `said` give the messages of a request and an answer. `model`
    is the model where the path names it. `marks` are what a body has one of where the path does not: a request to a
    well-known path that has none of them is not one of a model API; without marks it has to come from an SDK that says
    who it is. `method` is the one that makes a request to its path this operation; empty where any does.

    `rewrite` and `split` write answers that somebody edited: a document that says another message, and the events of
    a document as a stream like the one that was recorded. Where there is no `rewrite`, an answer can only be edited
    whole; where there is no `split`, not as a stream. Both raise ValueError for what a protocol cannot say.
    """

    name: str
    provider: str
    request: Callable[[Document], Attributes] = _nothing
    answer: Callable[[Document], Attributes] = _nothing
    gather: Callable[[Iterable[Event]], Document] = _last
    asked: Callable[[Document], list[Message]] = _no_messages
    said: Callable[[Document], list[Message]] = _no_messages
    model: str = ""
    marks: tuple[bytes, ...] = (b'"model"',)
    method: str = ""
    rewrite: Callable[[Document, Message], Document] | None = None
    split: Callable[[Document, Sequence[Event]], list[Event]] | None = None

    def is_asked(self, body: bytes) -> bool:
        """Whether a request to a path of this operation, with this body, is one of a model API."""
        return bool(self.model) or any(mark in body for mark in self.marks)


def counted(count: int, thing: str) -> list[Message]:
    """An answer that is no text, as a message that says what it holds: `[3 embeddings]`; none of nothing."""
    return [Message("output", f"[{count} {thing}{'s' if count != 1 else ''}]")] if count else []


def summed(usage: Document, *names: str) -> int | None:
    """Counts that a protocol tells beside each other, together; None where there are none."""
    counts = [usage[name] for name in names if usage.get(name) is not None]
    return sum(counts) if counts else None
