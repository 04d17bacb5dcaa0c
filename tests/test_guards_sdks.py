"""Tools are seen in the messages of every SDK: the same call again and again, in each one's own protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import pytest

import escapement
from escapement.engine.guards import Verdict
from tests.fidelity import other_cases
from tests.fidelity.cases import SYNC
from tests.provider import Provider

ARGUMENTS = {"query": "build log", "limit": 3}
GOOD = '{"hits": 0, "at": "2026-11-25T10:00:00Z"}'
BAD = '{"error": "index is locked"}'
QUESTION = "Find out what is wrong with the build, please."

Turn = Callable[[str, str, bool], list[Any]]
"""The messages of one use of the tool `search`: its id, its result, whether it failed."""


class Protocol(NamedTuple):
    """How a conversation begins, what a turn adds to it, and a call with it."""

    question: list[Any]
    turn: Turn
    ask: Callable[[Any, list[Any]], object]


def _chat(id: str, result: str, failed: bool) -> list[Any]:
    function = {"name": "search", "arguments": json.dumps(ARGUMENTS)}
    return [
        {"role": "assistant", "content": "", "tool_calls": [{"id": id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": id, "content": result},
    ]


def _responses(id: str, result: str, failed: bool) -> list[Any]:
    call = {"type": "function_call", "call_id": id, "name": "search", "arguments": json.dumps(ARGUMENTS)}
    return [call, {"type": "function_call_output", "call_id": id, "output": result}]


def _anthropic(id: str, result: str, failed: bool) -> list[Any]:
    use = {"type": "tool_use", "id": id, "name": "search", "input": ARGUMENTS}
    answer = {"type": "tool_result", "tool_use_id": id, "content": [{"type": "text", "text": "index is locked"}]}
    if not failed:
        answer["content"] = [{"type": "text", "text": result}]
    return [
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [{**answer, "is_error": failed}]},
    ]


def _gemini(id: str, result: str, failed: bool) -> list[Any]:
    """Without ids, as it mostly is there."""
    return [
        {"role": "model", "parts": [{"function_call": {"name": "search", "args": ARGUMENTS}}]},
        {"role": "user", "parts": [{"function_response": {"name": "search", "response": json.loads(result)}}]},
    ]


def _ollama(id: str, result: str, failed: bool) -> list[Any]:
    return [
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "search", "arguments": ARGUMENTS}}]},
        {"role": "tool", "tool_name": "search", "content": result},
    ]


USER: list[Any] = [{"role": "user", "content": QUESTION}]

PROTOCOLS: dict[str, Protocol] = {
    "openai": Protocol(
        USER, _chat, lambda client, history: client.chat.completions.create(model="gpt-4o", messages=history)
    ),
    "responses": Protocol(
        USER, _responses, lambda client, history: client.responses.create(model="gpt-4o", input=history)
    ),
    "anthropic": Protocol(
        USER,
        _anthropic,
        lambda client, history: client.messages.create(model="claude", max_tokens=50, messages=history),
    ),
    "anthropic_stream": Protocol(
        USER,
        _anthropic,
        lambda client, history: list(
            client.messages.create(model="claude", max_tokens=50, messages=history, stream=True)
        ),
    ),
    "gemini": Protocol(
        [{"role": "user", "parts": [{"text": QUESTION}]}],
        _gemini,
        lambda client, history: client.models.generate_content(model="gemini-3", contents=history),
    ),
    "mistral": Protocol(
        USER, _chat, lambda client, history: client.ask("chat.complete", model="mistral-large", messages=history)
    ),
    "cohere": Protocol(USER, _chat, lambda client, history: client.chat(model="command-a", messages=history)),
    "ollama": Protocol(USER, _ollama, lambda client, history: client.chat(model="llama4", messages=history)),
    "groq": Protocol(
        USER, _chat, lambda client, history: client.chat.completions.create(model="llama-4", messages=history)
    ),
    "together": Protocol(
        USER, _chat, lambda client, history: client.chat.completions.create(model="llama-4", messages=history)
    ),
}


@contextmanager
def opened(name: str, url: str) -> Iterator[Any]:
    """A client as a user would make it."""
    if name in ("openai", "responses"):
        with openai.OpenAI(api_key="any", base_url=f"{url}/v1") as client:
            yield client
    elif name.startswith("anthropic"):
        with anthropic.Anthropic(api_key="any", base_url=url) as claude:
            yield claude
    else:
        with asyncio.Runner() as runner:
            other = other_cases.opened(name, SYNC, url)
            yield runner.run(other.__aenter__())
            runner.run(other.__aexit__(None, None, None))


def results(failed: bool) -> Iterator[str]:
    """The same result every time, but for the clock in it."""
    for number in range(100):
        yield BAD if failed else GOOD.replace("10:00:00", f"10:00:{number % 60:02d}")


@pytest.mark.parametrize("failed", [False, True], ids=["result", "error"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_same_call_is_seen_in_every_protocol(name: str, failed: bool, provider: Provider) -> None:
    protocol = PROTOCOLS[name]
    verdicts: list[Verdict] = []
    history = list(protocol.question)
    with opened(name, provider.base_url) as client, escapement.init(name, on_guard=verdicts.append):
        for number, result in zip(range(6), results(failed), strict=False):
            protocol.ask(client, history)
            history += protocol.turn(f"call{number:05d}", result, failed)
    assert [(verdict.rule, verdict.level, verdict.steps) for verdict in verdicts] == _expected(failed)
    assert "the tool search was called" in verdicts[0].what


def _expected(failed: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    if failed:
        return [
            ("repeated_error", "warn", (2, 3)),
            ("repeated_error", "stop", (2, 3, 4)),
            ("failing_tool", "warn", (2, 3, 4, 5, 6)),
        ]
    return [("repeated_tool", "warn", (2, 3, 4)), ("repeated_tool", "stop", (2, 3, 4, 5, 6))]


def test_answers_that_are_gone_on_from_by_their_id() -> None:
    """Responses: the history is the provider's, and the calls are not sent again; only what tools said is."""
    numbers = itertools.count()

    def answer(request: httpx2.Request) -> httpx2.Response:
        number = next(numbers)
        call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call{number}", "status": "completed"}
        call |= {"name": "search", "arguments": json.dumps(ARGUMENTS)}
        document = {"id": f"resp_{number}", "object": "response", "model": "gpt-4o", "output": [call], "tools": []}
        return httpx2.Response(
            200, json={**document, "created_at": 1, "parallel_tool_calls": True, "tool_choice": "auto"}
        )

    verdicts: list[Verdict] = []
    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as web,
        openai.OpenAI(api_key="any", http_client=web) as client,
        escapement.init(on_guard=verdicts.append),
    ):
        said = client.responses.create(model="gpt-4o", input=QUESTION)
        for result in itertools.islice(results(False), 5):
            call: Any = said.output[0]
            output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": result}
            said = client.responses.create(model="gpt-4o", previous_response_id=said.id, input=[output])
    assert [(verdict.rule, verdict.level, verdict.steps) for verdict in verdicts] == _expected(False)
    assert verdicts[0].what.startswith("the tool search was called 3 times")


