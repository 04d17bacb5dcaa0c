"""The messages of a conversation, each once: at the step where it was first sent or received.

A request holds the whole conversation again. Its pieces say what is new: an element that was read once is known by
its id, so a long conversation costs what it grows by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from escapement.providers import Message, Operation, answer_document, recognise, request_document
from escapement.store.pieces import ARRAYS
from escapement.store.rows import StepRow
from escapement.words import semconv
from escapement.words.http import content_type

Row = dict[str, Any]


class Messages:
    """Reads the steps of one journal, in order; `pieces` are those of its requests."""

    def __init__(self, pieces: Mapping[str, bytes]) -> None:
        self._pieces = pieces
        self._ids: dict[int, list[str]] = {}
        self._last: dict[str, int] = {}  # a body is described by the last one of a lane, so older ones can go
        self._of_piece: dict[tuple[Operation, str], list[Message]] = {}
        self._before: dict[str, list[Message]] = {}

    def new(self, step: StepRow) -> list[Row]:
        """What the step sent that its branch had not sent or received before, then what it received."""
        attributes = step.attributes
        operation = recognise(attributes.get(semconv.METHOD, ""), attributes.get(semconv.PATH, ""), "-")
        if operation is None:
            return []
        asked = self._asked(step, operation)
        said = answered(step, operation)
        known = self._before.get(step.lane, [])
        self._before[step.lane] = [*asked, *said]
        return [
            *(_row("sent", message) for message in new_since(known, asked)),
            *(_row("received", message) for message in said),
        ]

    def _asked(self, step: StepRow, operation: Operation) -> list[Message]:
        if step.delta is None:
            return []
        ids = step.delta.apply(self._ids.get(step.delta.base, []) if step.delta.base else [])
        self._ids.pop(self._last.get(step.lane, 0), None)
        self._ids[step.step] = ids
        self._last[step.lane] = step.step
        try:
            return self._read(ids, operation, content_type(step.attributes.get(semconv.REQUEST_HEADERS)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return []  # a piece is gone, or a body of an unexpected shape: it has no messages to show

    def _read(self, ids: Sequence[str], operation: Operation, kind: str) -> list[Message]:
        """Messages of a body: those of its elements one by one, those of its other fields as a whole."""
        skeleton: list[bytes] = []
        inside: list[Message] = []
        key = ""
        for number, name in enumerate(ids):
            piece = self._pieces[name]
            ends_in_array = piece.endswith(b"[")
            if ends_in_array or number == len(ids) - 1 or not key:
                skeleton.append(piece)
                key = _key(piece) if ends_in_array else ""
                continue
            found = self._of_piece.get((operation, name))
            if found is None:
                element = orjson.loads(piece.lstrip(b", \t\r\n"))
                found = self._of_piece[operation, name] = operation.asked({key: [element]})
            inside += found
        return operation.asked(request_document(b"".join(skeleton), kind)) + inside


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
    same = 0
    while same < min(len(known), len(asked)) and _is_same(known[same], asked[same]):
        same += 1
    return asked[same:]


def _is_same(one: Message, other: Message) -> bool:
    return one is other or one == other


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
