"""The Gemini API: contents with thoughts and function calls, embeddings, token counts."""

from __future__ import annotations

from typing import Any

from . import content, sse, words
from .exchange import Dialect, Json, Question, Reply

_STATUS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}


def headers() -> dict[str, str]:
    return {
        "server-timing": f"gfet4t7; dur={words.integer(20, 4000)}",
        "x-gemini-service-tier": "standard",
        "vary": "Origin",
    }


def failure(status: int, code: str = "") -> Json:
    kind = _STATUS.get(status, "INTERNAL")
    return {"error": {"code": status, "message": f"Refused: {words.text()}", "status": code or kind}}


def interruption() -> bytes:
    return sse.event(failure(503))


DIALECT = Dialect(headers, failure, interruption)


def answer(question: Question) -> Reply:
    parts = _parts(question)
    head = {"modelVersion": question.model, "responseId": words.identifier("", 23)}
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}
    if not question.streaming:
        return {"candidates": [candidate], "usageMetadata": _usage(), **head}
    pieces = [piece for part in parts for piece in _pieces(part)]
    chunks: list[Json] = [
        {
            "candidates": [{"content": {"role": "model", "parts": [piece]}, "index": 0}],
            "usageMetadata": _usage(),
            **head,
        }
        for piece in pieces
    ]
    chunks[-1]["candidates"][0]["finishReason"] = "STOP"
    return [sse.event(chunk).replace(b"\n", b"\r\n") for chunk in chunks]


def _parts(question: Question) -> list[Json]:
    contents = question.data.get("contents") or [{}]
    config = question.data.get("generationConfig") or {}
    last = contents[-1].get("parts") or [{}]
    answered = any("functionResponse" in part for part in last)
    parts: list[Json] = []
    if config.get("thinkingConfig"):
        parts.append({"text": words.text(), "thought": True})
    calls = content.calls(question, _tools(question), answered)
    for name, arguments in calls:
        call = {"functionCall": {"id": words.identifier("", 8), "name": name, "args": arguments}}
        parts.append({**call, "thoughtSignature": words.identifier("", 40)})
    if not calls:
        said = content.said(question, content.plain(last), config.get("responseJsonSchema"))
        parts.append({"text": said})
    return parts


def _tools(question: Question) -> dict[str, Json]:
    return {
        function["name"]: _schema(function.get("parametersJsonSchema") or function.get("parameters") or {})
        for tool in question.data.get("tools") or ()
        for function in tool.get("functionDeclarations") or ()
    }


def _schema(schema: Any) -> Any:
    """A schema whose types are in lower case, as JSON Schema has them."""
    if isinstance(schema, dict):
        return {
            key: value.lower() if key == "type" and isinstance(value, str) else _schema(value)
            for key, value in schema.items()
        }
    return [_schema(item) for item in schema] if isinstance(schema, list) else schema


def _pieces(part: Json) -> list[Json]:
    return [{**part, "text": piece} for piece in words.pieces(part["text"])] if "text" in part else [part]


def _usage() -> Json:
    prompt, said, thought = words.integer(20, 4000), words.integer(20, 4000), words.integer(0, 4000)
    return {
        "promptTokenCount": prompt,
        "candidatesTokenCount": said,
        "thoughtsTokenCount": thought,
        "cachedContentTokenCount": words.integer(0, prompt),
        "totalTokenCount": prompt + said + thought,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }


def embed(question: Question) -> Json:
    return {"embedding": _embedding(question.data)}


def batch_embed(question: Question) -> Json:
    return {"embeddings": [_embedding(request) for request in question.data["requests"]]}


def _embedding(request: Json) -> Json:
    return {"values": [words.number(-1, 1) for _ in range(request.get("outputDimensionality") or 8)]}


def count_tokens(question: Question) -> Json:
    count = words.integer(1, 4000)
    return {"totalTokens": count, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": count}]}
