"""Anthropic's messages: https://docs.anthropic.com/en/docs/build-with-claude/streaming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from escapement.providers.answers import arguments_of, id_of, pieces, without
from escapement.providers.operation import Document, Event, Message

_SAID = ("text", "tool_use")


def rewrite(document: Document, message: Message) -> Document:
    """What was thought stays, signature and all; texts and tools are those of `message`."""
    kept = [block for block in document.get("content") or () if block.get("type") not in _SAID]
    written: list[dict[str, Any]] = [{"type": "text", "text": message.text}] if message.text else []
    for number, call in enumerate(message.tool_calls):
        name = id_of(call, number, "toolu_")
        written.append({"type": "tool_use", "id": name, "name": call.name, "input": arguments_of(call)})
    reason = "tool_use" if message.tool_calls else "end_turn"
    return {**document, "content": [*kept, *written], "stop_reason": reason, "stop_sequence": None}


def split(document: Document, recorded: Sequence[Event]) -> list[Event]:
    """The message without its content, each block with its beginning, deltas and end, then why it stopped."""
    events = [data for _, data in recorded]
    begun = next((event["message"] for event in events if event.get("type") == "message_start"), None)
    begun = begun or {**document, "content": [], "stop_reason": None, "stop_sequence": None}
    begun = {**begun, **{name: document[name] for name in ("id", "model") if name in document}}
    last = next((event for event in reversed(events) if event.get("type") == "message_delta"), {})
    written: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(document.get("content") or ()):
        start, deltas = _block(block)
        written.append({"type": "content_block_start", "index": index, "content_block": start})
        written += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        written.append({"type": "content_block_stop", "index": index})
    stopped = {name: document.get(name) for name in ("stop_reason", "stop_sequence")}
    usage = {name: (document.get("usage") or {}).get(name) for name in last.get("usage") or ("output_tokens",)}
    written.append({**last, "type": "message_delta", "delta": {**(last.get("delta") or {}), **stopped}, "usage": usage})
    written.append({"type": "message_stop"})
    return [(str(event["type"]), event) for event in written]


def _block(block: Document) -> tuple[Document, list[dict[str, Any]]]:
    """A block as it begins, and what is then added to it."""
    kind = block.get("type")
    if kind == "text":
        return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
    if kind == "thinking":
        return {**block, "thinking": "", "signature": ""}, list(_thought(block))
    if kind in ("tool_use", "server_tool_use"):
        text = block.get("partial_json") or orjson.dumps(block.get("input") or {}).decode()
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(text)]
        return without(block, "partial_json") | {"input": {}}, deltas
    return block, []


def _thought(block: Document) -> Iterator[dict[str, Any]]:
    for piece in pieces(block.get("thinking") or ""):
        yield {"type": "thinking_delta", "thinking": piece}
    if block.get("signature"):
        yield {"type": "signature_delta", "signature": block["signature"]}
