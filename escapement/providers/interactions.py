"""Google's Interactions API: a conversation as steps, kept by the provider, for models and for agents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from escapement.providers.operation import Attributes, Document, Event, Message, Operation, ToolCall, named, summed
from escapement.words import semconv

_FIELDS = {"model": semconv.REQUEST_MODEL, "previous_interaction_id": semconv.REQUEST_PREVIOUS_RESPONSE_ID}
_CONFIG_FIELDS = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "seed": semconv.REQUEST_SEED,
    "max_output_tokens": semconv.REQUEST_MAX_TOKENS,
    "thinking_level": semconv.REQUEST_REASONING_LEVEL,
}
_DELTAS = {"text": ("content", "text"), "thought_summary": ("summary", "content")}
"""Where the pieces of a step belong in it, and where they are in an event."""


def _request(fields: Document) -> Attributes:
    config = fields.get("generation_config") or {}
    attributes = named(fields, _FIELDS) | named(config, _CONFIG_FIELDS)
    if config.get("stop_sequences"):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(config["stop_sequences"])
    return attributes


def _answer(document: Document) -> Attributes:
    usage = document.get("usage") or {}
    return {
        semconv.RESPONSE_ID: document.get("id") or None,
        semconv.RESPONSE_MODEL: document.get("model"),
        semconv.RESPONSE_FINISH_REASONS: [document["status"]] if document.get("status") else None,
        # As of generateContent: results of tools and thoughts are reported beside what they are part of.
        semconv.USAGE_INPUT_TOKENS: summed(usage, "total_input_tokens", "total_tool_use_tokens"),
        semconv.USAGE_OUTPUT_TOKENS: summed(usage, "total_output_tokens", "total_thought_tokens"),
        semconv.USAGE_CACHE_READ: usage.get("total_cached_tokens"),
        semconv.USAGE_REASONING: usage.get("total_thought_tokens"),
    }


def _gather(events: Iterable[Event]) -> Document:
    """What events say of an interaction and of its steps, put together."""
    whole: dict[str, Any] = {}
    steps: dict[int, dict[str, Any]] = {}
    for _, event in events:
        kind = event.get("event_type")
        if isinstance(event.get("interaction"), dict):
            whole |= event["interaction"]
        elif kind == "interaction.status_update":
            whole["status"] = event.get("status")
        elif kind == "step.start":
            steps[event.get("index", 0)] = dict(event.get("step") or {})
        elif kind == "step.delta":
            _add(steps.setdefault(event.get("index", 0), {"type": "model_output"}), event.get("delta") or {})
        elif "error" in event:
            whole["error"] = event["error"]
    return {"steps": [steps[index] for index in sorted(steps)], **whole} if steps else whole


def _add(step: dict[str, Any], delta: dict[str, Any]) -> None:
    kind = delta.get("type", "")
    if kind == "arguments_delta":
        given = step.get("arguments")
        step["arguments"] = (given if isinstance(given, str) else "") + (delta.get("arguments") or "")
    elif kind in _DELTAS:
        into, key = _DELTAS[kind]
        piece = delta.get(key) or ""
        text = piece if isinstance(piece, str) else str(piece.get("text", ""))
        contents = step[into] = list(step.get(into) or ())
        if contents and contents[-1].get("type") == "text":
            contents[-1] = {**contents[-1], "text": contents[-1].get("text", "") + text}
        else:
            contents.append({"type": "text", "text": text})


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content] if content else []
    return "\n".join(
        str(part["text"]) if isinstance(part, dict) and "text" in part else f"[{_kind(part)}]" for part in parts
    )


def _kind(part: Any) -> str:
    return str(part.get("type", "content")) if isinstance(part, dict) else "content"


def _step(step: Any) -> Message:
    """A step, or a piece of content, which is what a user says."""
    if isinstance(step, str):
        return Message("user", step)
    kind = _kind(step)
    if kind == "user_input":
        return Message("user", _text(step.get("content")))
    if kind == "model_output":
        return Message("assistant", _text(step.get("content")))
    if kind == "thought":
        return Message("assistant", "", thought=_text(step.get("summary")))
    if kind == "function_call":
        given = step.get("arguments")
        arguments = given if isinstance(given, str) else orjson.dumps(given or {}).decode()
        return Message("assistant", "", (ToolCall(str(step.get("name", "")), arguments, str(step.get("id", ""))),))
    if kind == "function_result":
        result = step.get("result")
        said = _text(result) if isinstance(result, str | list) else orjson.dumps(result).decode()
        return Message("tool", said, answers=str(step.get("call_id", "")), failed=step.get("is_error") is True)
    if kind.endswith(("_call", "_result")):
        return Message("assistant", f"[{kind}]")  # tools that the provider runs by itself
    return Message("user", _text(step))


def _asked(document: Document) -> list[Message]:
    asked = document.get("input") or ()
    system = [Message("system", document["system_instruction"])] if document.get("system_instruction") else []
    return system + [_step(step) for step in (asked if isinstance(asked, list) else [asked] if asked else [])]


def _said(document: Document) -> list[Message]:
    return [message for step in document.get("steps") or () if (message := _step(step)).role != "user"]


_INTERACTION = Operation(
    "chat", "gcp.gemini", _request, _answer, _gather, _asked, _said, marks=(b'"model"', b'"agent"'), method="POST"
)

OPERATIONS = {
    "interactions": _INTERACTION,
    "interactions/{id}": Operation(
        semconv.FETCH_RESPONSE, "gcp.gemini", answer=_answer, gather=_gather, said=_said, marks=(), method="GET"
    ),
}
