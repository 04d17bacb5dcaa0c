"""A server with what the provider of the other tests has not: Bedrock, odd framings, and everything else on the web."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import brotli
from backports import zstd


def frame(name: str, payload: dict[str, Any]) -> bytes:
    """A frame of `application/vnd.amazon.eventstream`."""
    headers = b""
    for key, value in ((":event-type", name), (":content-type", "application/json"), (":message-type", "event")):
        headers += struct.pack("!B", len(key)) + key.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", len(headers) + len(body) + 16, len(headers))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    message = prelude + headers + body
    return message + struct.pack("!I", zlib.crc32(message))


def chat() -> dict[str, Any]:
    return {
        "id": secrets.token_hex(6),
        "object": "chat.completion",
        "model": "gpt-4o",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": secrets.token_hex(40)}}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def said(body: bytes) -> list[str]:
    """What a model answers, in pieces: what comes behind `say `, or anything."""
    _, asked, wanted = body.decode().partition("say ")
    text = wanted.partition('"')[0] if asked else secrets.token_hex(18)
    return [text[at : at + 7] for at in range(0, len(text), 7)]


def converse_events(body: bytes) -> list[bytes]:
    deltas = [{"contentBlockIndex": 0, "delta": {"text": piece}} for piece in said(body)]
    return [
        frame("messageStart", {"role": "assistant"}),
        *(frame("contentBlockDelta", delta) for delta in deltas),
        frame("contentBlockStop", {"contentBlockIndex": 0}),
        frame("messageStop", {"stopReason": "end_turn"}),
        frame(
            "metadata", {"usage": {"inputTokens": 5, "outputTokens": 6, "totalTokens": 11}, "metrics": {"latencyMs": 9}}
        ),
    ]


def invoke_events(body: bytes) -> list[bytes]:
    """The events of an Anthropic model, as base64 in Bedrock's."""
    usage = {"input_tokens": 8, "output_tokens": 9}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [], "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in said(body)
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    return [
        frame("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abc"[: number % 4]})
        for number, event in enumerate(events)
    ]


CODINGS = ("gzip", "deflate", "br", "zstd", "gzip, br")


def compressed(pieces: list[bytes], coding: str) -> list[bytes]:
    """Pieces that can each be undone when it has come, and what ends them."""
    for name in coding.split(", "):
        if name == "br":
            brotli_ = brotli.Compressor()
            pieces = [*(brotli_.process(piece) + brotli_.flush() for piece in pieces), brotli_.finish()]
        elif name == "zstd":
            zstd_ = zstd.ZstdCompressor()
            pieces = [*(zstd_.compress(piece, zstd_.FLUSH_BLOCK) for piece in pieces), zstd_.flush()]
        else:
            zlib_ = zlib.compressobj(wbits=31 if name == "gzip" else 15)
            pieces = [*(zlib_.compress(piece) + zlib_.flush(zlib.Z_SYNC_FLUSH) for piece in pieces), zlib_.flush()]
    return pieces


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def do_POST(self) -> None:
        length = self.headers.get("content-length")
        body = self.rfile.read(int(length)) if length else self._chunked_body() if length is None else b""
        self.server.bodies.append(body)
        path = self.path.partition("?")[0]
        fault = self.headers.get("x-fault", "")
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(1)
        if path.endswith("/converse"):
            message = {"role": "assistant", "content": [{"text": secrets.token_hex(8)}]}
            usage = {"inputTokens": 5, "outputTokens": 6, "totalTokens": 11}
            self._whole(
                {"output": {"message": message}, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 7}}
            )
        elif path.endswith("/converse-stream"):
            self._chunks(converse_events(body), "application/vnd.amazon.eventstream")
        elif path.endswith("/invoke-with-response-stream"):
            self._chunks(invoke_events(body), "application/vnd.amazon.eventstream")
        elif path.endswith("/invoke"):
            content = [{"type": "text", "text": secrets.token_hex(8)}]
            usage = {"input_tokens": 8, "output_tokens": 9}
            self._whole(
                {"type": "message", "model": "claude", "stop_reason": "end_turn", "content": content, "usage": usage}
            )
        elif b'"stream": true' in body or b'"stream":true' in body:
            events = [f'data: {{"n": "{secrets.token_hex(30)}"}}\n\n'.encode() for _ in range(6)] + [
                b"data: [DONE]\n\n"
            ]
            if fault == "cut":
                self._chunks(events[:3], "text/event-stream", cut=True)
            elif fault == "until-close":
                self._until_close(b"".join(events))
            elif fault in CODINGS:
                self._chunks(compressed(events, fault), "text/event-stream", encoding=fault)
            else:
                self._chunks(events, "text/event-stream")
        else:
            self._whole(chat(), fault)

    def do_GET(self) -> None:
        self.server.bodies.append(b"")
        self._whole({"file": secrets.token_hex(8)})

    def do_PUT(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers.get("content-length") or 0)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def _chunked_body(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _head(self, content_type: str, *headers: tuple[str, str]) -> None:
        self.send_response(200)
        for name, value in (("content-type", content_type), ("x-request-id", secrets.token_hex(4)), *headers):
            self.send_header(name, value)
        self.end_headers()

    def _whole(self, document: dict[str, Any], fault: str = "") -> None:
        body = json.dumps(document).encode()
        encoding = []
        if fault in CODINGS:
            body, encoding = b"".join(compressed([body], fault)), [("content-encoding", fault)]
        if fault == "short":
            self.close_connection = True
        self._head("application/json", ("content-length", str(len(body))), *encoding)
        self.wfile.write(body[:20] if fault == "short" else body)

    def _chunks(self, chunks: list[bytes], content_type: str, *, cut: bool = False, encoding: str = "") -> None:
        self._head(
            content_type, ("transfer-encoding", "chunked"), *([("content-encoding", encoding)] if encoding else [])
        )
        for chunk in chunks:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _until_close(self, body: bytes) -> None:
        self.close_connection = True
        self._head("text/event-stream", ("connection", "close"))
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test asks the server what it received."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.bodies: list[bytes] = []
        self._tls = tls
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)
        if self._tls is not None:
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: programs here hang up when they like."""


class Server:
    """The server, running; `tls` makes it speak HTTPS."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._listener = _Listener(tls)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.server_port}"
        threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def bodies(self) -> list[bytes]:
        """Bodies of the requests that were received."""
        return self._listener.bodies

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
