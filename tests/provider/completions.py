"""The legacy OpenAI completions endpoint."""

from __future__ import annotations

import time
from itertools import chain, zip_longest

from . import content, sse, words
from .exchange import Json, Question, Reply
from .openai import usage


def answer(question: Question) -> Reply:
    texts = [
        content.said(question, prompt, None)
        for prompt in _prompts(question)
        for _ in range(question.data.get("n") or 1)
    ]
    head: Json = {
        "id": words.identifier("cmpl-", 29),
        "object": "text_completion",
        "created": int(time.time()) - words.integer(0, 10**6),
        "model": question.model,
        "system_fingerprint": "fp_" + words.hexadecimal(10),
    }
    if question.streaming:
        return _stream(question, head, texts)
    choices = [_choice(index, text, "stop") for index, text in enumerate(texts)]
    return {**head, "choices": choices, "usage": usage(), "x_provider_extra": words.extra()}


def _prompts(question: Question) -> list[str]:
    prompt = question.data.get("prompt") or ""
    if isinstance(prompt, str):
        return [prompt]
    # Prompts may also come as tokens: a list of numbers is one prompt.
    return [str(prompt)] if isinstance(prompt[0], int) else [str(one) for one in prompt]


def _choice(index: int, text: str, finish_reason: str | None = None) -> Json:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _stream(question: Question, head: Json, texts: list[str]) -> list[bytes]:
    rows = zip_longest(
        *(
            [*(_choice(index, piece) for piece in words.pieces(text)), _choice(index, "", "stop")]
            for index, text in enumerate(texts)
        )
    )
    chunks = [{**head, "choices": [choice]} for choice in chain.from_iterable(rows) if choice]
    chunks[0]["x_provider_extra"] = words.extra()
    if (question.data.get("stream_options") or {}).get("include_usage"):
        chunks.append({**head, "choices": [], "usage": usage()})
    return [*(sse.event(chunk) for chunk in chunks), sse.DONE]
