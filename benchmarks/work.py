"""The work that is measured: the OpenAI SDK against a local server (base), and over a transport in memory (floor)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai

ANSWER = json.dumps(
    {
        "id": "chatcmpl-0123456789",
        "object": "chat.completion",
        "created": 1795000000,
        "model": "gpt-4o",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "All is well. " * 20}}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 80, "total_tokens": 100},
    }
).encode()
HEADERS = {"content-type": "application/json", "x-request-id": "req_0123456789"}

_SERVER = """
import http.server, sys
ANSWER = sys.stdin.buffer.read()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def log_message(self, *arguments): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("x-request-id", "req_0123456789")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def server() -> Iterator[str]:
    """A server with one constant answer, in a process of its own; its base URL."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(ANSWER)
        process.stdin.close()
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def live_client(url: str) -> openai.OpenAI:
    return openai.OpenAI(api_key="not-needed", base_url=url, max_retries=0)


def floor_client(url: str = "http://127.0.0.1:9/v1") -> openai.OpenAI:
    """The SDK over a transport in memory: what a tool that replays below the SDK can hardly beat."""
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, headers=HEADERS, content=ANSWER))
    return openai.OpenAI(
        api_key="not-needed",
        base_url=url,
        max_retries=0,
        http_client=httpx2.Client(transport=transport),
    )


class Small:
    """Short requests, each another one."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._create = client.chat.completions.create
        self.number = 0

    def restart(self) -> None:
        """There is nothing to go on from."""

    def __call__(self) -> None:
        self.number += 1
        self._create(model="gpt-4o", messages=[{"role": "user", "content": f"Question {self.number}: is all well?"}])


class Conversation:
    """A conversation that is sent again at every step, two messages longer: `start` messages of 2 KB (or another
    size) at first. After `restart` it is another one."""

    def __init__(self, client: openai.OpenAI, start: int, size: int = 2000) -> None:
        self._create = client.chat.completions.create
        self._start = start
        self._size = size
        self._number = 0
        self.restart()

    def restart(self) -> None:
        self._number += 1
        self.messages: list[Any] = [self._message(number) for number in range(self._start)]

    def __call__(self) -> None:
        self._create(model="gpt-4o", messages=self.messages)
        count = len(self.messages)
        self.messages += [self._message(number) for number in (count, count + 1)]

    def _message(self, number: int) -> dict[str, str]:
        words = " ".join(f"word{(number * 31 + index) % 997}" for index in range(270))
        text = f"{self._number}.{number}: {words}"
        return {"role": "assistant" if number % 2 else "user", "content": text[: self._size]}


Make = Callable[[openai.OpenAI], Any]
