"""Loop detection: the same request again and again kills the run, and it stays killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.conftest import ask
from tests.provider import Provider


def test_the_tenth_identical_request_kills_the_run(client: openai.OpenAI, provider: Provider, store: Path) -> None:
    trace = escapement.init("loop")
    with pytest.raises(escapement.LoopDetectedError) as raised:
        for _ in range(50):
            ask(client)
    assert raised.value.trace_id == trace.trace_id
    assert "the same request was made 10 times (steps 1 to 10)" in str(raised.value)
    assert (provider.count, trace.status, trace.steps) == (9, "killed", 9)
    # Saved at once, while the program still runs.
    row = SpanStore(store).load(trace.trace_id)
    assert (row.status, len(row.steps), row.error) == ("killed", 9, str(raised.value))
    escapement.stop()
    assert SpanStore(store).load(trace.trace_id).status == "killed"


def test_a_killed_run_refuses_every_later_call(
    client: openai.OpenAI, claude: anthropic.Anthropic, provider: Provider
) -> None:
    refused = 0
    with escapement.init(max_identical_calls=3) as trace:
        for number in range(20):
            try:
                ask(client, "again" if number < 10 else f"something else {number}")
            except Exception as error:  # code that swallows everything
                assert isinstance(error, escapement.LoopDetectedError)
                refused += 1
        with pytest.raises(escapement.LoopDetectedError):
            claude.messages.create(model="claude", max_tokens=5, messages=[{"role": "user", "content": "Hello"}])
    assert (refused, provider.count, trace.status) == (18, 2, "killed")


def test_different_requests_are_no_loop(client: openai.OpenAI, provider: Provider) -> None:
    with escapement.init(max_identical_calls=3) as trace:
        for number in range(12):
            ask(client, f"number {number}")
    assert (trace.status, provider.count) == ("completed", 12)


def test_retries_of_one_call_count_once(client: openai.OpenAI, provider: Provider) -> None:
    with escapement.init(max_identical_calls=2) as trace:
        ask(client, model="flaky-500-2")
    assert (trace.status, trace.steps, provider.count) == ("completed", 1, 3)


@pytest.mark.parametrize(("setting", "value"), [("loop_detection_enabled", False), ("max_identical_calls", 100)])
def test_it_can_be_switched_off_or_set(client: openai.OpenAI, setting: str, value: object) -> None:
    with escapement.init(**{setting: value}) as trace:
        for _ in range(12):
            ask(client)
    assert (trace.status, trace.steps) == ("completed", 12)


def test_a_replay_of_a_killed_run_is_killed_at_the_same_step(client: openai.OpenAI, provider: Provider) -> None:
    def program() -> None:
        ask(client, "start")
        while True:
            ask(client)

    with pytest.raises(escapement.LoopDetectedError), escapement.init(max_identical_calls=4) as trace:
        program()
    before = provider.count
    with (
        pytest.raises(escapement.LoopDetectedError),
        escapement.replay(trace.trace_id, strict_replay=True, max_identical_calls=4) as replayed,
    ):
        program()
    assert (trace.steps, replayed.steps, replayed.hits, provider.count) == (4, 4, 4, before)


def test_each_run_counts_for_itself(client: openai.OpenAI) -> None:
    for _ in range(3):
        with escapement.init(max_identical_calls=3) as trace:
            ask(client), ask(client)
        assert trace.status == "completed"


def test_order_of_keys_and_credentials_do_not_hide_a_loop(provider: Provider) -> None:
    import httpx2

    bodies = [
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        {"messages": [{"content": "x", "role": "user"}], "model": "m"},
    ]
    with httpx2.Client() as web, pytest.raises(escapement.LoopDetectedError), escapement.init(max_identical_calls=4):
        for number in range(10):
            content = json.dumps(bodies[number % 2])
            web.post(
                f"{provider.base_url}/v1/chat/completions",
                content=content,
                headers={"authorization": f"Bearer {number}"},
            )
    assert provider.count == 3


def test_asking_many_times_at_once_is_no_loop(provider: Provider, store: Path) -> None:
    """Best of ten: the same request in parallel counts as one, live and in the replay."""
    import asyncio

    async def best_of(number: int) -> list[str]:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{provider.base_url}/v1") as client:

            async def one() -> str:
                answer = await client.chat.completions.create(
                    model="gpt-4o", messages=[{"role": "user", "content": "Hello"}]
                )
                return answer.choices[0].message.content or ""

            return list(await asyncio.gather(*(one() for _ in range(number))))

    with escapement.init(max_identical_calls=4) as trace:
        live = asyncio.run(best_of(8))
    assert (trace.status, provider.count) == ("completed", 8)
    with escapement.replay(trace.trace_id, strict_replay=True, max_identical_calls=4) as replayed:
        assert asyncio.run(best_of(8)) == live
    assert (replayed.hits, provider.count) == (8, 8)
    with pytest.raises(escapement.LoopDetectedError), escapement.init(max_identical_calls=4):
        for _ in range(4):
            asyncio.run(best_of(3))


def test_polling_a_job_is_no_loop(client: openai.OpenAI, claude: anthropic.Anthropic, provider: Provider) -> None:
    """What only reads does not count, however often; what asks for work does."""

    def program() -> list[str]:
        job = client.responses.create(model="gpt-4o", input="Take your time", background=True)
        told = [str(client.responses.retrieve(job.id).status) for _ in range(14)]
        asked: Any = {"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
        batch = claude.messages.batches.create(requests=[{"custom_id": "one", "params": asked}])
        return told + [claude.messages.batches.retrieve(batch.id).processing_status for _ in range(14)]

    with escapement.init(max_identical_calls=3) as trace:
        live = program()
    assert (trace.status, trace.steps, provider.count) == ("completed", 30, 30)
    assert live[:14] == ["queued", *["in_progress"] * 11, "completed", "completed"]
    assert live[14:] == [*["in_progress"] * 11, "ended", "ended", "ended"]
    with escapement.replay(trace.trace_id, strict_replay=True, max_identical_calls=3) as replayed:
        assert program() == live
    assert (replayed.hits, provider.count) == (30, 30)
    with pytest.raises(escapement.LoopDetectedError), escapement.init(max_identical_calls=3):
        for _ in range(3):
            client.responses.create(model="gpt-4o", input="Take your time", background=True)
