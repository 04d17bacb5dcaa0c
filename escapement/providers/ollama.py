"""Ollama's own protocol. (It speaks OpenAI's as well, under `/v1`.)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from escapement.providers.answers import ollama as answers
from escapement.providers.operation import Attributes, Document, Event, Message, Operation, ToolCall, counted, named
from escapement.words import semconv

_REQUEST_FIELDS = {"model": semconv.REQUEST_MODEL, "dimensions": semconv.EMBEDDINGS_DIMENSION_COUNT}
_OPTIONS = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "top_k": semconv.REQUEST_TOP_K,
    "num_predict": semconv.REQUEST_MAX_TOKENS,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
}


def _request(fields: Document) -> Attributes:
    options = fields.get("options") or {}
    attributes = named(fields, _REQUEST_FIELDS) | named(options, _OPTIONS)
    stop = options.get("stop")
    if stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = [stop] if isinstance(stop, str) else list(stop)
    if fields.get("format"):
        attributes[semconv.OUTPUT_TYPE] = "json"
    if isinstance(fields.get("think"), str):
        attributes[semconv.REQUEST_REASONING_LEVEL] = fields["think"]
    return attributes


def _answer(document: Document) -> Attributes:
    return {
        semconv.RESPONSE_MODEL: document.get("model"),
        semconv.RESPONSE_FINISH_REASONS: [document["done_reason"]] if document.get("done_reason") else None,
        semconv.USAGE_INPUT_TOKENS: document.get("prompt_eval_count"),
        semconv.USAGE_OUTPUT_TOKENS: document.get("eval_count"),
    }


def _gather(lines: Iterable[Event]) -> Document:
    """The lines of a stream put together: the last one has the counts, all of them have text."""
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {}
    texts = {"response": "", "thinking": ""}
    for _, line in lines:
        whole.update(line)
        for field in texts:
            texts[field] += line.get(field) or ""
        for field, value in (line.get("message") or {}).items():
            if field in ("content", "thinking", "tool_calls"):
                message[field] = message[field] + value if field in message else value
            else:
                message[field] = value
    whole.update({field: text for field, text in texts.items() if text})
    return {**whole, "message": message} if message else whole


def _message(message: Document) -> Message:
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = orjson.dumps(function.get("arguments") or {}).decode()
        calls.append(ToolCall(str(function.get("name", "")), arguments, str(call.get("id") or "")))
    images = len(message.get("images") or ())
    texts = [str(message.get("content") or ""), *["[image]"] * images]
    answers = str(message.get("tool_call_id") or message.get("tool_name") or "")
    thought = str(message.get("thinking") or "")
    return Message(str(message.get("role", "")), "\n".join(filter(None, texts)), tuple(calls), answers, thought)


def _chat_asked(document: Document) -> list[Message]:
    return [_message(message) for message in document.get("messages") or ()]


def _chat_said(document: Document) -> list[Message]:
    return [_message(document["message"])] if document.get("message") else []


def _generate_asked(document: Document) -> list[Message]:
    system = [Message("system", document["system"])] if document.get("system") else []
    prompt = {"role": "user", "content": document.get("prompt"), "images": document.get("images")}
    return [*system, _message(prompt)]


def _generate_said(document: Document) -> list[Message]:
    said = {"role": "assistant", "content": document.get("response"), "thinking": document.get("thinking")}
    return [_message(said)]


def _embed_asked(document: Document) -> list[Message]:
    asked = document.get("input", document.get("prompt"))
    texts = asked if isinstance(asked, list) else [asked]
    return [Message("input", text) for text in texts if isinstance(text, str)]


def _embed_said(document: Document) -> list[Message]:
    return counted(len(document.get("embeddings") or [document.get("embedding")]), "embedding")


_EMBED = Operation("embeddings", "ollama", _request, _answer, asked=_embed_asked, said=_embed_said)

_CHAT = Operation(
    "chat",
    "ollama",
    _request,
    _answer,
    _gather,
    _chat_asked,
    _chat_said,
    rewrite=answers.rewrite,
    split=answers.split,
)

OPERATIONS = {
    "api/chat": _CHAT,
    "api/generate": replace(_CHAT, name="text_completion", asked=_generate_asked, said=_generate_said),
    "api/embed": _EMBED,
    "api/embeddings": _EMBED,
    "api/show": Operation("show", "ollama", _request),
}
