"""litellm: the OpenAI SDK, httpx, and httpx on aiohttp, whichever it takes for a provider."""

from __future__ import annotations

import gc
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest

import escapement
from escapement.store.traces import SpanStore
from escapement.words import semconv
from tests.elsewhere.server import Server
from tests.fidelity.cases import ASYNC, SYNC, drive
from tests.fidelity.snapshot import differences, snapshot
from tests.provider import Provider

OPENAI, ANTHROPIC = "openai/gpt-4o", "anthropic/claude-sonnet-4-5"
BEDROCK = "bedrock/converse/anthropic.claude-3-5-sonnet-20240620-v1:0"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
]
WAYS = ("sync", "async", "aiohttp")
"""Sync, and async on httpx alone and on aiohttp."""

pytestmark = [  # of itself, pydantic and open connections it warns a lot
    pytest.mark.filterwarnings("ignore", "error::escapement.words.errors.EscapementWarning")
]

_TIMED = frozenset({"_response_ms", "litellm_overhead_time_ms", "callback_duration_ms"})
"""What litellm measures."""


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, as it is when there is no network; the clock stands still for the dates that it makes up."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    monkeypatch.setattr(time, "time", lambda: 1795600000.0)
    yield litellm
    forget_clients(litellm)
    gc.collect()  # it closes none of its clients: what they leave open is found here, and not in some later test


def forget_clients(litellm: Any) -> None:
    """Have it make new clients."""
    litellm.in_memory_llm_clients_cache.flush_cache()
    vars(litellm).pop("module_level_aclient", None)


Ask = Callable[..., Awaitable[Any]]
Program = Callable[[Ask], Coroutine[Any, Any, Any]]


async def plain(ask: Ask) -> Any:
    return seen(await ask(messages=HELLO))


async def stream(ask: Ask) -> Any:
    return [seen(chunk) for chunk in await ask(messages=HELLO, stream=True, stream_options={"include_usage": True})]


async def agent(ask: Ask) -> Any:
    """Two steps and a tool."""
    messages = [{"role": "user", "content": "What is the weather like?"}]
    first = await ask(messages=messages, tools=TOOLS)
    said = first.choices[0].message
    messages.append(said.model_dump())
    for call in said.tool_calls:
        asked = json.loads(call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps({"rain in": asked})})
    return seen(first), seen(await ask(messages=messages, tools=TOOLS))


async def tools_in_a_stream(ask: Ask) -> Any:
    return [seen(chunk) for chunk in await ask(messages=HELLO, tools=TOOLS, stream=True)]


async def several(ask: Ask) -> Any:
    return [seen(await ask(messages=[{"role": "user", "content": f"Hello {number}"}])) for number in range(3)]


async def refused(ask: Ask) -> Any:
    try:
        await ask(messages=HELLO, model_named="error-401", num_retries=0, max_retries=0)
    except Exception as error:
        return type(error), str(error), vars(error).keys()
    raise AssertionError("nothing was raised")


PROGRAMS: tuple[Program, ...] = (plain, stream, agent, tools_in_a_stream, several, refused)
STEPS: dict[Program, int] = {agent: 2, several: 3}


def seen(answer: Any) -> Any:
    """Everything that a program can see of an answer, but for what litellm measured, and the values of cookies."""
    hidden = {name: value for name, value in answer._hidden_params.items() if name not in _TIMED}
    for name in ("headers", "additional_headers"):
        if name in hidden:
            hidden[name] = {
                key: value.partition("=")[0] if key.endswith("set-cookie") else str(value)
                for key, value in dict(hidden[name]).items()
            }
    shown = snapshot(answer)
    for name in _TIMED:
        shown["fields"].pop(name, None)
    return shown, {name: value if type(value) is str else repr(value) for name, value in hidden.items()}


def run(litellm: Any, way: str, program: Program, model: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    numbers = count()
    monkeypatch.setattr(litellm._uuid.uuid, "uuid4", lambda: UUID(int=next(numbers)))
    monkeypatch.setattr(litellm, "disable_aiohttp_transport", way == "async")
    forget_clients(litellm)  # those that it made for another way

    async def ask(*, model_named: str = "", **asked: Any) -> Any:
        named = f"{model.partition('/')[0]}/{model_named}" if model_named else model
        answer = (litellm.completion if way == "sync" else litellm.acompletion)(model=named, **options, **asked)
        if inspect.isawaitable(answer):
            answer = await answer
        if not asked.get("stream"):
            return answer
        return list(answer) if way == "sync" else [chunk async for chunk in answer]

    return drive(SYNC if way == "sync" else ASYNC, program(ask))


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the requests that passed aiohttp."""
    passed: list[str] = []
    request = aiohttp.ClientSession._request

    def counted(self: Any, method: str, url: Any, **options: Any) -> Any:
        passed.append(str(url))
        return request(self, method, url, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", counted)
    return passed


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("way", WAYS)
def test_a_replay_is_the_recording(
    litellm: Any,
    way: str,
    model: str,
    program: Program,
    store: Path,
    sessions: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Provider() as provider:
        base = f"{provider.base_url}/v1" if model == OPENAI else provider.base_url

        def once() -> Any:
            return run(litellm, way, program, model, monkeypatch, api_base=base, api_key="any")

        with escapement.init(storage_dir=store) as trace:
            live = once()
        steps = STEPS.get(program, 1)
        assert (trace.steps, provider.count) == (steps, steps)
        assert len(sessions) == (steps if way == "aiohttp" else 0)
        other = once()
        count = provider.count
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
        again = once()
    assert differences(live, again) == []
    assert provider.count == count
    assert (replay.hits, replay.misses, replay.calls) == (steps, 0, 0)
    assert differences(live, other) != []


@pytest.mark.parametrize("program", [plain, stream])
@pytest.mark.parametrize("way", WAYS)
def test_bedrock(
    litellm: Any, way: str, program: Program, store: Path, reader: SpanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as server:

        def once() -> Any:
            return run(litellm, way, program, BEDROCK, monkeypatch, aws_bedrock_runtime_endpoint=server.url)

        with escapement.init(storage_dir=store) as trace:
            live = once()
        assert (trace.steps, len(server.bodies)) == (1, 1)
        assert differences(live, once()) != []
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
            again = once()
        assert len(server.bodies) == 2
    assert differences(live, again) == []
    assert (replay.hits, replay.misses) == (1, 0)
    step = reader.load(trace.trace_id).steps[0]
    names = (semconv.PROVIDER_NAME, semconv.REQUEST_MODEL, semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS)
    assert [step.attributes[name] for name in names] == ["aws.bedrock", BEDROCK.rpartition("/")[2], 5, 6]
