"""Anthropic's models on Amazon Bedrock: the same messages, streamed as binary frames.

A frame is a prelude of two lengths with its checksum, headers, a payload, and a checksum of it all
(`application/vnd.amazon.eventstream`); botocore reads it. The payload carries an event of a message in base64.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib

from . import anthropic, words
from .exchange import Dialect, Json, Question, Reply

_HEADERS = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}


def headers() -> dict[str, str]:
    return {
        "x-amzn-requestid": words.hexadecimal(32),
        "x-amzn-bedrock-input-token-count": str(words.integer(1, 4000)),
        "x-amzn-bedrock-output-token-count": str(words.integer(1, 4000)),
    }


def failure(status: int, code: str = "") -> Json:
    return {"message": f"Refused: {words.text()}"}


def interruption() -> bytes:
    exception = {":exception-type": "throttlingException", ":message-type": "exception"}
    return _frame(exception | {":content-type": "application/json"}, {"message": words.text()})


DIALECT = Dialect(headers, failure, interruption, media_type="application/vnd.amazon.eventstream")


def messages(question: Question) -> Reply:
    message = anthropic.message(question)
    if not question.streaming:
        return message
    events = [json.dumps(event).encode() for event in anthropic.events(message)]
    return [_frame(_HEADERS, {"bytes": base64.b64encode(event).decode()}) for event in events]


def _frame(headers: dict[str, str], payload: Json) -> bytes:
    head = b"".join(
        bytes([len(name)]) + name.encode() + b"\7" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    body = json.dumps({**payload, "p": words.identifier("", words.integer(1, 20))}).encode()
    prelude = struct.pack(">II", 16 + len(head) + len(body), len(head))
    frame = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + body
    return frame + struct.pack(">I", zlib.crc32(frame))
