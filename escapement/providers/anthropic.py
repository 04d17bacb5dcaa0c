"""Anthropic's Messages protocol."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import orjson

from escapement.providers.answers import anthropic as answers
from escapement.providers.operation import Attributes, Document, Event, Message, Operation, ToolCall, named
from escapement.words import semconv

_REQUEST_FIELDS = {
    "model": semconv.REQUEST_MODEL,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "top_k": semconv.REQUEST_TOP_K,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
}


def _request(fields: Document) -> Attributes:
    attributes = named(fields, _REQUEST_FIELDS)
    if fields.get("stop_sequences"):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(fields["stop_sequences"])
    effort = (fields.get("output_config") or {}).get("effort")
    if isinstance(effort, str):
        attributes[semconv.REQUEST_REASONING_LEVEL] = effort
    return attributes


def _answer(document: Document) -> Attributes:
    usage = document.get("usage") or {}
    plain, read, written = (
        usage.get(name) or 0 for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    return {
        semconv.RESPONSE_ID: document.get("id"),
        semconv.RESPONSE_MODEL: document.get("model"),
        semconv.RESPONSE_FINISH_REASONS: [document["stop_reason"]] if document.get("stop_reason") else None,
        # The convention counts cached tokens as input; Anthropic reports them beside it.
        semconv.USAGE_INPUT_TOKENS: plain + read + written if "input_tokens" in usage else None,
        semconv.USAGE_OUTPUT_TOKENS: usage.get("output_tokens"),
        semconv.USAGE_CACHE_READ: usage.get("cache_read_input_tokens"),
        semconv.USAGE_CACHE_WRITE: usage.get("cache_creation_input_tokens"),
        semconv.USAGE_REASONING: (usage.get("output_tokens_details") or {}).get("thinking_tokens"),
    }


def _gather(events: Iterable[Event]) -> Document:
    """The events of a message stream put together."""
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    for _, event in events:
        kind = event.get("type")
        if kind == "message_start":
            message = dict(event["message"])
        elif kind == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta":
            block, delta = blocks.setdefault(event["index"], {}), event["delta"]
            for field in ("text", "thinking", "signature", "partial_json"):
                if field in delta:
                    block[field] = (block.get(field) or "") + delta[field]
        elif kind == "message_delta":
            message.update({key: value for key, value in (event.get("delta") or {}).items() if value is not None})
            message["usage"] = {**(message.get("usage") or {}), **(event.get("usage") or {})}
        elif kind == "error":
            message["error"] = event.get("error")
    return {**message, "content": [_whole(blocks[index]) for index in sorted(blocks)]} if message else message


def _whole(block: dict[str, Any]) -> dict[str, Any]:
    """A block with the input that came in parts, unless it was cut off."""
    with suppress(orjson.JSONDecodeError):
        if block.get("partial_json"):
            block["input"] = orjson.loads(block["partial_json"])
            del block["partial_json"]
    return block


def _messages(role: str, content: Any) -> list[Message]:
    """A message of content blocks; tool results come out as messages of their own."""
    if isinstance(content, str):
        return [Message(role, content)]
    texts: list[str] = []
    calls: list[ToolCall] = []
    results: list[Message] = []
    for block in content or ():
        kind = block.get("type")
        if kind == "text":
            texts.append(block.get("text", ""))
        elif kind == "tool_use":
            arguments = block.get("partial_json") or orjson.dumps(block.get("input") or {}).decode()
            calls.append(ToolCall(str(block.get("name", "")), arguments, str(block.get("id") or "")))
        elif kind == "tool_result":
            inner = _messages("tool", block.get("content"))
            text = "\n".join(message.text for message in inner)
            answers = str(block.get("tool_use_id") or "")
            results.append(Message("tool", text, answers=answers, failed=block.get("is_error") is True))
        elif kind == "thinking":
            texts.append("[thinking] " + block.get("thinking", ""))
        else:
            texts.append(f"[{kind}]")
    own = [Message(role, "\n".join(texts), tuple(calls))] if texts or calls else []
    return results + own


def _asked(document: Document) -> list[Message]:
    asked = _messages("system", document["system"]) if document.get("system") else []
    for message in document.get("messages") or ():
        asked += _messages(str(message.get("role", "")), message.get("content"))
    return asked


def _said(document: Document) -> list[Message]:
    return _messages("assistant", document.get("content"))


_CHAT = Operation(
    "chat",
    "anthropic",
    _request,
    _answer,
    _gather,
    _asked,
    _said,
    rewrite=answers.rewrite,
    split=answers.split,
)

_COUNT_TOKENS = Operation("count_tokens", "anthropic", _request, asked=_asked)
_BATCHES = Operation("batches", "anthropic", marks=())

OPERATIONS = {
    "messages": _CHAT,
    "messages/count_tokens": _COUNT_TOKENS,
    "messages/batches": _BATCHES,
    "messages/batches/{id}": _BATCHES,
    "messages/batches/{id}/cancel": _BATCHES,
    "messages/batches/{id}/results": _BATCHES,
    # On Vertex.
    "models/{model}:rawPredict": _CHAT,
    "models/{model}:streamRawPredict": _CHAT,
    "models/count-tokens:rawPredict": _COUNT_TOKENS,
}
