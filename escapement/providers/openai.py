"""OpenAI's protocol, which Azure, OpenRouter, vLLM, Ollama, llama.cpp and many others speak too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from escapement.providers.operation import Attributes, Document, Event, Message, Operation, ToolCall, named
from escapement.words import semconv

_REQUEST_FIELDS = {
    "model": semconv.REQUEST_MODEL,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "top_k": semconv.REQUEST_TOP_K,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_output_tokens": semconv.REQUEST_MAX_TOKENS,
    "previous_response_id": semconv.REQUEST_PREVIOUS_RESPONSE_ID,
    "reasoning_effort": semconv.REQUEST_REASONING_LEVEL,
    "dimensions": semconv.EMBEDDINGS_DIMENSION_COUNT,
}


def _request(fields: Document) -> Attributes:
    attributes = named(fields, _REQUEST_FIELDS)
    if isinstance(fields.get("n"), int) and fields["n"] != 1:
        attributes[semconv.REQUEST_CHOICE_COUNT] = fields["n"]
    stop = fields.get("stop")
    if stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = [stop] if isinstance(stop, str) else list(stop)
    if isinstance(fields.get("encoding_format"), str):
        attributes[semconv.REQUEST_ENCODING_FORMATS] = [fields["encoding_format"]]
    reasoning = fields.get("reasoning")
    if isinstance(reasoning, dict) and isinstance(reasoning.get("effort"), str):
        attributes[semconv.REQUEST_REASONING_LEVEL] = reasoning["effort"]
    shape = fields.get("response_format") or (fields.get("text") or {}).get("format")
    if isinstance(shape, dict):
        attributes[semconv.OUTPUT_TYPE] = "json" if str(shape.get("type", "")).startswith("json") else "text"
    return attributes


def _usage(usage: Any) -> Attributes:
    """Token counts of chat (`prompt_tokens`) and Responses (`input_tokens`) alike."""
    if not isinstance(usage, dict):
        return {}
    asked = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    said = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return {
        semconv.USAGE_INPUT_TOKENS: usage.get("prompt_tokens", usage.get("input_tokens")),
        semconv.USAGE_OUTPUT_TOKENS: usage.get("completion_tokens", usage.get("output_tokens")),
        semconv.USAGE_CACHE_READ: asked.get("cached_tokens"),
        semconv.USAGE_REASONING: said.get("reasoning_tokens"),
    }


def _chat_answer(document: Document) -> Attributes:
    reasons = [choice.get("finish_reason") for choice in document.get("choices") or ()]
    return {
        semconv.RESPONSE_ID: document.get("id"),
        semconv.RESPONSE_MODEL: document.get("model"),
        semconv.RESPONSE_FINISH_REASONS: [reason for reason in reasons if reason] or None,
        **_usage(document.get("usage")),
    }


def _gather_chat(events: Iterable[Event]) -> Document:
    """Chunks of a chat (or text) completion put together."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for _, chunk in events:
        for key in ("id", "model", "usage", "error"):
            if chunk.get(key):
                whole[key] = chunk[key]
        for part in chunk.get("choices") or ():
            choice = choices.setdefault(part.get("index", 0), {"message": {"role": "assistant", "content": ""}})
            message = choice["message"]
            delta = part.get("delta") or {}
            message["role"] = delta.get("role") or message["role"]
            message["content"] += delta.get("content") or part.get("text") or ""
            for piece in delta.get("tool_calls") or ():
                calls = message.setdefault("tool_calls", {})
                call = calls.setdefault(piece.get("index", 0), {"function": {"name": "", "arguments": ""}})
                function = piece.get("function") or {}
                if piece.get("id"):
                    call["id"] = piece["id"]
                call["function"]["name"] += function.get("name") or ""
                call["function"]["arguments"] += function.get("arguments") or ""
            if part.get("finish_reason"):
                choice["finish_reason"] = part["finish_reason"]
    for choice in choices.values():
        if "tool_calls" in choice["message"]:
            choice["message"]["tool_calls"] = list(choice["message"]["tool_calls"].values())
    return {**whole, "choices": [choices[index] for index in sorted(choices)]}


