"""The Ollama API: chat, completions, embeddings; its streams are lines of JSON."""

from __future__ import annotations

import json
from typing import Any

from . import content, words
from .exchange import Dialect, Json, Question, Reply
from .schema import sample


def headers() -> dict[str, str]:
    return {}


def failure(status: int, code: str = "") -> Json:
    return {"error": f"Refused: {words.text()}"}


def interruption() -> bytes:
    return _line(failure(500))


DIALECT = Dialect(headers, failure, interruption, media_type="application/x-ndjson")


def _line(data: Json) -> bytes:
    return json.dumps(data, ensure_ascii=words.chance(0.3), separators=(",", ":")).encode() + b"\n"


def chat(question: Question) -> Reply:
    messages = question.data.get("messages") or [{}]
    tools = {
        tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in question.data.get("tools") or ()
    }
    message: Json = {"role": "assistant", "content": ""}
    if question.data.get("think"):
        message["thinking"] = words.text()
    calls = content.calls(question, tools, messages[-1].get("role") == "tool")
    if calls:
        message["tool_calls"] = [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    else:
        message["content"] = content.said(question, content.last_user_text(messages), _schema(question))
    if not question.streaming:
        return {**_head(question), "message": message, **_end()}
    parts: list[Json] = [{"content": "", "thinking": piece} for piece in words.pieces(message.get("thinking", ""))]
    parts += [{"content": piece} for piece in words.pieces(message["content"])]
    if calls:
        parts.append({"content": "", "tool_calls": message["tool_calls"]})
    lines = [{**_head(question), "message": {"role": "assistant", **part}, "done": False} for part in parts]
    last = {**_head(question), "message": {"role": "assistant", "content": ""}, **_end()}
    return [_line(line) for line in [*lines, last]]


def generate(question: Question) -> Reply:
    text = content.said(question, str(question.data.get("prompt", "")), _schema(question))
    end = {**_end(), "context": [words.integer(0, 99_999) for _ in range(9)]}
    if not question.streaming:
        return {**_head(question), "response": text, **end}
    lines = [{**_head(question), "response": piece, "done": False} for piece in words.pieces(text)]
    return [_line(line) for line in [*lines, {**_head(question), "response": "", **end}]]


def _schema(question: Question) -> Json | None:
    wanted = question.data.get("format")
    return {"type": "object"} if wanted == "json" else wanted or None


def _head(question: Question) -> Json:
    return {"model": question.model, "created_at": sample({"format": "date-time"})}


def _end() -> dict[str, Any]:
    return {"done": True, "done_reason": "stop", **_durations(), **_counts(), "eval_duration": words.integer(1, 10**9)}


def _durations() -> Json:
    """In nanoseconds."""
    return {"total_duration": words.integer(10**9, 10**10), "load_duration": words.integer(1, 10**9)}


def _counts() -> Json:
    return {
        "prompt_eval_count": words.integer(1, 4000),
        "prompt_eval_duration": words.integer(1, 10**9),
        "eval_count": words.integer(1, 4000),
    }


def embed(question: Question) -> Json:
    wanted = question.data.get("input", "")
    count = 1 if isinstance(wanted, str) else len(wanted)
    vectors = [[words.number(-1, 1) for _ in range(8)] for _ in range(count)]
    tokens = words.integer(1, 4000)
    return {"model": question.model, "embeddings": vectors, **_durations(), "prompt_eval_count": tokens}


def embeddings(question: Question) -> Json:
    return {"embedding": [words.number(-1, 1) for _ in range(8)]}


def show(question: Question) -> Json:
    details = {"format": "gguf", "family": words.word(), "parameter_size": "3B", "quantization_level": "Q4_0"}
    return {"template": words.text(), "details": details, "capabilities": ["completion", "tools"], "model_info": {}}
