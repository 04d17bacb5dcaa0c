"""Event loops other than asyncio's own: uvloop, trio, and gevent's greenlets. Each branch is given its own answers back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import gevent
import openai
import pytest
import trio
import uvloop

import escapement
from tests.fidelity.cases import ASYNC
from tests.fidelity.cases import client as client_of
from tests.fidelity.openai_cases import CHAT
from tests.fidelity.test_branches import (
    ASYNC_PROGRAMS,
    BRANCHES,
    REPLAYS,
    Answers,
    AsyncProgram,
    anyio_task_group,
    ask_twice,
    flat,
    keeps_its_answers,
    recording,
    replay_of,
)
from tests.provider import Provider

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", ASYNC_PROGRAMS)
def test_branches_on_uvloop_keep_their_answers(name: str, store: Path) -> None:
    keeps_its_answers(ASYNC_PROGRAMS[name], uvloop.run, store)


# -- trio ------------------------------------------------------------------------------------------------------------


async def nursery(client: openai.AsyncOpenAI) -> Answers:
    answers: Answers = [None] * BRANCHES

    async def branch(number: int) -> None:
        answers[number] = await ask_twice(client)

    async with trio.open_nursery() as opened:
        for number in range(BRANCHES):
            opened.start_soon(branch, number)
    return answers


async def nursery_in_nursery(client: openai.AsyncOpenAI) -> Answers:
    answers: Answers = [None] * 3

    async def branch(number: int) -> None:
        answers[number] = await nursery(client)

    async with trio.open_nursery() as opened:
        for number in range(3):
            opened.start_soon(branch, number, name=f"branch {number}")
    return answers


async def started(client: openai.AsyncOpenAI) -> Answers:
    """Tasks that are waited for until they have begun, and then go on side by side."""
    answers: Answers = [None] * BRANCHES

    async def branch(number: int, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        answers[number] = await ask_twice(client)

    async with trio.open_nursery() as opened:
        for number in range(BRANCHES):
            await opened.start(branch, number)
    return answers


async def threads(client: openai.AsyncOpenAI) -> Answers:
    """Branches that ask from threads, through the event loop."""
    answers: Answers = [None] * BRANCHES

    async def branch(number: int) -> None:
        answers[number] = await trio.to_thread.run_sync(trio.from_thread.run, ask_twice, client)

    async with trio.open_nursery() as opened:
        for number in range(BRANCHES):
            opened.start_soon(branch, number)
    return answers


def run_in_trio(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def main() -> Any:
        return await coroutine

    return trio.run(main)


run_in_trio.__module__ = "trio"
TRIO_PROGRAMS: list[AsyncProgram] = [nursery, nursery_in_nursery, started, threads, anyio_task_group]


@pytest.mark.parametrize("program", TRIO_PROGRAMS, ids=lambda program: program.__name__)
def test_branches_in_trio_keep_their_answers(program: AsyncProgram, store: Path) -> None:
    keeps_its_answers(program, run_in_trio, store)


async def given_up(client: openai.AsyncOpenAI) -> Any:
    with trio.move_on_after(0.2) as scope:
        await client.chat.completions.create(**{**CHAT, "model": "slow"})
    return scope.cancelled_caught


async def given_up_by_a_sibling(client: openai.AsyncOpenAI) -> Any:
    told = []

    async def slow() -> None:
        try:
            await client.chat.completions.create(**{**CHAT, "model": "slow"})
        except trio.Cancelled:
            told.append("cancelled")
            raise

    async with trio.open_nursery() as opened:
        opened.start_soon(slow)
        told.append((await client.chat.completions.create(**CHAT)).id)
        await trio.sleep(0.2)
        opened.cancel_scope.cancel()
    return told


async def stream_given_up(client: openai.AsyncOpenAI) -> Any:
    told = []
    with trio.move_on_after(0.4) as scope:
        async with await client.chat.completions.create(**CHAT, stream=True) as stream:
            async for line in stream.response.aiter_lines():
                told.append(line)
    return [told, scope.cancelled_caught]


async def too_late(client: openai.AsyncOpenAI) -> Any:
    with pytest.raises(openai.APITimeoutError) as raised:
        await client.with_options(timeout=0.2).chat.completions.create(**{**CHAT, "model": "slow"})
    causes, error = [], raised.value
    while error is not None:
        causes.append((type(error), str(error)))
        error = error.__cause__
    return causes


@pytest.mark.parametrize(
    ("program", "chunk_delay"),
    [(given_up, 0.0), (given_up_by_a_sibling, 0.0), (stream_given_up, 600.0), (too_late, 0.0)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_cancelled_in_trio_is_cancelled_again(program: AsyncProgram, chunk_delay: float, store: Path) -> None:
    async def inside(url: str, run: escapement.Trace) -> Any:
        async with client_of("openai", ASYNC, url, max_retries=0) as made, run:
            return await program(made)

    with Provider(chunk_delay=chunk_delay) as provider:
        trace = recording(store)
        live = run_in_trio(inside(provider.base_url, trace))
        asked = provider.count
    assert run_in_trio(inside(provider.base_url, replay_of(trace, store))) == live
    assert provider.count == asked
    assert live not in (False, [], None)


def test_trio_as_a_guest_of_asyncio(store: Path) -> None:
    async def host(program: Any) -> Any:
        done = asyncio.get_running_loop().create_future()
        trio.lowlevel.start_guest_run(
            program,
            run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
            done_callback=done.set_result,
        )
        return (await done).unwrap()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def main() -> Any:
            return await coroutine

        return asyncio.run(host(main))

    keeps_its_answers(nursery, run, store)


# -- gevent ----------------------------------------------------------------------------------------------------------

GREENLETS = """
from gevent import monkey
monkey.patch_all()

