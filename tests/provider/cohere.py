"""The Cohere API: chat of both versions, embeddings, reranking."""

from __future__ import annotations

import json
from collections.abc import Iterator

from . import content, sse, words
from .exchange import Dialect, Json, Question, Reply


def headers() -> dict[str, str]:
    return {
        "x-debug-trace-id": words.hexadecimal(32),
        "x-api-warning": words.words(3),
        "num_tokens": str(words.integer(20, 4000)),
    }


def failure(status: int, code: str = "") -> Json:
    return {"id": words.identifier("", 36), "message": f"Refused: {words.text()}", **({"code": code} if code else {})}


def interruption() -> bytes:
    return sse.event({"type": "error", **failure(500)})


def line_interruption() -> bytes:
    return json.dumps({"event_type": "error", **failure(500)}).encode() + b"\n"


DIALECT = Dialect(headers, failure, interruption)
FIRST = Dialect(headers, failure, line_interruption, media_type="application/stream+json")


def answer(question: Question) -> Reply:
    message = _message(question)
    reply = {
        "id": words.identifier("", 36),
        "finish_reason": "TOOL_CALL" if message["tool_calls"] else "COMPLETE",
        "message": message,
        "usage": _usage(),
    }
    if not question.streaming:
        return reply
    return [*(sse.event(event, event["type"]) for event in _events(reply)), sse.DONE]


def _message(question: Question) -> Json:
    messages = question.data.get("messages") or [{}]
    tools = {
        tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in question.data.get("tools") or ()
    }
    calls = [
        {
            "id": words.identifier(f"{name}_", 12),
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for name, arguments in content.calls(question, tools, messages[-1].get("role") == "tool")
    ]
    message: Json = {"role": "assistant", "tool_calls": calls}
    if calls:
        return {**message, "tool_plan": words.text(), "content": []}
    schema = (question.data.get("response_format") or {}).get("json_schema")
    said = content.said(question, content.last_user_text(messages), schema)
    thoughts = [{"type": "thinking", "thinking": words.text()}] if question.data.get("thinking") else []
    return {**message, "content": [*thoughts, {"type": "text", "text": said}]}


def _usage() -> Json:
    asked, said = float(words.integer(20, 4000)), float(words.integer(20, 4000))
    return {
        "billed_units": {"input_tokens": asked, "output_tokens": said},
        "tokens": {"input_tokens": asked + 100, "output_tokens": said + 7},
        "cached_tokens": float(words.integer(0, 20)),
    }


def _events(reply: Json) -> Iterator[Json]:
    message = reply["message"]
    start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    yield {"id": reply["id"], "type": "message-start", "delta": {"message": start}}
    for piece in words.pieces(message.get("tool_plan", "")):
        yield {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": piece}}}
    for index, call in enumerate(message["tool_calls"]):
        function = call["function"]
        begun = {**call, "function": {**function, "arguments": ""}}
        yield {"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": begun}}}
        for piece in words.pieces(function["arguments"]):
            part = {"function": {"arguments": piece}}
            yield {"type": "tool-call-delta", "index": index, "delta": {"message": {"tool_calls": part}}}
        yield {"type": "tool-call-end", "index": index}
    for index, block in enumerate(message["content"]):
        kind = block["type"]
        begun = {"type": kind, kind: ""}
        yield {"type": "content-start", "index": index, "delta": {"message": {"content": begun}}}
        for piece in words.pieces(block[kind]):
            yield {"type": "content-delta", "index": index, "delta": {"message": {"content": {kind: piece}}}}
        yield {"type": "content-end", "index": index}
    yield {"type": "message-end", "delta": {"finish_reason": reply["finish_reason"], "usage": reply["usage"]}}


def first_answer(question: Question) -> Reply:
    """Chat as version 1 has it: one message, and a stream of lines."""
    asked = str(question.data.get("message", ""))
    text = content.said(question, asked, None)
    usage = _usage()
    reply: Json = {
        "response_id": words.identifier("", 36),
        "generation_id": words.identifier("", 36),
        "text": text,
        "chat_history": [{"role": "USER", "message": asked}, {"role": "CHATBOT", "message": text}],
        "finish_reason": "COMPLETE",
        "meta": {"api_version": {"version": "1"}, **usage},
    }
    if not question.streaming:
        return reply
    events: list[Json] = [{"event_type": "stream-start", "generation_id": reply["generation_id"]}]
    events += [{"event_type": "text-generation", "text": piece} for piece in words.pieces(text)]
    events.append({"event_type": "stream-end", "finish_reason": "COMPLETE", "response": reply})
    return [json.dumps({**event, "is_finished": event is events[-1]}).encode() + b"\n" for event in events]


def embed(question: Question) -> Json:
    texts = question.data.get("texts") or []
    size = question.data.get("output_dimension") or 8
    kinds = question.data.get("embedding_types") or ["float"]
    return {
        "id": words.identifier("", 36),
        "embeddings": {kind: [[_number(kind) for _ in range(size)] for _ in texts] for kind in kinds},
        "texts": texts,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": float(words.integer(1, 400))}},
        "response_type": "embeddings_by_type",
    }


def _number(kind: str) -> float | int:
    return words.number(-1, 1) if kind == "float" else words.integer(-128, 127)


def rerank(question: Question) -> Json:
    count = len(question.data.get("documents") or ())
    scores = sorted((words.number(0, 1) for _ in range(count)), reverse=True)
    results = [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]
    return {
        "id": words.identifier("", 36),
        "results": results[: question.data.get("top_n") or count],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1.0}},
    }


def together_rerank(question: Question) -> Json:
    """What Together answers on the same path."""
    tokens = words.integer(1, 4000)
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    return {**rerank(question), "object": "rerank", "model": question.model, "usage": usage}
