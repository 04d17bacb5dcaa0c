"""What Mistral has beside OpenAI's protocol: conversations, OCR, classification."""

from __future__ import annotations

import json
from collections.abc import Iterator

from . import content, sse, words
from .exchange import Json, Question, Reply
from .openai import usage
from .schema import sample


def conversation(question: Question) -> Reply:
    functions = {
        tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in question.data.get("tools") or ()
    }
    asked = question.data.get("inputs") or ""
    answered = isinstance(asked, list) and any(entry.get("type") == "function.result" for entry in asked)
    outputs: list[Json] = [
        {
            "object": "entry",
            "type": "function.call",
            "id": words.identifier("fc_"),
            "tool_call_id": words.identifier("", 9),
            "name": name,
            "arguments": json.dumps(arguments),
        }
        for name, arguments in content.calls(question, functions, answered)
    ]
    if not outputs:
        text = words.text()
        outputs = [{"type": "message.output", "id": words.identifier("msg_"), "role": "assistant", "content": text}]
    reply = {
        "object": "conversation.response",
        "conversation_id": question.name or words.identifier("conv_"),
        "outputs": outputs,
        "usage": usage(),
    }
    return [sse.event(event, event["type"]) for event in _events(reply)] if question.streaming else reply


def _events(reply: Json) -> Iterator[Json]:
    now = sample({"format": "date-time"})
    yield {
        "type": "conversation.response.started",
        "created_at": now,
        "conversation_id": reply["conversation_id"],
    }
    for index, output in enumerate(reply["outputs"]):
        field = "content" if output["type"] == "message.output" else "arguments"
        kind = {"message.output": "message.output.delta", "function.call": "function.call.delta"}[output["type"]]
        for piece in words.pieces(output[field]):
            yield {**output, "type": kind, field: piece, "output_index": index, "content_index": 0, "created_at": now}
    yield {"type": "conversation.response.done", "created_at": now, "usage": reply["usage"]}


def ocr(question: Question) -> Json:
    pages = [
        {
            "index": index,
            "markdown": words.text(),
            "images": [],
            "dimensions": {"dpi": 200, "height": words.integer(1, 4000), "width": words.integer(1, 4000)},
        }
        for index in range(2)
    ]
    return {
        "pages": pages,
        "model": question.model,
        "usage_info": {"pages_processed": 2, "doc_size_bytes": words.integer(1, 10**6)},
    }


def classify(question: Question) -> Json:
    scores = {name: words.number(0, 1) for name in ("one", "other")}
    return {
        "id": words.identifier("", 32),
        "model": question.model,
        "results": [{"answer": {"scores": scores}}],
    }
