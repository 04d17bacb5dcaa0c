"""The messages of a conversation, each once: at the step where it was first sent or received.

A request holds the whole conversation again. Its pieces say what is new: an element that was read once is known by
its id, so a long conversation costs what it grows by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import orjson

from escapement.providers import Message, Operation, answer_document, recognise, request_document
from escapement.store.pieces import ARRAYS, Delta, same_start
from escapement.store.rows import StepRow
from escapement.words import semconv
from escapement.words.http import content_type

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it is read: its messages, its fields (of a long body without what is in its arrays), its tools."""

    messages: Sequence[Message] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Any] = ()


class Messages:
    """Reads the steps of one journal (or trace), in order; `pieces` are those of its requests."""

    def __init__(self, pieces: Mapping[str, bytes]) -> None:
        self._pieces = pieces
        self._ids: dict[int, list[str]] = {}  # by identity of the step, which its successor holds
        self._last: dict[str, int] = {}  # a body is described by the last one of a lane, so older ones can go
        self._arrays: dict[str, str] = {}
        """Of each piece the array that it is an element of; empty for what stands around elements."""
        self._of_piece: dict[Operation, dict[str, Sequence[Message]]] = {}
        self._apart: dict[str, Any] = {}
        """Pieces that are no messages: tools, and (None) what stands around elements."""
        self._frame: tuple[bytes, Mapping[str, Any]] = (b"", {})
        self._before: dict[str, list[Message]] = {}

    def new(self, step: StepRow) -> list[Row]:
        """What the step sent that its branch had not sent or received before, then what it received."""
        operation = operation_of(step)
        if operation is None:
            return []
        asked = self.asked(step, operation).messages
        said = answered(step, operation)
        known = self._before.get(step.lane, [])
        self._before[step.lane] = [*asked, *said]
        return [
            *(_row("sent", message) for message in new_since(known, asked)),
            *(_row("received", message) for message in said),
        ]

    def asked(self, step: StepRow, operation: Operation) -> Asked:
        """The request of a step; nothing of one that is gone, or of an unexpected shape."""
        if step.delta is None:
            return Asked()
        ids = self._ids_of(step)
        self._ids.pop(self._last.get(step.lane, 0), None)
        self._ids[id(step)] = ids
        self._last[step.lane] = id(step)
        try:
            return self._read(ids, operation, content_type(step.attributes.get(semconv.REQUEST_HEADERS)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return Asked()

    def _ids_of(self, step: StepRow) -> list[str]:
        deltas: list[Delta] = []
        at: StepRow | None = step
        while at is not None and at.delta is not None and id(at) not in self._ids:
            deltas.append(at.delta)
            at = at.base
        ids = self._ids.get(id(at), [])
        for delta in reversed(deltas):
            ids = delta.apply(ids)
        return ids

    def _read(self, ids: Sequence[str], operation: Operation, kind: str) -> Asked:
        """Messages of a body: those of its elements one by one, those of its other fields as a whole."""
        if len(ids) == 1:
            document = request_document(self._pieces[ids[0]], kind)
            return Asked(operation.asked(document), document, document.get("tools") or ())
        known = self._of_piece.setdefault(operation, {})
        try:
            inside = [known[name] for name in ids]
        except KeyError:  # of a long body nearly all are known
            for at in [at for at, name in enumerate(ids) if name not in known]:
                known[ids[at]] = self._element(ids[at], ids[at - 1] if at else "", at == len(ids) - 1, operation)
            inside = [known[name] for name in ids]
        apart = [name for name in ids if name in self._apart]
        frame = b"".join([self._pieces[name] for name in apart if not self._arrays[name]])
        if frame != self._frame[0]:
            self._frame = frame, request_document(frame, kind)
        fields = self._frame[1]
        tools = [self._apart[name] for name in apart if self._arrays[name]]
        return Asked([*operation.asked(fields), *chain.from_iterable(inside)], fields, tools)

    def _element(self, name: str, before: str, last: bool, operation: Operation) -> Sequence[Message]:
        """The messages in a piece, which is an element of the array that the piece before it opens, or is in."""
        piece = self._pieces[name]
        key = "" if last or not before or piece.endswith(b"[") else self._arrays[before] or _key(self._pieces[before])
        self._arrays[name] = key
        if not key:
            self._apart[name] = None
            return ()
        element = orjson.loads(piece.lstrip(b", \t\r\n"))
        if key == "tools":
            self._apart[name] = element
        return operation.asked({key: [element]})


def operation_of(step: StepRow) -> Operation | None:
    """What a step did, by its path; None for what nobody has said how to read."""
    return recognise(step.attributes.get(semconv.METHOD, ""), step.attributes.get(semconv.PATH, ""), "-")


def answered(step: StepRow, operation: Operation) -> list[Message]:
    """The messages of an answer; none of one that is an error, or of an unexpected shape."""
    attributes = step.attributes
    if not step.has_response or attributes[semconv.STATUS] >= 400:
        return []
    kind = content_type(attributes.get(semconv.RESPONSE_HEADERS))
    try:
        return operation.said(answer_document(operation, step.body(), kind))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return []


def _key(piece: bytes) -> str:
    """The name of the array that begins at the end of a piece."""
    name = piece.rstrip(b"[ \t\r\n").rstrip(b":").rstrip().rpartition(b'"')[0].rpartition(b'"')[2].decode()
    return name if name in ARRAYS else ""


def new_since(known: Sequence[Message], asked: Sequence[Message]) -> Sequence[Message]:
    """The messages of a request that its branch had not sent or received before."""
    return asked[same_start(known, asked) :]


def _row(direction: str, message: Message) -> Row:
    return {
        "direction": direction,
        "role": message.role,
        "content": message.shown,
        "answers": message.answers or None,
        "tool_calls": [
            {"id": call.id or None, "name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ],
    }
