"""Cohere's protocol: `/v2`, and `/v1`, whose chat has one message and a history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from escapement.providers.answers import cohere as answers
from escapement.providers.operation import Attributes, Document, Event, Message, Operation, ToolCall, counted, named
from escapement.words import semconv

_REQUEST_FIELDS = {
    "model": semconv.REQUEST_MODEL,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "p": semconv.REQUEST_TOP_P,
    "k": semconv.REQUEST_TOP_K,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "output_dimension": semconv.EMBEDDINGS_DIMENSION_COUNT,
}
_ROLES = {"USER": "user", "CHATBOT": "assistant", "SYSTEM": "system", "TOOL": "tool"}


def _request(fields: Document) -> Attributes:
    attributes = named(fields, _REQUEST_FIELDS)
    if fields.get("stop_sequences"):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(fields["stop_sequences"])
    if fields.get("embedding_types"):
        attributes[semconv.REQUEST_ENCODING_FORMATS] = list(fields["embedding_types"])
    shape = fields.get("response_format")
    if isinstance(shape, dict):
        attributes[semconv.OUTPUT_TYPE] = "json" if str(shape.get("type", "")).startswith("json") else "text"
    return attributes


def _answer(document: Document) -> Attributes:
    meta = document.get("meta") or {}
    usage = document.get("usage") or meta
    # What is paid for (the conventions want that), else what was counted; of reranking on other hosts what OpenAI's
    # protocol says. A billed search has no tokens.
    billed = usage.get("billed_units") or {}
    tokens = (billed if "input_tokens" in billed else usage.get("tokens")) or usage
    return {
        semconv.RESPONSE_ID: document.get("id") or document.get("response_id"),
        semconv.RESPONSE_MODEL: document.get("model"),
        semconv.RESPONSE_FINISH_REASONS: [document["finish_reason"]] if document.get("finish_reason") else None,
        semconv.USAGE_INPUT_TOKENS: _count(tokens.get("input_tokens", tokens.get("prompt_tokens"))),
        semconv.USAGE_OUTPUT_TOKENS: _count(tokens.get("output_tokens", tokens.get("completion_tokens"))),
        semconv.USAGE_CACHE_READ: _count(usage.get("cached_tokens")),
    }


def _count(number: Any) -> int | None:
    """A count, which Cohere may write as 12.0."""
    return int(number) if isinstance(number, int | float) else None


def _gather(events: Iterable[Event]) -> Document:
    """The events of either version put together."""
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    calls: dict[int, dict[str, Any]] = {}
    for _, event in events:
        if "event_type" in event:
            _gather_first(whole, event)
            continue
        kind, index = str(event.get("type")), event.get("index", 0)
        delta = event.get("delta") or {}
        part = delta.get("message") or {}
        if kind == "message-start":
            whole["id"] = event.get("id")
            message["role"] = part.get("role")
        elif kind in ("content-start", "content-delta"):
            _add(blocks.setdefault(index, {}), part.get("content") or {}, ("text", "thinking"))
        elif kind == "tool-plan-delta":
            _add(message, part, ("tool_plan",))
        elif kind in ("tool-call-start", "tool-call-delta"):
            piece = dict(part.get("tool_calls") or {})
            call = calls.setdefault(index, {"function": {}})
            _add(call["function"], piece.pop("function", None) or {}, ("arguments",))
            call.update(piece)
        elif kind == "message-end":
            whole.update(delta)
    if message or blocks:
        message["content"] = [blocks[index] for index in sorted(blocks)]
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
        whole["message"] = message
    return whole


def _gather_first(whole: dict[str, Any], event: dict[str, Any]) -> None:
    """An event of version 1, whose last one has the whole answer."""
    if event["event_type"] == "text-generation":
        whole["text"] = whole.get("text", "") + (event.get("text") or "")
    elif event["event_type"] == "stream-end":
        whole.update(event.get("response") or {})
        whole.setdefault("finish_reason", event.get("finish_reason"))


def _add(whole: dict[str, Any], piece: Document, texts: tuple[str, ...]) -> None:
    """Fields of a piece, those of `texts` appended to what was there."""
    for field, value in piece.items():
        whole[field] = (whole.get(field) or "") + (value or "") if field in texts else value


def _text(content: Any) -> str:
    if not isinstance(content, list):
        return str(content or "")
    return "\n".join(_part(part) for part in content if "thinking" not in part)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if "text" in part:
        return str(part["text"])
    if isinstance(part.get("document"), dict):
        return orjson.dumps(part["document"].get("data")).decode()
    return f"[{part.get('type', 'part')}]"


def _message(message: Document) -> Message:
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function")
        if function is None:  # version 1
            function = {"name": call.get("name"), "arguments": orjson.dumps(call.get("parameters") or {}).decode()}
        calls.append(
            ToolCall(str(function.get("name") or ""), str(function.get("arguments") or ""), str(call.get("id") or ""))
        )
    content = message.get("content", message.get("message"))
    parts = content if isinstance(content, list) else ()
    thought = "".join(part["thinking"] for part in parts if isinstance(part, dict) and part.get("thinking"))
    texts = [str(message.get("tool_plan") or ""), _text(content)]
    role = str(message.get("role", ""))
    answers = str(message.get("tool_call_id") or "")
    return Message(_ROLES.get(role, role), "\n".join(filter(None, texts)), tuple(calls), answers, thought)


def _chat_asked(document: Document) -> list[Message]:
    if "message" not in document:
        return [_message(message) for message in document.get("messages") or ()]
    system = [Message("system", document["preamble"])] if document.get("preamble") else []
    history = [_message(message) for message in document.get("chat_history") or ()]
    results = [
        Message("tool", orjson.dumps(result.get("outputs")).decode(), answers=str(result["call"].get("name", "")))
        for result in document.get("tool_results") or ()
    ]
    own = [Message("user", document["message"])] if document["message"] else []
    return [*system, *history, *own, *results]


def _chat_said(document: Document) -> list[Message]:
    if "message" in document:
        return [_message({"role": "assistant", **document["message"]})]
    said = {"role": "assistant", "content": document.get("text"), "tool_calls": document.get("tool_calls")}
    return [_message(said)]


def _embed_asked(document: Document) -> list[Message]:
    asked = [Message("input", text) for text in document.get("texts") or ()]
    asked += [Message("input", "[image]") for _ in document.get("images") or ()]
    return asked + [Message("input", _text(item.get("content"))) for item in document.get("inputs") or ()]


def _embed_said(document: Document) -> list[Message]:
    embeddings = document.get("embeddings") or ()
    if isinstance(embeddings, dict):  # by type
        embeddings = next((vectors for vectors in embeddings.values() if vectors), ())
    return counted(len(embeddings), "embedding")


def _rerank_asked(document: Document) -> list[Message]:
    texts = [text if isinstance(text, str) else orjson.dumps(text).decode() for text in document.get("documents") or ()]
    return [Message("user", str(document.get("query", ""))), *(Message("input", text) for text in texts)]


def _rerank_said(document: Document) -> list[Message]:
    return [
        Message("output", f"document {result.get('index')}: {result.get('relevance_score')}")
        for result in document.get("results") or ()
    ]


OPERATIONS = {
    "chat": Operation(
        "chat",
        "cohere",
        _request,
        _answer,
        _gather,
        _chat_asked,
        _chat_said,
        rewrite=answers.rewrite,
        split=answers.split,
    ),
    "embed": Operation("embeddings", "cohere", _request, _answer, asked=_embed_asked, said=_embed_said),
    "rerank": Operation("rerank", "cohere", _request, _answer, asked=_rerank_asked, said=_rerank_said),
}
