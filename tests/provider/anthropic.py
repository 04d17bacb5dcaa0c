"""The Anthropic API: messages with their stream events, token counts, models."""

from __future__ import annotations

import json
from collections.abc import Iterator

from . import content, sse, words
from .exchange import Dialect, Json, Question, Reply
from .schema import sample

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def headers() -> dict[str, str]:
    limit, reset = words.integer(1000, 9999), sample({"format": "date-time"})
    return {
        "request-id": words.identifier("req_01", 22),
        "anthropic-organization-id": sample({"format": "uuid"}),
        "anthropic-ratelimit-requests-limit": str(limit),
        "anthropic-ratelimit-requests-remaining": str(words.integer(0, limit)),
        "anthropic-ratelimit-requests-reset": reset,
        "anthropic-ratelimit-tokens-limit": "5000000",
        "anthropic-ratelimit-tokens-remaining": str(words.integer(0, 5_000_000)),
        "anthropic-ratelimit-tokens-reset": reset,
        "cf-ray": words.hexadecimal(16) + "-FRA",
        "set-cookie": f"_cfuvid={words.identifier('', 43)}; path=/; HttpOnly; SameSite=None",
    }


def failure(status: int, code: str = "") -> Json:
    error: Json = {"type": _KINDS.get(status, "api_error"), "message": f"Refused: {words.text()}"}
    if code:
        error["details"] = {"error_code": code}
    return {
        "type": "error",
        "error": error,
        "request_id": words.identifier("req_01", 22),
    }


def interruption() -> bytes:
    return sse.event(failure(529), "error")


DIALECT = Dialect(headers, failure, interruption)


def messages(question: Question) -> Reply:
    return told(question, message(question))


def told(question: Question, message: Json) -> Reply:
    """The message in the form asked for."""
    return [sse.event(event, event["type"]) for event in events(message)] if question.streaming else message


def message(question: Question) -> Json:
    """A new message in answer."""
    blocks = _blocks(question)
    calling = any(block["type"] == "tool_use" for block in blocks)
    return {
        "model": question.model,
        "id": words.identifier("msg_01", 22),
        "type": "message",
        "role": "assistant",
        "content": blocks,
        "stop_reason": "tool_use" if calling else "end_turn",
        "stop_sequence": None,
        "usage": _usage(),
        "x_provider_extra": words.extra(),
    }


def _usage() -> Json:
    written = words.integer(0, 2000)
    return {
        "input_tokens": words.integer(20, 4000),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": words.integer(0, 2000),
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": words.integer(20, 4000),
        "service_tier": "standard",
        "x_provider_extra": words.extra(),
    }


def _blocks(question: Question) -> list[Json]:
    blocks: list[Json] = []
    if (question.data.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
        blocks.append({"type": "thinking", "thinking": words.text(), "signature": words.identifier("", 88)})
    asked = question.data.get("messages") or [{}]
    given = asked[-1].get("content")
    answered = isinstance(given, list) and any(part.get("type") == "tool_result" for part in given)
    calls = content.calls(question, _tools(question), answered)
    if not calls:
        text = content.said(question, content.last_user_text(asked), _schema(question))
        blocks.append({"type": "text", "text": text})
    for name, arguments in calls:
        call = {"type": "tool_use", "id": words.identifier("toolu_01", 22), "name": name}
        blocks.append({**call, "input": arguments})
    return blocks


def _tools(question: Question) -> dict[str, Json]:
    choice = question.data.get("tool_choice") or {}
    named = choice.get("name")
    # Tools of the provider's own have no schema and are none the caller could be asked to run.
    return {
        tool["name"]: tool["input_schema"]
        for tool in question.data.get("tools") or ()
        if "input_schema" in tool and choice.get("type") != "none" and named in (None, tool["name"])
    }


def _schema(question: Question) -> Json | None:
    # Older SDKs send the format on its own, newer ones within the output configuration.
    nested = (question.data.get("output_config") or {}).get("format")
    schema: Json | None = (nested or question.data.get("output_format") or {}).get("schema")
    return schema


def events(message: Json) -> list[Json]:
    """The message as the events of a stream."""
    usage = message["usage"]
    first = {**usage, "output_tokens": words.integer(1, 9)}
    begun = {**message, "content": [], "stop_reason": None, "usage": first}
    told: list[Json] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(message["content"]):
        told.append({"type": "content_block_start", "index": index, "content_block": _emptied(block)})
        if index == 0:
            told.append({"type": "ping"})
        told += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in _deltas(block)]
        told.append({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    counts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    told.append({"type": "message_delta", "delta": stop, "usage": {key: usage[key] for key in counts}})
    return [*told, {"type": "message_stop"}]


_EMPTY: dict[str, Json] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


def _emptied(block: Json) -> Json:
    return {**block, **_EMPTY[block["type"]]}


def _deltas(block: Json) -> Iterator[Json]:
    match block["type"]:
        case "text":
            for piece in words.pieces(block["text"]):
                yield {"type": "text_delta", "text": piece}
        case "thinking":
            for piece in words.pieces(block["thinking"]):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "tool_use":
            # Live streams open the arguments with an empty piece.
            for piece in ["", *words.pieces(json.dumps(block["input"]))]:
                yield {"type": "input_json_delta", "partial_json": piece}


def count_tokens(question: Question) -> Json:
    return {"input_tokens": words.integer(20, 100_000), "x_provider_extra": words.extra()}


def models(question: Question) -> Json:
    data = [_model(f"claude-{words.word()}-{words.integer(4, 9)}") for _ in range(3)]
    return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}


def model(question: Question) -> Json:
    return _model(question.name)


def _model(name: str) -> Json:
    created = sample({"format": "date-time"})
    told = {"type": "model", "id": name, "display_name": words.words(2), "created_at": created}
    return {**told, "lifecycle": "active", "x_provider_extra": words.extra()}
