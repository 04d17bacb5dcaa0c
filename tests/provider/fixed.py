"""Constant small answers, given as cheaply as possible: a server whose own cost a benchmark can ignore."""

from __future__ import annotations

import json
import time
from socketserver import StreamRequestHandler
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .server import Server

_TEXT = "the quick brown fox jumps over the lazy dog and then it rests"
_WORDS = [word + " " for word in _TEXT.split()]
_CHAT: dict[str, Any] = {"id": "chatcmpl-fixed", "created": 1700000000, "model": "fixed"}
_MESSAGE: dict[str, Any] = {
    "id": "msg_fixed",
    "type": "message",
    "role": "assistant",
    "model": "fixed",
    "content": [{"type": "text", "text": _TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 13},
}
_RESPONSE: dict[str, Any] = {
    "id": "resp_fixed",
    "object": "response",
    "created_at": 1700000000,
    "status": "completed",
    "model": "fixed",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
_TEXT_PART = {"type": "output_text", "annotations": [], "logprobs": [], "text": _TEXT}
_TEXT_ITEM = {
    "id": "msg_fixed",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [_TEXT_PART],
}

_PLAIN: dict[bytes, dict[str, Any]] = {
    b"completions": {
        **_CHAT,
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 13, "total_tokens": 22},
    },
    b"messages": _MESSAGE,
    b"responses": {**_RESPONSE, "output": [_TEXT_ITEM]},
    b"embeddings": {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.0, 0.25, 0.5, 1.0]}],
        "model": "fixed",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    },
}


def _chat_events() -> list[dict[str, Any]]:
    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in _WORDS)]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return [{**_CHAT, "object": "chat.completion.chunk", "choices": [choice]} for choice in choices]


def _message_events() -> list[dict[str, Any]]:
    deltas = [{"type": "text_delta", "text": word} for word in _WORDS]
    return [
        {"type": "message_start", "message": {**_MESSAGE, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 13},
        },
        {"type": "message_stop"},
    ]


def _response_events() -> list[dict[str, Any]]:
    item, text = {"item_id": "msg_fixed", "output_index": 0}, {"content_index": 0, "logprobs": []}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": _RESPONSE},
        {"type": "response.output_item.added", "output_index": 0, "item": {**_TEXT_ITEM, "content": []}},
        {"type": "response.content_part.added", **item, **text, "part": {**_TEXT_PART, "text": ""}},
        *({"type": "response.output_text.delta", **item, **text, "delta": word} for word in _WORDS),
        {"type": "response.output_text.done", **item, **text, "text": _TEXT},
        {"type": "response.output_item.done", "output_index": 0, "item": _TEXT_ITEM},
        {"type": "response.completed", "response": _PLAIN[b"responses"]},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(told)]


def _head(status: bytes, kind: bytes, rest: bytes) -> bytes:
    return b"HTTP/1.1 " + status + b"\r\ncontent-type: " + kind + b"\r\n" + rest + b"\r\n\r\n"


def _whole(data: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> list[bytes]:
    return [_head(status, kind, b"content-length: %d" % len(data)) + data]


def _streamed(events: list[dict[str, Any]]) -> list[bytes]:
    chunks = [f"data: {json.dumps(event)}\n\n" for event in events]
    if "type" in events[0]:
        chunks = [f"event: {event['type']}\n{chunk}" for event, chunk in zip(events, chunks, strict=True)]
    else:
        chunks.append("data: [DONE]\n\n")
    head = _head(b"200 OK", b"text/event-stream", b"transfer-encoding: chunked")
    return [head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk.encode()) for chunk in chunks), b"0\r\n\r\n"]


_WHOLE = {tail: _whole(json.dumps(data).encode()) for tail, data in _PLAIN.items()}
_STREAMED = {
    b"completions": _streamed(_chat_events()),
    b"messages": _streamed(_message_events()),
    b"responses": _streamed(_response_events()),
}
_UNKNOWN = _whole(b'{"error":{"message":"no such endpoint"}}', b"404 Not Found")


class FixedHandler(StreamRequestHandler):
    """Reads of a request only what it must: the end of its path, its length, whether to stream."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        server = cast("Server", self.server)
        while line := self.rfile.readline():
            path = line.split(b" ", 2)[1].partition(b"?")[0]
            length = 0
            while header := self.rfile.readline().strip():
                if header[:15].lower() == b"content-length:":
                    length = int(header[15:])
            body = self.rfile.read(length)
            if path == b"/_count":
                self.wfile.write(b"".join(_whole(b"%d" % server.count, kind=b"text/plain")))
            else:
                server.add()
                self._answer(path.rpartition(b"/")[2], body)

    def _answer(self, tail: bytes, body: bytes) -> None:
        server = cast("Server", self.server)
        streaming = b'"stream":true' in body or b'"stream": true' in body
        parts = (_STREAMED if streaming else _WHOLE).get(tail, _UNKNOWN)
        if server.latency:
            time.sleep(server.latency)
        if not server.chunk_delay:
            self.wfile.write(b"".join(parts))
            return
        for part in parts:
            self.wfile.write(part)
            time.sleep(server.chunk_delay)
