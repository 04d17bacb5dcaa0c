"""When answers of these clients come in a replay: not before their time, where that is asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

import escapement
from escapement.store.traces import SpanStore
from tests.provider import Provider

ASKED: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "At your own pace"}]}
STREAM = {**ASKED, "stream": True}
PATH = "/v1/chat/completions"

Arrivals = Callable[[str, Any], list[float]]


def by_requests(url: str, body: Any) -> list[float]:
    """Seconds from the request to each chunk, and to the end."""
    began = time.perf_counter()
    found: list[float] = []
    with suppress(requests.ConnectionError), requests.post(url + PATH, json=body, stream=True) as answer:
        found += [time.perf_counter() - began for _ in answer.iter_content(chunk_size=None)]
    return [*found, time.perf_counter() - began]


def by_aiohttp(url: str, body: Any) -> list[float]:
    async def program() -> list[float]:
        began = time.perf_counter()
        found: list[float] = []
        with suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.post(url + PATH, json=body) as answer:
                found += [time.perf_counter() - began async for _ in answer.content.iter_any()]
        return [*found, time.perf_counter() - began]

    return asyncio.run(program())


@pytest.fixture
def slow() -> Iterator[Provider]:
    with Provider(latency=0.05, chunk_delay=0.01) as provider:
        yield provider


@pytest.mark.parametrize("arrivals", [by_requests, by_aiohttp])
@pytest.mark.parametrize(("timing", "factor"), [("recorded", 1.0), (0.5, 0.5), ("2", 2.0)])
def test_streams_come_as_they_were_recorded(
    arrivals: Arrivals, timing: Any, factor: float, slow: Provider, store: Path, reader: SpanStore
) -> None:
    with escapement.init(storage_dir=store) as trace:
        arrivals(slow.base_url, STREAM)
    (step,) = reader.load(trace.trace_id).steps
    response = step.response()
    assert response is not None
    assert len(response.chunks) > 3
    with escapement.replay(trace.trace_id, strict_replay=True, timing=timing, storage_dir=store):
        replayed = arrivals(slow.base_url, STREAM)
    assert slow.count == 1
    assert len(replayed) == len(response.chunks) + 1
    assert all(again >= chunk.at / 1e9 * factor for again, chunk in zip(replayed[:-1], response.chunks, strict=True))


@pytest.mark.parametrize("arrivals", [by_requests, by_aiohttp])
@pytest.mark.parametrize("model", ["gpt-4o", "error-400", "drop"])
def test_whole_answers_and_failures_take_their_time(
    arrivals: Arrivals, model: str, slow: Provider, store: Path, reader: SpanStore
) -> None:
    with escapement.init(storage_dir=store) as trace:
        arrivals(slow.base_url, {**ASKED, "model": model})
    (step,) = reader.load(trace.trace_id).steps
    assert step.elapsed > 0
    with escapement.replay(trace.trace_id, strict_replay=True, timing="recorded", storage_dir=store):
        replayed = arrivals(slow.base_url, {**ASKED, "model": model})
    assert slow.count == 1
    assert replayed[-1] >= step.elapsed / 1e9
