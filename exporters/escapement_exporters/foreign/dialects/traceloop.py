"""Traceloop's instrumentors (`opentelemetry-instrumentation-openai`, `-anthropic`, …; OpenLLMetry).

Newer ones write messages by the conventions; older ones have an attribute for each field of each message
(`gen_ai.prompt.0.role`, `gen_ai.completion.0.content`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from escapement.words import semconv
from escapement_exporters.foreign.decoding import Span
from escapement_exporters.foreign.dialects import conventions
from escapement_exporters.foreign.dialects.told import Message, Told, as_json, text_of, unflattened

_OPERATIONS: Final = {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"}
_CHUNK: Final = "gen_ai.content.completion.chunk"


def read(span: Span) -> Told | None:
    """What a span of Traceloop's tells; None for one that is of no call of a model."""
    kind = text_of(span, "llm.request.type")
    if semconv.OPERATION_NAME not in span.attributes and kind in _OPERATIONS:
        span = replace(span, attributes=span.attributes | {semconv.OPERATION_NAME: _OPERATIONS[kind]})
    told = conventions.read(span)
    if told is None:
        return None
    told.stream = told.stream or any(event["name"] == _CHUNK for event in span.events)
    if told.asked is None:
        told.asked = _messages(span, "gen_ai.prompt")
    if told.said is None:
        told.said = _messages(span, "gen_ai.completion")
    if told.said and not told.finish:
        told.finish = str(told.said[0].get("finish_reason") or "")
    if told.tools is None:
        functions = unflattened(span.attributes, "llm.request.functions")
        if isinstance(functions, list):
            told.tools = [_function(item) for item in functions if isinstance(item, dict)]
    return told


def _messages(span: Span, prefix: str) -> list[Message] | None:
    found = unflattened(span.attributes, prefix)
    return [_message(item) for item in found if isinstance(item, dict)] if isinstance(found, list) else None


def _message(item: dict[str, Any]) -> Message:
    content = item.get("content")
    role = str(item.get("role") or "assistant")
    parts: list[dict[str, Any]] = []
    blocks = as_json(content) if isinstance(content, str) and content.startswith("[{") else None
    if isinstance(blocks, list) and all(isinstance(block, dict) and "type" in block for block in blocks):
        parts += [{**block, "content": block["text"]} if "text" in block else block for block in blocks]
    elif isinstance(content, str) and role == "tool":
        parts.append({"type": "tool_call_response", "id": item.get("tool_call_id"), "response": content})
    elif isinstance(content, str) and content:
        parts.append({"type": "text", "content": content})
    calls = item.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            parts.append({"type": "tool_call", **{name: call.get(name) for name in ("id", "name", "arguments")}})
    return {"role": role, "parts": parts, "finish_reason": item.get("finish_reason")}


def _function(item: dict[str, Any]) -> dict[str, Any]:
    schema = as_json(item.get("parameters")) or as_json(item.get("input_schema"))
    return {"type": "function", **{name: item.get(name) for name in ("name", "description")}, "parameters": schema}
