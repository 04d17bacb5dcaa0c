"""The OpenAI API but for its text generation: headers, errors, embeddings, moderations, models."""

from __future__ import annotations

import base64
import struct
import time
from typing import Any

from . import sse, words
from .exchange import Dialect, Json, Question

_KINDS = {
    400: ("invalid_request_error", "invalid_value"),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    422: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
}


def headers() -> dict[str, str]:
    limit = words.integer(1000, 9999)
    return {
        "x-request-id": "req_" + words.hexadecimal(32),
        "openai-organization": words.identifier("org-"),
        "openai-project": words.identifier("proj_"),
        "openai-processing-ms": str(words.integer(20, 4000)),
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-limit-tokens": "30000000",
        "x-ratelimit-remaining-requests": str(words.integer(0, limit)),
        "x-ratelimit-remaining-tokens": str(words.integer(0, 29_999_999)),
        "x-ratelimit-reset-requests": f"{words.integer(1, 60)}ms",
        "x-ratelimit-reset-tokens": f"{words.integer(1, 60)}ms",
        "cf-ray": words.hexadecimal(16) + "-FRA",
        # Without the domain of the live one, so that a client here keeps it and sends it back just the same.
        "set-cookie": f"__cf_bm={words.identifier('', 43)}; path=/; HttpOnly; SameSite=None",
    }


def failure(status: int, code: str = "") -> Json:
    kind, usual = _KINDS.get(status, ("server_error", None))
    message = f"Refused: {words.text()}"
    return {"error": {"message": message, "type": kind, "param": None, "code": code or usual}}


def interruption() -> bytes:
    return sse.event(failure(500))


DIALECT = Dialect(headers, failure, interruption)


def usage() -> Json:
    """The usage of the chat and legacy completions."""
    prompt, completion = words.integer(20, 4000), words.integer(20, 4000)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": words.integer(0, prompt), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": words.integer(0, completion),
            "audio_tokens": 0,
            "accepted_prediction_tokens": words.integer(0, 9),
            "rejected_prediction_tokens": words.integer(0, 9),
        },
    }


def embeddings(question: Question) -> Json:
    data = question.data
    wanted = data.get("input", "")
    # A list of numbers is one input, already in tokens.
    single = isinstance(wanted, str) or (bool(wanted) and isinstance(wanted[0], int))
    tokens = words.integer(1, 4000)
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _vector(int(data.get("dimensions", 8)), data.get("encoding_format")),
            }
            for index in range(1 if single else len(wanted))
        ],
        "model": question.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "x_provider_extra": words.extra(),
    }


def _vector(size: int, encoding: str | None) -> list[float] | str:
    packed = struct.pack(f"<{size}f", *(words.number(-1, 1) for _ in range(size)))
    if encoding == "base64":
        return base64.b64encode(packed).decode()
    return list(struct.unpack(f"<{size}f", packed))


_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def moderations(question: Question) -> Json:
    wanted = question.data.get("input", "")
    count = 1 if isinstance(wanted, str) else len(wanted)
    return {
        "id": words.identifier("modr-"),
        "model": question.data.get("model", "omni-moderation-latest"),
        "results": [_verdict() for _ in range(count)],
        "x_provider_extra": words.extra(),
    }


def _verdict() -> Json:
    scores = {category: words.number(0, 1) for category in _CATEGORIES}
    categories = {category: score > 0.5 for category, score in scores.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {category: ["text"] for category in _CATEGORIES},
    }


def models(question: Question) -> Json:
    names = [f"gpt-{words.integer(4, 9)}-{words.word()}" for _ in range(3)]
    return {"object": "list", "data": [_model(name) for name in names]}


def model(question: Question) -> Json:
    return _model(question.name)


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(time.time()) - words.integer(0, 10**7),
        "owned_by": words.word(),
        "x_provider_extra": words.extra(),
    }
