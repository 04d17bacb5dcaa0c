"""Redirects on the way to an answer: the final address, the history, and what hooks of a client see are as they were."""

from __future__ import annotations

import asyncio
import http.server
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.fidelity.snapshot import differences, snapshot

ASKED: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Where are you?"}]}


class _Moving(http.server.BaseHTTPRequestHandler):
    """Answers below /v3; sends everybody from /v1 to /v2, and from there to /v3. Below /gone it redirects to nowhere."""

    protocol_version = "HTTP/1.1"
    count = 0

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        type(self).count += 1
        self.rfile.read(int(self.headers["content-length"]))
        start, _, rest = self.path.lstrip("/").partition("/")
        if start in ("v1", "v2"):
            self._send(307, {"location": f"/v{int(start[1]) + 1}/{rest}"}, b"moved")
            return
        number = random.randrange(10**9)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"here {number}"}}
        body = {"id": f"c-{number}", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}
        self._send(200, {"content-type": "application/json"}, json.dumps(body).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "x-request-id": f"req_{random.randrange(10**9)}"}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def moving() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Moving)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    _Moving.count = 0
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def without_bodies_of_redirects(seen: Any) -> Any:
    """A redirect's body, which nobody reads, is not kept: the length that its headers name stays."""
    for hop in seen["http"]["history"]:
        hop["content"] = None
        without = [without_bodies_of_redirects({"http": {"history": [earlier]}}) for earlier in hop["history"]]
        assert len(without) == len(hop["history"])
    return seen


def ask(url: str) -> Any:
    with openai.OpenAI(api_key="k", base_url=url, max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(**ASKED)
        return without_bodies_of_redirects(snapshot(raw)), snapshot(raw.parse())


async def ask_async(url: str) -> Any:
    async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(**ASKED)
        return without_bodies_of_redirects(snapshot(raw)), snapshot(raw.parse())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_answer_at_the_end_of_redirects(moving: str, store: Path, kind: str) -> None:
    def program() -> Any:
        return ask(moving) if kind == "sync" else asyncio.run(ask_async(moving))

    with escapement.init() as trace:
        live = program()
    assert _Moving.count == 3
    with escapement.replay(trace.trace_id, strict_replay=True):
        replayed = program()
    assert differences(live, replayed) == []
    assert live[0]["http"]["url"].endswith("/v3/chat/completions")
    assert [hop["status"] for hop in live[0]["http"]["history"]] == [307, 307]
    assert _Moving.count == 3, "nothing was sent"
    (step,) = SpanStore(store).load(trace.trace_id).steps
    assert step.attributes["escapement.request.path"] == "/v1/chat/completions", "what was asked first"


def test_a_redirect_that_is_not_followed(moving: str) -> None:
    def program() -> Any:
        with httpx2.Client() as client:
            response = client.post(f"{moving}/chat/completions", json=ASKED)
            return snapshot(response), snapshot(response.next_request), response.has_redirect_location

    with escapement.init() as trace:
        live = program()
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert differences(live, program()) == []
    assert live[2]
    assert _Moving.count == 1


def test_an_oserror_keeps_its_number() -> None:
    def refuse(request: Any) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    def program() -> tuple[Any, ...]:
        with (
            httpx2.Client(transport=httpx2.MockTransport(refuse)) as client,
            pytest.raises(ConnectionRefusedError) as raised,
        ):
            client.post("http://127.0.0.1:9/v1/chat/completions", json=ASKED)
        return type(raised.value), raised.value.args, raised.value.errno, str(raised.value)

    with escapement.init() as trace:
        live = program()
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert program() == live
    assert live == (ConnectionRefusedError, (111, "Connection refused"), 111, "[Errno 111] Connection refused")
