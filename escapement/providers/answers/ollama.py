"""Ollama's `chat` and `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from escapement.providers.answers import arguments_of, pieces, without
from escapement.providers.operation import Document, Event, Message


def rewrite(document: Document, message: Message) -> Document:
    """The answer is `message`; what was thought stays."""
    if "message" not in document:
        return {**document, "response": message.text, "done_reason": "stop"}
    said = without(document["message"], "tool_calls") | {"content": message.text}
    if message.tool_calls:
        said["tool_calls"] = [
            {"function": {"name": call.name, "arguments": arguments_of(call)}} for call in message.tool_calls
        ]
    return {**document, "message": said, "done_reason": "stop"}


def split(document: Document, recorded: Sequence[Event]) -> list[Event]:
    """A line for each piece; the last one has what was counted."""
    frame = {name: document[name] for name in ("model", "created_at") if name in document}
    message = document.get("message")
    lines: list[dict[str, Any]] = []

    def add(**fields: Any) -> None:
        body = {"message": {"role": message.get("role", "assistant"), **fields}} if message is not None else fields
        lines.append({**frame, **body, "done": False})

    text = "response" if message is None else "content"
    source = document if message is None else message
    for piece in pieces(source.get("thinking") or ""):
        add(**{text: "", "thinking": piece})
    for piece in pieces(source.get(text) or ""):
        add(**{text: piece})
    if source.get("tool_calls"):
        add(**{text: "", "tool_calls": source["tool_calls"]})
    ending = {"message": {"role": "assistant", "content": ""}} if message is not None else {"response": ""}
    lines.append({**without(document, "message", "response", "thinking"), **ending, "done": True})
    return [("", line) for line in lines]