import json, sys
from pathlib import Path

import gevent, gevent.pool
import escapement
from tests.fidelity import test_branches as branches
from tests.fidelity.cases import SYNC, client

def spawn(made):
    greenlets = [gevent.spawn(branches.ask_twice_now, made) for _ in range(branches.BRANCHES)]
    gevent.joinall(greenlets)
    return [greenlet.get() for greenlet in greenlets]

def pool(made):
    return gevent.pool.Pool(branches.BRANCHES).map(branches.ask_twice_now, [made] * branches.BRANCHES)

url, store, name = sys.argv[1:]
program = {"spawn": spawn, "pool": pool, "threads": branches.threads, "submit": branches.pool_submit}[name]
with client("openai", SYNC, url) as made:
    with branches.recording(Path(store)) as trace:
        live = program(made)
    replays, counts = [], []
    for _ in range(branches.REPLAYS):
        with branches.replay_of(trace, Path(store)) as replay:
            replays.append(program(made))
        counts.append((replay.hits, replay.misses))
print(json.dumps([trace.steps, live, replays, counts]))
"""


@pytest.mark.parametrize("name", ["spawn", "pool", "threads", "submit"])
def test_greenlets_keep_their_answers(name: str, store: Path) -> None:
    with Provider() as provider:
        ran = subprocess.run(
            [sys.executable, "-c", GREENLETS, provider.base_url, str(store), name],
            capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert provider.count == 2 * BRANCHES
    steps, live, replays, counts = json.loads(ran.stdout)
    print(
        f"\n{name} (gevent): {replays.count(live)} of {REPLAYS} replays of {steps} calls gave each branch its own answers"
    )
    assert len(set(flat(live))) == steps == 2 * BRANCHES
    assert replays == [live] * REPLAYS
    assert counts == [[steps, 0]] * REPLAYS


def test_nothing_stays_in_other_event_loops(store: Path) -> None:
    def hooks() -> list[object]:
        return [uvloop.Loop.__dict__.get("create_task"), trio.Nursery.start_soon, trio.Nursery.start]

    def context_of_a_greenlet() -> Any:
        greenlet = gevent.spawn(lambda: None)
        context = greenlet.gr_context
        greenlet.join()
        return context

    before = hooks()
    assert context_of_a_greenlet() is None
    with recording(store):
        assert not any(one is other for one, other in zip(hooks(), before, strict=True))
        assert [scope.lane for scope in context_of_a_greenlet().values()] == ["main/<lambda>[0]"]
    assert hooks() == before
    assert context_of_a_greenlet() is None
