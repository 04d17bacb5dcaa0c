"""OpenAI's protocol, which Azure, OpenRouter, vLLM, Ollama, llama.cpp and many others speak too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from escapement.providers.answers import openai as chat_answers
from escapement.providers.answers import responses as responses_answers
from escapement.providers.operation import Attributes, Document, Event, Message, Operation, ToolCall, counted, named
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


def request(fields: Document) -> Attributes:
    """Attributes of a request, of any operation."""
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
    conversation = fields.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    if isinstance(conversation, str):
        attributes[semconv.CONVERSATION_ID] = conversation
    return attributes


def _image_request(fields: Document) -> Attributes:
    return request(fields) | {semconv.OUTPUT_TYPE: "image"}


def _speech_request(fields: Document) -> Attributes:
    return request(fields) | {semconv.OUTPUT_TYPE: "speech"}


def own_request(fields: Document) -> Attributes:
    """What only OpenAI itself has in a request, of the protocol that others speak too."""
    tier = fields.get("service_tier")
    return {semconv.OPENAI_REQUEST_SERVICE_TIER: tier} if isinstance(tier, str) and tier != "auto" else {}


def own_answer(document: Document) -> Attributes:
    """What only OpenAI itself has in an answer."""
    names = (
        ("service_tier", semconv.OPENAI_RESPONSE_SERVICE_TIER),
        ("system_fingerprint", semconv.OPENAI_SYSTEM_FINGERPRINT),
    )
    return {name: document[key] for key, name in names if isinstance(document.get(key), str)}


def usage(counts: Any) -> Attributes:
    """Token counts of chat (`prompt_tokens`) and Responses (`input_tokens`) alike."""
    if not isinstance(counts, dict):
        return {}
    asked = counts.get("prompt_tokens_details") or counts.get("input_tokens_details") or {}
    said = counts.get("completion_tokens_details") or counts.get("output_tokens_details") or {}
    return {
        semconv.USAGE_INPUT_TOKENS: counts.get("prompt_tokens", counts.get("input_tokens")),
        semconv.USAGE_OUTPUT_TOKENS: counts.get("completion_tokens", counts.get("output_tokens")),
        semconv.USAGE_CACHE_READ: asked.get("cached_tokens"),
        semconv.USAGE_REASONING: said.get("reasoning_tokens"),
        semconv.USAGE_COST: _cost(counts),
    }


def _cost(counts: Document) -> float | None:
    """US dollars, where an answer says them: OpenRouter, with what a key of one's own pays elsewhere; Perplexity."""
    cost = counts.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    elsewhere = (counts.get("cost_details") or {}).get("upstream_inference_cost")
    amounts = [cost, elsewhere] if counts.get("is_byok") is True and elsewhere is not None else [cost]
    if not all(type(amount) in (int, float) for amount in amounts):
        return None
    return float(sum(amount or 0 for amount in amounts))


def _chat_answer(document: Document) -> Attributes:
    reasons = [choice.get("finish_reason") for choice in document.get("choices") or ()]
    return {
        semconv.RESPONSE_ID: document.get("id"),
        semconv.RESPONSE_MODEL: document.get("model"),
        semconv.RESPONSE_FINISH_REASONS: [reason for reason in reasons if reason] or None,
        **usage(document.get("usage")),
    }


def _gather_chat(events: Iterable[Event]) -> Document:
    """Chunks of a chat (or text) completion put together."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for _, chunk in events:
        for key in ("id", "model", "usage", "error", "service_tier", "system_fingerprint"):
            if chunk.get(key):
                whole[key] = chunk[key]
        if (chunk.get("x_groq") or {}).get("usage"):
            whole.setdefault("usage", chunk["x_groq"]["usage"])
        for part in chunk.get("choices") or ():
            choice = choices.setdefault(part.get("index", 0), {"message": {"role": "assistant", "content": ""}})
            message = choice["message"]
            delta = part.get("delta") or {}
            message["role"] = delta.get("role") or message["role"]
            message["content"] += text(delta.get("content")) or part.get("text") or ""
            if thought := _thought(delta):
                message["reasoning"] = message.get("reasoning", "") + thought
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


def text(content: Any) -> str:
    """The text of a message content: a string, or parts of which those that are not text are named."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = []
    for part in content:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, dict) and part.get("type") != "thinking":
            said = part.get("text", part.get("refusal"))
            parts.append(said if isinstance(said, str) else f"[{part.get('type', 'part')}]")
    return "\n".join(parts)


def _thought(message: Document) -> str:
    """What a model thought: a field of its own, or (Mistral) parts of the content."""
    thought = message.get("reasoning") or message.get("reasoning_content")
    if isinstance(thought, str):
        return thought
    content = message.get("content")
    if not isinstance(content, list):
        return ""
    return "".join(
        text(part.get("thinking")) for part in content if isinstance(part, dict) and part.get("type") == "thinking"
    )


def _chat_message(message: Document) -> Message:
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = function.get("arguments") or ""
        calls.append(ToolCall(str(function.get("name", "")), str(arguments), str(call.get("id") or "")))
    answers = str(message.get("tool_call_id") or "")
    role, said = str(message.get("role", "")), text(message.get("content"))
    return Message(role, said, tuple(calls), answers, _thought(message))


def _chat_asked(document: Document) -> list[Message]:
    if "prompt" in document:
        return [Message("user", text(document["prompt"]))]
    return [_chat_message(message) for message in document.get("messages") or ()]


