"""lm15's transports, which DSPy sends through: HTTP on sockets, by nobody's client."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm15.transports import StdlibAsyncTransport, StdlibTransport, TransportRequest

import escapement
from escapement.words import semconv
from escapement.words.errors import LoopDetectedError, ReplayDivergenceError
from tests.elsewhere.conftest import Check
from tests.elsewhere.server import Server

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = {**CHAT, "stream": True}
Read = Callable[..., Any]


def request(url: str, body: Any = CHAT, fault: str = "") -> TransportRequest:
    headers = [("content-type", "application/json"), ("x-fault", fault)]
    patience = 0.3 if fault == "slow" else 60  # machines are slow, too
    data = json.dumps(body).encode()
    return TransportRequest("POST", f"{url}/v1/chat/completions", headers, data, read_timeout=patience)


def told(response: Any) -> Any:
    return response.status, response.reason, response.headers, response.http_version


def sync(url: str, body: Any, fault: str, amount: int) -> Any:
    """What the transport gives, and the body's first chunks."""
    with StdlibTransport() as transport, transport.stream(request(url, body, fault)) as response:
        chunks = [chunk for _, chunk in zip(range(amount), response, strict=False)]
        return told(response), chunks


async def _async(url: str, body: Any, fault: str, amount: int) -> Any:
    async with StdlibAsyncTransport() as transport, transport.stream(request(url, body, fault)) as response:
        chunks = []
        async for chunk in response:
            chunks.append(chunk)
            if len(chunks) == amount:
                break
        return told(response), chunks


def in_a_loop(url: str, body: Any, fault: str, amount: int) -> Any:
    return asyncio.run(_async(url, body, fault, amount))


@pytest.mark.parametrize("program", [sync, in_a_loop])
@pytest.mark.parametrize("fault", ["", "gzip", "until-close"])
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize("amount", [99, 1])
def test_chunk_by_chunk(same: Check, program: Read, body: Any, fault: str, amount: int) -> None:
    same(lambda url: program(url, body, fault, amount), 1)


@pytest.mark.parametrize("program", [sync, in_a_loop])
@pytest.mark.parametrize(("body", "fault"), [(CHAT, "short"), (STREAM, "cut"), (CHAT, "drop"), (CHAT, "slow")])
def test_failures(same: Check, program: Read, body: Any, fault: str) -> None:
    same(lambda url: program(url, body, fault, 99), 1, varies=None)


@pytest.mark.parametrize("program", [sync, in_a_loop])
def test_nobody_listens(same: Check, program: Read) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        same(lambda url: program(url, CHAT, "", 1), 1, url=f"http://127.0.0.1:{taken.getsockname()[1]}", varies=False)


def test_attributes(same: Check) -> None:
    attributes = same(lambda url: sync(url, CHAT, "gzip", 99), 1).steps[0].attributes
    assert attributes[semconv.USAGE_INPUT_TOKENS] == 3
    assert attributes[semconv.SERVER_ADDRESS] == "127.0.0.1"
    assert semconv.RESPONSE_ENDING not in attributes  # read to its end


def test_connections_are_released(store: Path) -> None:
    """Eight requests through two connections, some of them read by halves."""
    with Server() as server, escapement.init(storage_dir=store), StdlibTransport(max_connections=2) as transport:
        for number in range(8):
            with transport.stream(request(server.url, {**STREAM, "seed": number})) as response:
                assert next(iter(response)) if number % 2 else response.read()
        assert transport.pool_stats()["in_use"] == 0


def test_branches_get_their_own(same: Check) -> None:
    async def both(url: str) -> Any:
        async with StdlibAsyncTransport() as transport:

            async def ask() -> bytes:
                async with transport.stream(request(url)) as response:
                    body: bytes = await response.read()
                    return body

            return await asyncio.gather(ask(), ask(), ask())

    same(lambda url: asyncio.run(both(url)), 3)


@pytest.mark.parametrize("program", [sync, in_a_loop])
def test_ours_are_raised_as_they_are(store: Path, program: Read) -> None:
    with Server() as server:
        with escapement.init(storage_dir=store) as trace:
            program(server.url, CHAT, "", 99)
        other = {**CHAT, "temperature": 1}
        replay = escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store)
        with replay, pytest.raises(ReplayDivergenceError):
            program(server.url, other, "", 99)
        assert len(server.bodies) == 1
        with escapement.init(storage_dir=store, max_identical_calls=2), pytest.raises(LoopDetectedError):
            for _ in range(2):
                program(server.url, CHAT, "", 99)


def test_everything_else_passes(store: Path) -> None:
    with Server() as server, StdlibTransport() as transport:
        other = TransportRequest("GET", f"{server.url}/files/1")
        with escapement.init(storage_dir=store) as trace, transport.stream(other) as response:
            assert b"file" in response.read()
        with transport.stream(request(server.url)) as response:
            assert b"gpt-4o" in response.read()
        assert (trace.steps, len(server.bodies)) == (0, 2)
