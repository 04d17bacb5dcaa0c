"""Images, sound and files of the OpenAI API."""

from __future__ import annotations

import base64
import secrets
import time

from . import sse, words
from .exchange import Json, Question, Reply


def images(question: Question) -> Reply:
    usage = {"input_tokens": words.integer(1, 400), "output_tokens": words.integer(1, 4000)}
    data = [{"b64_json": base64.b64encode(secrets.token_bytes(300)).decode()} for _ in range(question.data.get("n", 1))]
    head: Json = {"created": int(time.time()), "usage": usage}
    if question.streaming:
        last = {"type": "image_generation.completed", "created_at": head["created"], "usage": usage, **data[0]}
        partial = {"type": "image_generation.partial_image", "partial_image_index": 0, **data[0]}
        return [sse.event(event, str(event["type"])) for event in (partial, last)]
    return {**head, "data": data}


def speech(question: Question) -> bytes:
    return secrets.token_bytes(2000)


def transcription(question: Question) -> Json:
    # Mistral's has the model and the language, too.
    usage = {"type": "duration", "seconds": words.integer(1, 99)}
    return {"text": words.text(), "model": "any", "language": "en", "usage": usage}


def file(question: Question) -> Json:
    size = len(question.request.body)
    return {
        "id": words.identifier("file-"),
        "object": "file",
        "bytes": size,
        "created_at": int(time.time()),
        "filename": words.word(),
        "purpose": "batch",
        "status": "processed",
    }