def _chat_said(document: Document) -> list[Message]:
    said = []
    for choice in document.get("choices") or ():
        said.append(
            _chat_message(choice["message"]) if "message" in choice else Message("assistant", text(choice.get("text")))
        )
    return said


def _responses_answer(document: Document) -> Attributes:
    status = document.get("status")
    incomplete = (document.get("incomplete_details") or {}).get("reason")
    return {
        semconv.RESPONSE_ID: document.get("id"),
        semconv.RESPONSE_MODEL: document.get("model"),
        semconv.RESPONSE_FINISH_REASONS: [incomplete or status] if incomplete or status else None,
        **usage(document.get("usage")),
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
        return Message(str(item.get("role", "")), text(item.get("content")))
    if kind == "function_call":
        call = ToolCall(str(item.get("name", "")), str(item.get("arguments", "")), str(item.get("call_id") or ""))
        return Message("assistant", "", (call,))
    if kind == "function_call_output":
        return Message("tool", text(item.get("output")), answers=str(item.get("call_id") or ""))
    if kind == "reasoning":
        return Message("assistant", "[reasoning] " + text(item.get("summary")))
    return Message("assistant", f"[{kind}]")


def _responses_asked(document: Document) -> list[Message]:
    asked = document.get("input") or ()
    items = [asked] if isinstance(asked, str) else asked
    system = [Message("system", document["instructions"])] if isinstance(document.get("instructions"), str) else []
    return system + [message for item in items if (message := _item(item)) is not None]


def _responses_said(document: Document) -> list[Message]:
    return [message for item in document.get("output") or () if (message := _item(item)) is not None]


def _input_asked(document: Document) -> list[Message]:
    asked = document.get("input")
    items = asked if isinstance(asked, list) else [asked]
    texts = [item if isinstance(item, str) else text([item]) for item in items if isinstance(item, str | dict)]
    return [Message("input", one) for one in texts]


def _embeddings_said(document: Document) -> list[Message]:
    return counted(len(document.get("data") or ()), "embedding")


def _images_asked(document: Document) -> list[Message]:
    given = [str(document[name]) for name in ("image", "image[]", "mask") if isinstance(document.get(name), str)]
    prompt = [str(document["prompt"])] if document.get("prompt") else []
    return [Message("user", "\n".join([*prompt, *given]))]


def _images_said(document: Document) -> list[Message]:
    # A stream ends with the image itself.
    return counted(len(document.get("data") or ()) or int("b64_json" in document), "image")


def _file_asked(document: Document) -> list[Message]:
    return [Message("user", str(document[name])) for name in ("file", "prompt") if document.get(name)]


def _text_said(document: Document) -> list[Message]:
    return [Message("output", str(document["text"]))] if "text" in document else []


def _moderation_said(document: Document) -> list[Message]:
    said = []
    for result in document.get("results") or ():
        flags = [name for name, flagged in (result.get("categories") or {}).items() if flagged]
        said.append(Message("output", f"flagged: {', '.join(flags)}" if flags else "not flagged"))
    return said


def _search_asked(document: Document) -> list[Message]:
    asked = document.get("query")
    return [Message("user", str(query)) for query in (asked if isinstance(asked, list) else [asked]) if query]


def _search_said(document: Document) -> list[Message]:
    return counted(len(document.get("data") or ()), "result")


_CHAT = Operation(
    "chat",
    "openai",
    request,
    _chat_answer,
    _gather_chat,
    _chat_asked,
    _chat_said,
    rewrite=chat_answers.rewrite,
    split=chat_answers.split,
)
_RESPONSES = Operation(
    "chat",
    "openai",
    request,
    _responses_answer,
    _gather_responses,
    _responses_asked,
    _responses_said,
    rewrite=responses_answers.rewrite,
    split=responses_answers.split,
)
_IMAGES = Operation("image_generation", "openai", _image_request, _chat_answer, asked=_images_asked, said=_images_said)
_TRANSCRIPTION = Operation("transcription", "openai", request, _chat_answer, asked=_file_asked, said=_text_said)

OPERATIONS = {
    "chat/completions": _CHAT,
    "completions": replace(_CHAT, name="text_completion"),
    "responses": _RESPONSES,
    "responses/{id}": Operation(
        semconv.FETCH_RESPONSE,
        "openai",
        answer=_responses_answer,
        gather=_gather_responses,
        said=_responses_said,
        marks=(),
        method="GET",
    ),
    "responses/input_tokens": Operation("count_tokens", "openai", request, asked=_responses_asked),
    "embeddings": Operation("embeddings", "openai", request, _chat_answer, asked=_input_asked, said=_embeddings_said),
    "images/generations": _IMAGES,
    "images/edits": replace(_IMAGES, name="image_edit"),
    "images/variations": replace(_IMAGES, name="image_variation"),
    "audio/speech": Operation("speech", "openai", _speech_request, asked=_input_asked),
    "audio/transcriptions": _TRANSCRIPTION,
    "audio/translations": replace(_TRANSCRIPTION, name="translation"),
    "moderations": Operation("moderation", "openai", request, _chat_answer, asked=_input_asked, said=_moderation_said),
    "vector_stores/{id}/search": Operation(
        "retrieval", "openai", request, asked=_search_asked, said=_search_said, marks=(b'"query"',)
    ),
    "conversations": Operation("conversations", "openai"),
}
"""What is not here (files, batches, vector stores, assistants, …) is called by the first part of its path, and is
recognised when it comes from an SDK that says who it is."""
