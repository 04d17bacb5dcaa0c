"""aiohttp, used as it is, and below an SDK."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx_aiohttp
import openai
import pytest
from google import genai

import escapement
from escapement.words import semconv
from escapement.words.errors import EscapementWarning, ReplayDivergenceError
from tests.elsewhere.conftest import Check
from tests.elsewhere.server import Server
from tests.fidelity.snapshot import differences, snapshot
from tests.provider import Provider

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = {**CHAT, "stream": True}
PATH = "/v1/chat/completions"


def run(url: str, body: Any, fault: str, read: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """One request; what there is to see of the answer."""

    async def program() -> Any:
        headers = {"x-fault": fault}
        async with (
            aiohttp.ClientSession(url, **options) as session,
            session.post(PATH, json=body, headers=headers) as answer,
        ):
            assert type(answer) is aiohttp.ClientResponse
            told: list[Any] = [
                answer.status,
                answer.reason,
                answer.version,
                list(answer.headers.items()),
                answer.raw_headers,
            ]
            told += [
                str(answer.url),
                answer.request_info,
                answer.method,
                answer.content_type,
                answer.ok,
                answer.history,
            ]
            return told, await read(answer), answer.content.at_eof()

    return asyncio.run(program())


async def all_of(items: Any) -> list[Any]:
    return [item async for item in items]


async def some(items: Any, most: int) -> list[Any]:
    found: list[Any] = []
    async for item in items:
        found.append(item)
        if len(found) == most:
            break
    return found


async def twice(answer: Any) -> Any:
    return await answer.read(), await answer.read(), await answer.text()


async def nothing(answer: Any) -> None:
    return None


WHOLE: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "read": lambda answer: answer.read(),
    "text": lambda answer: answer.text(),
    "twice": twice,
    "lines": lambda answer: all_of(answer.content),
    "chunked": lambda answer: all_of(answer.content.iter_chunked(7)),
    "content": lambda answer: answer.content.read(),
    "exactly": lambda answer: answer.content.readexactly(30),
}


async def joined(answer: Any) -> bytes:
    return b"".join(await all_of(answer.content.iter_any()))


async def chunks(answer: Any) -> list[bytes]:
    """Chunks of the wire, however the network cut them."""
    found = [b""]
    async for data, ends in answer.content.iter_chunks():
        found[-1] += data
        if ends:
            found.append(b"")
    return [chunk for chunk in found if chunk]  # that a chunk ends may come with it or after it


@pytest.mark.parametrize("read", [*WHOLE.values(), joined, chunks], ids=[*WHOLE, "any", "chunks"])
@pytest.mark.parametrize("fault", ["", "gzip", "br", "zstd", "until-close"])
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
def test_however_it_is_read(same: Check, body: Any, fault: str, read: Any) -> None:
    same(lambda url: run(url, body, fault, read), 1)


@pytest.mark.parametrize("read", [nothing, lambda answer: answer.content.read(20)], ids=["nothing", "some"])
def test_left_before_its_end(same: Check, read: Any) -> None:
    async def first(answer: Any) -> Any:
        return await answer.content.readline()

    same(lambda url: run(url, STREAM, "", first)[1], 1)
    same(lambda url: run(url, STREAM, "", read)[:1], 1)


@pytest.mark.parametrize(("body", "fault"), [(CHAT, "drop"), (CHAT, "slow"), (CHAT, "short"), (STREAM, "cut")])
def test_failures(same: Check, body: Any, fault: str) -> None:
    options = {"timeout": aiohttp.ClientTimeout(total=0.3 if fault == "slow" else 60)}
    same(lambda url: run(url, body, fault, lambda answer: answer.read(), **options), 1, varies=None)


def test_waited_for_by_a_timeout_of_the_program(same: Check) -> None:
    async def program(url: str) -> Any:
        async with aiohttp.ClientSession(url) as session, asyncio.timeout(0.2):
            await session.post(PATH, json=CHAT, headers={"x-fault": "slow"})

    same(lambda url: asyncio.run(program(url)), 1, varies=False)


def test_connection_refused(same: Check) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        same(lambda url: run(url, CHAT, "", nothing), 1, url=url, varies=False)
    same(lambda url: run(url, CHAT, "", nothing), 1, url="http://nowhere.invalid", varies=False)


def test_statuses_that_the_session_raises(store: Path) -> None:
    async def program(url: str, raising: bool) -> Any:
        async with aiohttp.ClientSession(url, raise_for_status=raising) as session:
            try:
                answer = await session.post(PATH, json={**CHAT, "model": "error-429"})
                return answer.status, await answer.json()
            except aiohttp.ClientResponseError as error:
                return re.sub(r"__cf_bm=[^;]*", "", repr(error))

    with Provider() as provider, escapement.init(storage_dir=store) as trace:
        live = [asyncio.run(program(provider.base_url, raising)) for raising in (True, False)]
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
        assert [asyncio.run(program(provider.base_url, raising)) for raising in (True, False)] == live
    assert provider.count == 2


def test_each_branch_gets_its_own(same: Check) -> None:
    async def program(url: str) -> Any:
        async with aiohttp.ClientSession(url) as session:

            async def ask(number: int) -> Any:
                found = []
                for _ in range(2):
                    async with session.post(PATH, json=CHAT) as answer:
                        found.append((number, await answer.json()))
                async with session.post(PATH, json=STREAM) as answer:
                    found.append((number, await answer.read()))
                return found

            return await asyncio.gather(*(ask(number) for number in range(3)))

    same(lambda url: asyncio.run(program(url)), 9)


@pytest.mark.parametrize("how", ["data", "generator", "middleware"])
def test_however_the_request_is_sent(same: Check, how: str) -> None:
    async def pieces() -> Any:
        yield b'{"model": "gpt-4o", '
        yield b'"messages": []}'

    async def middleware(request: Any, handler: Any) -> Any:
        request.headers["x-more"] = "1"
        return await handler(request)

    async def program(url: str) -> Any:
        data = pieces() if how == "generator" else b'{"model": "gpt-4o", "messages": []}'
        middlewares = [middleware] if how == "middleware" else []
        async with (
            aiohttp.ClientSession(url, middlewares=middlewares) as session,
            session.post(PATH, data=data) as answer,
        ):
            return await answer.json(), answer.request_info

    same(lambda url: asyncio.run(program(url)), 1)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
def test_below_an_sdk_it_is_the_sdks_call(same: Check, body: Any) -> None:
    """The OpenAI SDK on aiohttp: one step for a call."""
    passed = []

    async def middleware(request: Any, handler: Any) -> Any:
        passed.append(request.url.path)
        return await handler(request)

    async def program(url: str) -> Any:
        client: Any = openai.DefaultAioHttpClient()
        client._transport.client = lambda: aiohttp.ClientSession(middlewares=[middleware])
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", http_client=client) as made:
            answer = await made.chat.completions.create(**body)
            return [chunk async for chunk in answer] if body is STREAM else answer

    same(lambda url: asyncio.run(program(url)), 1)
    assert passed == ["/v1/chat/completions"] * 2  # the recording, and another live run; not the replay


def test_googles_sdk_on_a_session_of_the_programs_own(store: Path) -> None:
    async def program(url: str) -> Any:
        async with aiohttp.ClientSession() as session:
            options: Any = {"base_url": url, "aiohttp_client": session}
            client = genai.Client(api_key="any", http_options=options)
            asked: Any = {"model": "gemini-2.5-flash", "contents": "Hello"}
            plain = await client.aio.models.generate_content(**asked)
            stream = [chunk async for chunk in await client.aio.models.generate_content_stream(**asked)]
            return snapshot(plain), snapshot(stream)

    with Provider() as provider, escapement.init(storage_dir=store) as trace:
        live = asyncio.run(program(provider.base_url))
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
        again = asyncio.run(program(provider.base_url))
    assert differences(live, again) == []
    assert (provider.count, trace.steps, replay.hits) == (2, 2, 2)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
def test_below_httpx_it_is_httpxs_call(same: Check, body: Any) -> None:
    async def program(url: str) -> Any:
        async with httpx_aiohttp.HttpxAiohttpClient(base_url=url) as client:
            answer = await client.post(PATH, json=body)
            return answer.status_code, answer.headers, answer.content

    same(lambda url: asyncio.run(program(url)), 1)


def test_a_miss(store: Path) -> None:
    with Server() as server:
        with escapement.init(storage_dir=store) as trace:
            run(server.url, CHAT, "", nothing)
        with (
            escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store),
            pytest.raises(ReplayDivergenceError),
        ):
            run(server.url, STREAM, "", nothing)
        assert len(server.bodies) == 1
        with pytest.warns(EscapementWarning), escapement.replay(trace.trace_id, storage_dir=store) as replay:
            run(server.url, STREAM, "", nothing)
        assert (replay.misses, len(server.bodies)) == (1, 2)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_attributes(same: Check, coding: str) -> None:
    step = same(lambda url: run(url, CHAT, coding, lambda answer: answer.read()), 1).steps[0]
    assert step.attributes[semconv.USAGE_INPUT_TOKENS] == 3
    assert step.name == "chat gpt-4o"