def test_async_agents_whose_calls_are_tasks_of_their_own(provider: Provider) -> None:
    """Each call in another task, and so in another lane: the conversation says what belongs together."""
    verdicts: list[Verdict] = []

    async def program() -> None:
        async with openai.AsyncOpenAI(api_key="any", base_url=f"{provider.base_url}/v1") as client:
            history = list(USER)
            for number, result in zip(range(6), results(False), strict=False):
                call = client.chat.completions.create(model="gpt-4o", messages=history)
                await asyncio.wait_for(asyncio.ensure_future(call), 30)
                history += _chat(f"call{number:05d}", result, False)

    with escapement.init(on_guard=verdicts.append):
        asyncio.run(program())
    assert [(verdict.rule, verdict.level, verdict.steps) for verdict in verdicts] == _expected(False)


def test_a_window_that_slides_over_the_history(provider: Provider) -> None:
    """Only the last messages are sent: what was seen before is not counted again, what is new is."""
    verdicts: list[Verdict] = []
    with openai.OpenAI(api_key="any", base_url=f"{provider.base_url}/v1") as client:

        def slide(calls: int, turn: Callable[[int], list[Any]]) -> None:
            history: list[Any] = []
            for number in range(calls):
                history += turn(number)
                client.chat.completions.create(model="gpt-4o", messages=[*USER, *history[-12:]])

        with escapement.init(on_guard=verdicts.append):
            slide(30, lambda number: _chat(f"call{number:05d}", f"result {number}", False))
        assert verdicts == []
        with escapement.init(on_guard=verdicts.append):
            slide(12, lambda number: _chat(f"call{number:05d}", GOOD if number >= 6 else f"result {number}", False))
    assert [(verdict.rule, verdict.level, verdict.steps) for verdict in verdicts] == [
        ("repeated_tool", "warn", (7, 8, 9)),
        ("repeated_tool", "stop", (7, 8, 9, 10, 11)),
    ]
