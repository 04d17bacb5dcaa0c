"""When served answers come: at once, as they were recorded, or by a factor. A wait never ends early, so that it was long
enough can be asserted; that it was not too long is for `benchmarks/streams.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.provider import Provider

ASKED: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "At your own pace"}]}


@pytest.fixture
def slow() -> Iterator[Provider]:
    with Provider(latency=0.05, chunk_delay=0.01) as provider:
        yield provider


def arrivals(client: openai.OpenAI) -> list[float]:
    """Seconds from the request to each chunk, and to the end."""
    began = time.perf_counter()
    found = [time.perf_counter() - began for _ in client.chat.completions.create(**ASKED, stream=True)]
    return [*found, time.perf_counter() - began]


async def arrivals_async(client: openai.AsyncOpenAI) -> list[float]:
    began = time.perf_counter()
    stream = await client.chat.completions.create(**ASKED, stream=True)
    found = [time.perf_counter() - began async for _ in stream]
    return [*found, time.perf_counter() - began]


def client_of(provider: Provider) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url=f"{provider.base_url}/v1", max_retries=0)


@pytest.mark.parametrize(("timing", "factor"), [("recorded", 1.0), (0.5, 0.5), ("2", 2.0)])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_streams_come_as_they_were_recorded(slow: Provider, timing: Any, factor: float, kind: str) -> None:
    with client_of(slow) as client:
        with escapement.init() as trace:
            arrivals(client)
        (step,) = SpanStore(".escapement").load(trace.trace_id).steps
        response = step.response()
        assert response is not None
        sent = len(slow.requests)
        assert len(response.chunks) > 3
        with escapement.replay(trace.trace_id, strict_replay=True, timing=timing):
            if kind == "sync":
                replayed = arrivals(client)
            else:
                replayed = asyncio.run(arrivals_async(openai.AsyncOpenAI(api_key="k", base_url=slow.base_url + "/v1")))
    assert len(slow.requests) == sent
    assert replayed[0] >= response.chunks[0].at / 1e9 * factor
    assert replayed[-1] >= response.chunks[-1].at / 1e9 * factor


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_whole_answers_and_failures_take_their_time(slow: Provider, kind: str) -> None:
    errors = (openai.BadRequestError, openai.APIConnectionError)

    def both(client: openai.OpenAI) -> list[float]:
        taken = []
        for model in ("gpt-4o", "error-400", "drop"):
            began = time.perf_counter()
            with suppress(*errors):
                client.chat.completions.create(**{**ASKED, "model": model})
            taken.append(time.perf_counter() - began)
        return taken

    async def both_async() -> list[float]:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{slow.base_url}/v1", max_retries=0) as client:
            taken = []
            for model in ("gpt-4o", "error-400", "drop"):
                began = time.perf_counter()
                with suppress(*errors):
                    await client.chat.completions.create(**{**ASKED, "model": model})
                taken.append(time.perf_counter() - began)
            return taken

    with client_of(slow) as client, escapement.init() as trace:
        both(client)
    elapsed = [step.elapsed / 1e9 for step in SpanStore(".escapement").load(trace.trace_id).steps]
    assert min(elapsed) > 0
    with client_of(slow) as client, escapement.replay(trace.trace_id, strict_replay=True, timing="recorded"):
        replayed = both(client) if kind == "sync" else asyncio.run(both_async())
    assert all(again >= before for again, before in zip(replayed, elapsed, strict=True))


def test_concurrent_streams_do_not_wait_for_each_other(slow: Provider) -> None:
    """Each waits for its own chunks, and others go on meanwhile."""

    async def four() -> list[list[float]]:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{slow.base_url}/v1") as client:
            return await asyncio.gather(*(arrivals_async(client) for _ in range(4)))

    with escapement.init() as trace:
        asyncio.run(four())
    steps = SpanStore(".escapement").load(trace.trace_id).steps
    with escapement.replay(trace.trace_id, strict_replay=True, timing="recorded"):
        began = time.perf_counter()
        asyncio.run(four())
        taken = time.perf_counter() - began
    assert max(step.elapsed for step in steps) / 1e9 <= taken


def test_a_stream_waits_in_any_event_loop(slow: Provider) -> None:
    import trio

    async def ask() -> int:
        transport = httpx2.AsyncHTTPTransport()
        async with httpx2.AsyncClient(transport=transport) as http:
            response = await http.post(f"{slow.base_url}/v1/chat/completions", json={**ASKED, "stream": True})
            return len(response.content)

    with escapement.init() as trace:
        recorded = trio.run(ask)
    with escapement.replay(trace.trace_id, strict_replay=True, timing="recorded"):
        assert trio.run(ask) == recorded


@pytest.mark.parametrize("value", ["fast", -1, True, "nan", 1e9, [1]])
def test_what_is_no_pace(value: Any) -> None:
    with pytest.raises(escapement.ConfigError, match="timing takes 'instant', 'recorded' or a factor"):
        escapement.replay("@last", timing=value)
