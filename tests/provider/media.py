"""Images and sound of the OpenAI API."""

from __future__ import annotations

import base64
import secrets
import time

from . import sse, words
from .exchange import Blob, Json, Question, Reply


def images(question: Question) -> Reply:
    usage = {"input_tokens": words.integer(1, 400), "output_tokens": words.integer(1, 4000)}
    data = [_image(question) for _ in range(int(question.field("n", "1")))]
    head: Json = {"created": int(time.time()), "usage": usage}
    if question.streaming:
        last = {"type": "image_generation.completed", "created_at": head["created"], "usage": usage, **data[0]}
        partial = {"type": "image_generation.partial_image", "partial_image_index": 0, **data[0]}
        return [sse.event(event, str(event["type"])) for event in (partial, last)]
    return {**head, "data": data}


def _image(question: Question) -> Json:
    if question.field("response_format") == "url":
        address = f"https://images.example.com/{words.hexadecimal(16)}.png?sp=r&sr=b"
        return {"url": address, "revised_prompt": words.text()}
    return {"b64_json": base64.b64encode(secrets.token_bytes(300)).decode()}


def speech(question: Question) -> Reply:
    if question.field("stream_format") == "sse":
        deltas = [base64.b64encode(secrets.token_bytes(90)).decode() for _ in range(3)]
        told: list[Json] = [{"type": "speech.audio.delta", "audio": delta} for delta in deltas]
        return [sse.event(event) for event in [*told, {"type": "speech.audio.done", "usage": {}}]]
    sound = tuple(secrets.token_bytes(words.integer(1, 900)) for _ in range(4))
    return Blob("audio/mpeg", pieces=sound)


_PLAIN = {"text": "text/plain; charset=utf-8", "srt": "text/plain; charset=utf-8", "vtt": "text/vtt; charset=utf-8"}


def transcription(question: Question) -> Reply:
    text = words.text()
    form = question.field("response_format", "json")
    if form in _PLAIN:
        return Blob(_PLAIN[form], text.encode())
    # Mistral's has the model and the language, too.
    usage = {"type": "duration", "seconds": words.integer(1, 99)}
    if question.streaming:
        told: list[Json] = [{"type": "transcript.text.delta", "delta": piece} for piece in words.pieces(text)]
        return [sse.event(event) for event in [*told, {"type": "transcript.text.done", "text": text}]]
    whole: Json = {"text": text, "model": "any", "language": "en", "usage": usage}
    if form == "verbose_json":
        segment = {"id": 0, "seek": 0, "start": 0.0, "end": words.number(1, 9), "text": text, "tokens": [1, 2]}
        segment |= {"temperature": 0.0, "avg_logprob": -words.number(0, 1), "compression_ratio": 1.0}
        whole |= {"duration": words.number(1, 9), "segments": [{**segment, "no_speech_prob": words.number(0, 1)}]}
    return whole
