"""Google's protocol, of the Gemini API and of Vertex AI. The path names the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from escapement.providers.answers import gemini as answers
from escapement.providers.operation import (
    Attributes,
    Document,
    Event,
    Message,
    Operation,
    ToolCall,
    counted,
    named,
    summed,
)
from escapement.words import semconv

_CONFIG_FIELDS = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "topP": semconv.REQUEST_TOP_P,
    "topK": semconv.REQUEST_TOP_K,
    "maxOutputTokens": semconv.REQUEST_MAX_TOKENS,
    "frequencyPenalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presencePenalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
}


def _request(fields: Document) -> Attributes:
    config = fields.get("generationConfig") or {}
    attributes = named(config, _CONFIG_FIELDS)
    if config.get("candidateCount", 1) != 1:
        attributes[semconv.REQUEST_CHOICE_COUNT] = config["candidateCount"]
    if config.get("stopSequences"):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(config["stopSequences"])
    if isinstance(config.get("responseMimeType"), str):
        attributes[semconv.OUTPUT_TYPE] = "json" if config["responseMimeType"].endswith("json") else "text"
    level = (config.get("thinkingConfig") or {}).get("thinkingLevel")
    if isinstance(level, str):
        attributes[semconv.REQUEST_REASONING_LEVEL] = level.lower()
    return attributes


def _stream_request(fields: Document) -> Attributes:
    return {**_request(fields), semconv.REQUEST_STREAM: True}


def _answer(document: Document) -> Attributes:
    reasons = [candidate.get("finishReason") for candidate in document.get("candidates") or ()]
    blocked = (document.get("promptFeedback") or {}).get("blockReason")
    usage = document.get("usageMetadata") or {}
    return {
        semconv.RESPONSE_ID: document.get("responseId"),
        semconv.RESPONSE_MODEL: document.get("modelVersion"),
        semconv.RESPONSE_FINISH_REASONS: [reason for reason in [*reasons, blocked] if reason] or None,
        # The convention counts results of tools as input and thoughts as output; Google reports them beside those.
        semconv.USAGE_INPUT_TOKENS: summed(usage, "promptTokenCount", "toolUsePromptTokenCount"),
        semconv.USAGE_OUTPUT_TOKENS: summed(usage, "candidatesTokenCount", "thoughtsTokenCount"),
        semconv.USAGE_CACHE_READ: usage.get("cachedContentTokenCount"),
        semconv.USAGE_REASONING: usage.get("thoughtsTokenCount"),
    }


def _gather(events: Iterable[Event]) -> Document:
    """The chunks of a stream put together: texts that follow each other become one."""
    whole: dict[str, Any] = {}
    candidates: dict[int, dict[str, Any]] = {}
    for _, chunk in events:
        whole.update(chunk)
        for part in chunk.get("candidates") or ():
            candidate = candidates.setdefault(part.get("index", 0), {"content": {"role": "model", "parts": []}})
            content = part.get("content") or {}
            candidate.update({key: value for key, value in part.items() if key != "content"})
            for piece in content.get("parts") or ():
                _append(candidate["content"]["parts"], piece)
    if candidates:
        whole["candidates"] = [candidates[index] for index in sorted(candidates)]
    return whole


def _append(parts: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    last = parts[-1] if parts else {}
    if "text" in piece and "text" in last and piece.get("thought") == last.get("thought"):
        parts[-1] = {**last, **piece, "text": last["text"] + piece["text"]}
    else:
        parts.append(piece)


def _messages(content: Any, role: str = "user") -> list[Message]:
    """A content (`role` and `parts`, or text alone); results of tools come out as messages of their own."""
    if isinstance(content, str):
        return [Message(role, content)]
    if isinstance(content, list):
        return [message for one in content for message in _messages(one, role)]
    role = {"model": "assistant"}.get(content.get("role"), content.get("role")) or role
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    results: list[Message] = []
    for part in content.get("parts") or ():
        call, result = part.get("functionCall"), part.get("functionResponse")
        if call is not None:
            arguments = orjson.dumps(call.get("args") or {}).decode()
            calls.append(ToolCall(str(call.get("name", "")), arguments, str(call.get("id") or "")))
        elif result is not None:
            answers = str(result.get("id") or result.get("name") or "")
            results.append(Message("tool", orjson.dumps(result.get("response")).decode(), answers=answers))
        elif part.get("thought"):
            thoughts.append(str(part.get("text", "")))
        else:
            texts.append(_text(part))
    own = []
    if texts or calls or thoughts:
        own = [Message(role, "\n".join(texts), tuple(calls), thought="\n".join(thoughts))]
    return results + own


def _text(part: Document) -> str:
    if "text" in part:
        return str(part["text"])
    if "executableCode" in part:
        return str(part["executableCode"].get("code", ""))
    if "codeExecutionResult" in part:
        return str(part["codeExecutionResult"].get("output", ""))
    for kind in ("inlineData", "fileData"):
        if kind in part:
            return f"[{part[kind].get('mimeType') or kind}]"
    return f"[{next(iter(part), 'part')}]"


def _asked(document: Document) -> list[Message]:
    system = document.get("systemInstruction")
    asked = [replace(message, role="system") for message in _messages(system)] if system else []
    return asked + _messages(document.get("contents") or [])


def _said(document: Document) -> list[Message]:
    said: list[Message] = []
    for candidate in document.get("candidates") or ():
        said += _messages(candidate.get("content") or {}, "assistant")
    return said


def _embed_request(fields: Document) -> Attributes:
    size = fields.get("outputDimensionality") or (fields.get("parameters") or {}).get("outputDimensionality")
    return {semconv.EMBEDDINGS_DIMENSION_COUNT: size} if isinstance(size, int) else {}


def _embed_asked(document: Document) -> list[Message]:
    return [
        replace(message, role="input")
        for request in document.get("requests") or [document]
        for message in _messages(request.get("content") or {})
    ]


def _embed_said(document: Document) -> list[Message]:
    return counted(len(document.get("embeddings") or [document.get("embedding")]), "embedding")


def _count_said(document: Document) -> list[Message]:
    return counted(document.get("totalTokens") or 0, "token")


def _predict_asked(document: Document) -> list[Message]:
    """Instances of embeddings have `content`, those of images and videos a `prompt`."""
    texts = [instance.get("content") or instance.get("prompt") for instance in document.get("instances") or ()]
    return [Message("input", text) for text in texts if isinstance(text, str)]


def _predict_said(document: Document) -> list[Message]:
    return counted(len(document.get("predictions") or ()), "prediction")


def _predict_answer(document: Document) -> Attributes:
    embeddings = [prediction.get("embeddings") or {} for prediction in document.get("predictions") or ()]
    counts = [(embedding.get("statistics") or {}).get("token_count") for embedding in embeddings]
    return {semconv.USAGE_INPUT_TOKENS: sum(int(count) for count in counts if count) or None}


_GENERATE = Operation(
    "generate_content",
    "gcp.gemini",
    _request,
    _answer,
    _gather,
    _asked,
    _said,
    rewrite=answers.rewrite,
    split=answers.split,
)
_EMBED = Operation("embeddings", "gcp.gemini", _embed_request, _answer, asked=_embed_asked, said=_embed_said)

OPERATIONS = {
    "models/{model}:generateContent": _GENERATE,
    "models/{model}:streamGenerateContent": replace(_GENERATE, request=_stream_request),
    "models/{model}:embedContent": _EMBED,
    "models/{model}:batchEmbedContents": _EMBED,
    "models/{model}:countTokens": Operation("count_tokens", "gcp.gemini", asked=_asked, said=_count_said),
    "models/{model}:predict": Operation(
        "predict", "gcp.gemini", _embed_request, _predict_answer, asked=_predict_asked, said=_predict_said
    ),
}
# Tuned models, and those of one's own on Vertex, are asked in the same way.
OPERATIONS |= {
    path.replace("models/", kind, 1): operation
    for path, operation in tuple(OPERATIONS.items())
    for kind in ("tunedModels/", "endpoints/")
}
