"""OpenRouter: OpenAI's chat with what it adds: who answered, what it cost, what was thought, comments in streams."""

from __future__ import annotations

import json

from . import chat, openai, sse, words
from .exchange import Json, Question, Reply

DIALECT = openai.DIALECT
_COMMENT = b": OPENROUTER PROCESSING\n\n"


def answer(question: Question) -> Reply:
    reply = chat.answer(question)
    # Of several models the first that answers does.
    added = {"provider": words.word(), "model": words.pick(question.data.get("models") or [question.model])}
    cost = words.number(0.0001, 0.1)
    details = {"upstream_inference_cost": None, "upstream_inference_prompt_cost": cost / 2}
    paid = {"cost": cost, "is_byok": False, "cost_details": details} if _is_asked_for(question) else {}
    if isinstance(reply, dict):
        message = reply["choices"][0]["message"]
        message |= _thought(words.text())
        return {**reply, **added, "usage": {**reply["usage"], **paid}}
    assert isinstance(reply, list)
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in reply[:-1]]
    last = {**chunks[-1], "choices": [], "usage": {**openai.usage(), **paid}}
    thoughts = [
        {**chunks[0], "choices": [{"index": 0, "delta": {"role": "assistant", "content": "", **_thought(piece)}}]}
        for piece in words.pieces(words.text())
    ]
    events = [sse.event({**chunk, **added}) for chunk in (*thoughts, *chunks, *([last] if paid else []))]
    return [_COMMENT, *events[:2], _COMMENT, *events[2:], sse.DONE]


def _is_asked_for(question: Question) -> bool:
    usage: Json = question.data.get("usage") or question.data.get("stream_options") or {}
    return bool(usage.get("include") or usage.get("include_usage"))


def _thought(text: str) -> Json:
    return {"reasoning": text, "reasoning_details": [{"type": "reasoning.text", "text": text, "index": 0}]}


def generation(question: Question) -> Json:
    """What is said afterwards of an answer."""
    name = question.field("id")
    return {"data": {"id": name, "total_cost": words.number(0, 1), "provider_name": words.word(), "latency": 1}}
