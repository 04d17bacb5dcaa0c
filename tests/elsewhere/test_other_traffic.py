"""What is nobody's business passes as if there were no run: the same requests, the same objects, nothing around them."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import boto3
import pytest
import requests
import urllib3

import escapement
from tests.elsewhere.server import Server

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
OTHERS: list[tuple[str, str, Any]] = [
    ("GET", "/file", None),
    ("POST", "/somewhere", CHAT),
    ("POST", "/v1/chat/completions", {"no": "such field"}),
]
_LEAVES = (str, bytes, int, float, type, FunctionType, ModuleType, socket.socket, io.IOBase, asyncio.AbstractEventLoop)


def shape(value: Any, depth: int = 5) -> Any:
    """What an object is made of, class by class."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if depth == 0 or value is None or isinstance(value, _LEAVES):
        return kind
    if isinstance(value, Mapping):
        return kind
    if isinstance(value, list | tuple):
        return kind, [shape(item, depth - 1) for item in value]
    return kind, {name: shape(found, depth - 1) for name, found in _attributes(value)}


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    slots = (name for base in type(value).__mro__ for name in getattr(base, "__slots__", ()))
    for name in sorted({*getattr(value, "__dict__", ()), *slots}):
        found = getattr(value, name, None)
        if not callable(found) and not name.startswith("__"):
            yield name, found


def by_requests(url: str) -> Iterator[Any]:
    for method, path, body in OTHERS:
        with requests.Session() as session, session.request(method, url + path, json=body, stream=True) as answer:
            raw: Any = answer.raw._fp
            yield shape(answer), shape(raw), shape(raw.fp), len(answer.content)


def by_urllib3(url: str) -> Iterator[Any]:
    with urllib3.PoolManager() as pool:
        for method, path, body in OTHERS:
            answer: Any = pool.request(method, url + path, json=body, preload_content=False)
            yield shape(answer), shape(answer._fp), shape(answer.connection), len(answer.read())
            answer.release_conn()


def by_urllib(url: str) -> Iterator[Any]:
    for method, path, body in OTHERS:
        data = json.dumps(body).encode() if body else None
        asked = urllib.request.Request(url + path, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(asked) as answer:
            yield shape(answer), shape(answer.fp), len(answer.read())


def by_hand(url: str) -> Iterator[Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    for method, path, body in OTHERS:
        connection.request(method, path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        yield shape(connection), shape(answer), shape(answer.fp), len(answer.read())
    connection.close()


def by_aiohttp(url: str) -> Iterator[Any]:
    async def program() -> list[Any]:
        found = []
        async with aiohttp.ClientSession(url) as session:
            for method, path, body in OTHERS:
                async with session.request(method, path, json=body) as answer:
                    before = type(answer.content), type(answer.content._timer)
                    size = len(await answer.read())
                    found.append((before, shape(answer, 1), shape(answer.content, 1), size))
        return found

    yield from asyncio.run(program())


def by_boto3(url: str) -> Iterator[Any]:
    client = boto3.client("s3", endpoint_url=url)
    yield shape(client.put_object(Bucket="bucket", Key="key", Body=b"x" * 100))
    body = client.get_object(Bucket="bucket", Key="key")["Body"]
    yield shape(body), len(body.read())
    client.close()


@pytest.mark.parametrize("program", [by_requests, by_urllib3, by_urllib, by_hand, by_aiohttp, by_boto3])
def test_other_traffic_is_left_alone(program: Callable[[str], Iterator[Any]], store: Path) -> None:
    with Server() as server:
        list(program(server.url))  # what is made once
        server.bodies.clear()
        without = list(program(server.url))
        sent = list(server.bodies)
        with escapement.init(storage_dir=store) as trace:
            recorded = list(program(server.url))
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
            replayed = list(program(server.url))
    assert without == recorded == replayed
    assert server.bodies == sent * 3
    assert (trace.steps, replay.hits, replay.misses) == (0, 0, 0)
