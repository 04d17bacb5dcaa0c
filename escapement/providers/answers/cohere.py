"""Cohere's chat, version 2: https://docs.cohere.com/v2/docs/streaming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from escapement.providers.answers import id_of, pieces, without
from escapement.providers.operation import Document, Event, Message


def rewrite(document: Document, message: Message) -> Document:
    """The answer is `message`; what was thought stays. Raises ValueError for version 1."""
    if "message" not in document:
        raise ValueError("answers of version 1 of Cohere's chat can only be edited whole")
    before = document["message"]
    kept = [part for part in before.get("content") or () if part.get("type") == "thinking"]
    text = [{"type": "text", "text": message.text}] if message.text else []
    said = without(before, "content", "tool_calls", "tool_plan", "citations") | {"role": "assistant"}
    if kept or text:
        said["content"] = [*kept, *text]
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": id_of(call, number, call.name),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(message.tool_calls)
        ]
    return {**document, "message": said, "finish_reason": "TOOL_CALL" if message.tool_calls else "COMPLETE"}


def split(document: Document, recorded: Sequence[Event]) -> list[Event]:
    """Each part of the content and each call with its beginning, deltas and end."""
    message = document.get("message") or {}
    opened = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    events: list[dict[str, Any]] = [
        {"type": "message-start", "id": document.get("id"), "delta": {"message": opened}},
    ]

    def add(kind: str, index: int, said: dict[str, Any] | None = None) -> None:
        events.append({"type": kind, "index": index, **({"delta": {"message": said}} if said is not None else {})})

    for piece in pieces(message.get("tool_plan") or ""):
        events.append({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": piece}}})
    for index, part in enumerate(message.get("content") or ()):
        field = "thinking" if part.get("type") == "thinking" else "text"
        add("content-start", index, {"content": {**part, field: ""}})
        for piece in pieces(part.get(field) or ""):
            add("content-delta", index, {"content": {field: piece}})
        add("content-end", index)
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        add("tool-call-start", index, {"tool_calls": {**call, "function": {**function, "arguments": ""}}})
        for piece in pieces(function.get("arguments") or ""):
            add("tool-call-delta", index, {"tool_calls": {"function": {"arguments": piece}}})
        add("tool-call-end", index)
    told = {"finish_reason": document.get("finish_reason"), "usage": document.get("usage")}
    events.append({"type": "message-end", "id": document.get("id"), "delta": told})
    return [(str(event["type"]), event) for event in events]
