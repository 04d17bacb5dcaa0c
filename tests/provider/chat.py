"""The OpenAI chat completions endpoint."""

from __future__ import annotations

import json
import time
from itertools import chain, zip_longest
from typing import Any

from . import content, sse, words
from .exchange import Json, Question, Reply
from .openai import usage


def answer(question: Question) -> Reply:
    messages = [_message(question) for _ in range(question.data.get("n") or 1)]
    head: Json = {
        "id": words.identifier("chatcmpl-", 29),
        "object": "chat.completion.chunk" if question.streaming else "chat.completion",
        "created": int(time.time()) - words.integer(0, 10**6),
        "model": question.model,
        "service_tier": "default",
        "system_fingerprint": "fp_" + words.hexadecimal(10),
    }
    if question.streaming:
        return _stream(question, head, messages)
    choices = [
        {
            "index": index,
            "message": message,
            "logprobs": _logprobs(question, words.pieces(message["content"] or "")),
            "finish_reason": _finish_reason(message),
        }
        for index, message in enumerate(messages)
    ]
    return {**head, "choices": choices, "usage": usage(), "x_provider_extra": words.extra()}


def _message(question: Question) -> Json:
    messages = question.data.get("messages") or [{}]
    answered = messages[-1].get("role") in ("tool", "function")
    calls = content.calls(question, _tools(question), answered)
    message: Json = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if calls:
        message["tool_calls"] = [
            {
                "id": words.identifier("call_"),
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for name, arguments in calls
        ]
    else:
        message["content"] = content.said(question, content.last_user_text(messages), _schema(question))
    return {**message, "x_provider_extra": words.extra()}


def _tools(question: Question) -> dict[str, Json]:
    choice = question.data.get("tool_choice")
    named = choice["function"]["name"] if isinstance(choice, dict) and "function" in choice else None
    return {
        tool["function"]["name"]: tool["function"].get("parameters") or {}
        for tool in question.data.get("tools") or ()
        if "function" in tool and choice != "none" and named in (None, tool["function"]["name"])
    }


def _schema(question: Question) -> Json | None:
    wanted = question.data.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    schema: Json | None = wanted.get("json_schema", {}).get("schema")
    return schema


def _finish_reason(message: Json) -> str:
    return "tool_calls" if "tool_calls" in message else "stop"


def _logprobs(question: Question, tokens: list[str]) -> Json | None:
    if not question.data.get("logprobs"):
        return None
    likely = [words.word() for _ in range(question.data.get("top_logprobs") or 0)]
    return {
        "content": [{**_logprob(token), "top_logprobs": [*map(_logprob, likely)]} for token in tokens],
        "refusal": None,
    }


def _logprob(token: str) -> Json:
    return {"token": token, "logprob": -words.number(0, 12), "bytes": list(token.encode())}


def _stream(question: Question, head: Json, messages: list[Json]) -> list[bytes]:
    # With several choices their chunks come interleaved.
    rows = zip_longest(*(_choices(question, index, message) for index, message in enumerate(messages)))
    with_usage = bool((question.data.get("stream_options") or {}).get("include_usage"))
    rest: Json = {"usage": None} if with_usage else {}
    chunks = [{**head, "choices": [choice], **rest} for choice in chain.from_iterable(rows) if choice]
    chunks[0]["x_provider_extra"] = words.extra()
    if with_usage:
        chunks.append({**head, "choices": [], "usage": usage()})
    # Live chunks carry random padding, too, against guessing text from its length.
    return [*(sse.event({**chunk, "obfuscation": words.identifier("", 9)}) for chunk in chunks), sse.DONE]


def _choices(question: Question, index: int, message: Json) -> list[Json]:
    """The deltas of one choice, as the `choices` entries of its chunks."""

    def choice(delta: Json, logprobs: Json | None = None, finish_reason: str | None = None) -> Json:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    first: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    first["x_provider_extra"] = message["x_provider_extra"]
    if message["content"] is None:
        calls = _tool_call_deltas(message["tool_calls"])
        deltas = [choice(first), *(choice({"tool_calls": [call]}) for call in calls)]
    else:
        tokens = words.pieces(message["content"])
        deltas = [choice({**first, "content": ""})]
        deltas += [choice({"content": token}, _logprobs(question, [token])) for token in tokens]
    return [*deltas, choice({}, finish_reason=_finish_reason(message))]


def _tool_call_deltas(calls: list[Json]) -> list[Json]:
    deltas: list[Json] = []
    for index, call in enumerate(calls):
        function = call["function"]
        deltas.append({**call, "index": index, "function": {**function, "arguments": ""}})
        for piece in words.pieces(function["arguments"]):
            deltas.append({"index": index, "function": {"arguments": piece}})
    return deltas