def _text(content: Any) -> str:
    """Text of a message content: a string, or parts of which those that are not text are named."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = []
    for part in content:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, dict):
            text = part.get("text") or part.get("refusal")
            parts.append(text if isinstance(text, str) else f"[{part.get('type', 'part')}]")
    return "\n".join(parts)


def _chat_message(message: Document) -> Message:
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = function.get("arguments") or ""
        calls.append(ToolCall(str(function.get("name", "")), str(arguments), str(call.get("id") or "")))
    answers = str(message.get("tool_call_id") or "")
    return Message(str(message.get("role", "")), _text(message.get("content")), tuple(calls), answers)


def _chat_asked(document: Document) -> list[Message]:
    if "prompt" in document:
        return [Message("user", _text(document["prompt"]))]
    return [_chat_message(message) for message in document.get("messages") or ()]


def _chat_said(document: Document) -> list[Message]:
    said = []
    for choice in document.get("choices") or ():
        said.append(
            _chat_message(choice["message"]) if "message" in choice else Message("assistant", _text(choice.get("text")))
        )
    return said


def _responses_answer(document: Document) -> Attributes:
    status = document.get("status")
    incomplete = (document.get("incomplete_details") or {}).get("reason")
    return {
        semconv.RESPONSE_ID: document.get("id"),
        semconv.RESPONSE_MODEL: document.get("model"),
        semconv.RESPONSE_FINISH_REASONS: [incomplete or status] if incomplete or status else None,
        **_usage(document.get("usage")),
    }


def _gather_responses(events: Iterable[Event]) -> Document:
    """The response in the last event that carries one (`response.completed`, or as far as it came)."""
    whole: Document = {}
    for _, event in events:
        if isinstance(event.get("response"), dict):
            whole = event["response"]
        elif event.get("type") == "error" or "error" in event:
            whole = {**whole, "error": event.get("error", event)}
    return whole


def _item(item: Any) -> Message | None:
    if isinstance(item, str):
        return Message("user", item)
    if not isinstance(item, dict):
        return None
    kind = item.get("type", "message")
    if kind == "message":
        return Message(str(item.get("role", "")), _text(item.get("content")))
    if kind == "function_call":
        call = ToolCall(str(item.get("name", "")), str(item.get("arguments", "")), str(item.get("call_id") or ""))
        return Message("assistant", "", (call,))
    if kind == "function_call_output":
        return Message("tool", _text(item.get("output")), answers=str(item.get("call_id") or ""))
    if kind == "reasoning":
        return Message("assistant", "[reasoning] " + _text(item.get("summary")))
    return Message("assistant", f"[{kind}]")


def _responses_asked(document: Document) -> list[Message]:
    asked = document.get("input") or ()
    items = [asked] if isinstance(asked, str) else asked
    system = [Message("system", document["instructions"])] if isinstance(document.get("instructions"), str) else []
    return system + [message for item in items if (message := _item(item)) is not None]


def _responses_said(document: Document) -> list[Message]:
    return [message for item in document.get("output") or () if (message := _item(item)) is not None]


def _embeddings_asked(document: Document) -> list[Message]:
    asked = document.get("input")
    texts = asked if isinstance(asked, list) else [asked]
    return [Message("input", text) for text in texts if isinstance(text, str)]


def _embeddings_said(document: Document) -> list[Message]:
    count = len(document.get("data") or ())
    return [Message("output", f"[{count} embedding{'s' if count != 1 else ''}]")] if count else []


_CHAT = Operation("chat", "openai", _request, _chat_answer, _gather_chat, _chat_asked, _chat_said)
_TEXT = Operation("text_completion", "openai", _request, _chat_answer, _gather_chat, _chat_asked, _chat_said)
_RESPONSES = Operation(
    "chat", "openai", _request, _responses_answer, _gather_responses, _responses_asked, _responses_said
)
_EMBEDDINGS = Operation("embeddings", "openai", _request, _chat_answer, asked=_embeddings_asked, said=_embeddings_said)

OPERATIONS = {
    "chat/completions": _CHAT,
    "completions": _TEXT,
    "responses": _RESPONSES,
    "embeddings": _EMBEDDINGS,
}
