"""Edited answers: what somebody would have the model say instead, as the body that its provider would send."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import orjson

from escapement.providers import answer_document, streams
from escapement.providers.operation import Document, Message, Operation, ToolCall

Edit: TypeAlias = "str | ToolCall | Sequence[ToolCall] | Message | Mapping[str, Any] | Callable[[Document], Edit]"
"""Another text; tools that are called instead; both (a message); the whole answer as a JSON object; or a function
that is given the whole answer and returns one of these."""

_SIGNATURES = ("signature", "thoughtSignature", "encrypted_content")
_NOTHING_WITHOUT = ("thinking", "redacted_thinking")
"""Blocks that their provider refuses to be sent again without their signature."""


def edited(operation: Operation, body: bytes, content_type: str, edit: Edit) -> tuple[list[bytes], list[str]]:
    """The body of an answer after an edit, piece by piece (one, unless it is a stream), and what should be told of it.

    Raises ValueError for an edit that is none, or that this operation cannot have.
    """
    before = answer_document(operation, body, content_type)
    if not before:
        raise ValueError("its answer is not JSON")
    after, lost = _with_signatures_that_hold(before, _document(operation, before, edit))
    if streams.streamed(content_type):
        recorded = list(streams.read(body, content_type))
    elif body.lstrip().startswith(b"["):
        recorded = [("", chunk) for chunk in orjson.loads(body)]
    else:
        return [orjson.dumps(after)], lost
    if operation.split is None:
        raise ValueError(f"streams of {operation.provider} {operation.name} cannot be edited")
    return streams.write(operation.split(after, recorded), content_type, body), lost


def _document(operation: Operation, before: Document, edit: Edit) -> Document:
    while callable(edit):
        edit = edit(orjson.loads(orjson.dumps(before)))
    if isinstance(edit, Mapping):
        try:
            return orjson.loads(orjson.dumps(dict(edit)))  # type: ignore[no-any-return]  # an object, as it was
        except TypeError as error:
            raise ValueError(f"it is not JSON: {error}") from None
    if isinstance(edit, str):
        message = Message("assistant", edit)
    elif isinstance(edit, ToolCall):
        message = Message("assistant", "", (edit,))
    elif isinstance(edit, Message):
        message = edit
    elif isinstance(edit, list | tuple) and edit and all(isinstance(call, ToolCall) for call in edit):
        message = Message("assistant", "", tuple(edit))
    else:
        raise ValueError(
            f"it takes a text, a ToolCall, a list of them, the answer as a dict, or a function of it, not {edit!r}"
        )
    for call in message.tool_calls:
        _check(call)
    if operation.rewrite is None:
        raise ValueError(f"answers of {operation.provider} {operation.name} can only be edited whole, as a dict")
    return operation.rewrite(before, message)


def _check(call: ToolCall) -> None:
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the arguments of {call.name} are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {call.name} are not a JSON object: {call.arguments}")


# -- signatures ------------------------------------------------------------------------------------------------------


def _with_signatures_that_hold(before: Document, after: Document) -> tuple[Document, list[str]]:
    """What is signed and was changed goes without its signature, and it is told. Nobody here can sign it anew."""
    signed = {orjson.dumps(part, option=orjson.OPT_SORT_KEYS) for part in _signed(before)}
    kept: set[bytes] = set()
    cleared = _cleared(after, signed, kept)
    lost = len(signed - kept)
    if not lost:
        return cleared, []
    what = "a part of its answer was" if lost == 1 else f"{lost} parts of its answer were"
    return cleared, [f"{what} signed by the provider and edited: the signature is left out, because it would not hold"]


def _cleared(value: Any, signed: set[bytes], kept: set[bytes]) -> Any:
    if isinstance(value, list):
        cleared = [_cleared(item, signed, kept) for item in value]
        return [item for item in cleared if item is not None or None in value]
    if not isinstance(value, dict):
        return value
    fields = {name: _cleared(item, signed, kept) for name, item in value.items()}
    if not _is_signed(value):
        return fields
    name = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if name in signed:
        kept.add(name)
        return fields
    if value.get("type") in _NOTHING_WITHOUT:
        return None
    return {name: item for name, item in fields.items() if name not in _SIGNATURES}


def _signed(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if _is_signed(value):
            yield value
        for item in value.values():
            yield from _signed(item)
    elif isinstance(value, list):
        for item in value:
            yield from _signed(item)


def _is_signed(value: dict[str, Any]) -> bool:
    return value.get("type") == "redacted_thinking" or any(isinstance(value.get(name), str) for name in _SIGNATURES)
