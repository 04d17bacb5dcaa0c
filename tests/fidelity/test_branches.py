"""Identical requests made at the same time: each branch of a program is given its own answer back, every time.

`REPLAYS=100` for more replays of each program than a test run makes.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.fidelity.cases import ASYNC, SYNC, library_of
from tests.fidelity.cases import client as client_of
from tests.fidelity.openai_cases import CHAT, USER
from tests.provider import Provider

BRANCHES = 6
REPLAYS = int(os.environ.get("REPLAYS", "20"))

Answers = list[Any]
AsyncProgram = Callable[[openai.AsyncOpenAI], Awaitable[Answers]]
SyncProgram = Callable[[openai.OpenAI], Answers]

ASYNC_PROGRAMS: dict[str, AsyncProgram] = {}
SYNC_PROGRAMS: dict[str, SyncProgram] = {}


def async_program(program: AsyncProgram) -> AsyncProgram:
    ASYNC_PROGRAMS[program.__name__] = program
    return program


def sync_program(program: SyncProgram) -> SyncProgram:
    SYNC_PROGRAMS[program.__name__] = program
    return program


def pause() -> float:
    """Some moment, so that the branches come to their calls in another order every time."""
    return random.uniform(0, 0.003)


async def ask(client: openai.AsyncOpenAI) -> str:
    """The same request, whoever asks; the answer's id."""
    await anyio.sleep(pause())
    return (await client.chat.completions.create(**CHAT)).id


async def ask_twice(client: openai.AsyncOpenAI) -> Answers:
    return [await ask(client), await ask(client)]


def ask_now(client: openai.OpenAI) -> str:
    time.sleep(pause())
    return client.chat.completions.create(**CHAT).id


def ask_twice_now(client: openai.OpenAI) -> Answers:
    return [ask_now(client), ask_now(client)]


# -- tasks -----------------------------------------------------------------------------------------------------------


@async_program
async def gather(client: openai.AsyncOpenAI) -> Answers:
    return await asyncio.gather(*(ask_twice(client) for _ in range(BRANCHES)))


@async_program
async def gather_in_gather(client: openai.AsyncOpenAI) -> Answers:
    async def branch() -> Answers:
        return [await ask(client), *await asyncio.gather(*(ask(client) for _ in range(3))), await ask(client)]

    return await asyncio.gather(*(branch() for _ in range(3)))


@async_program
async def task_group(client: openai.AsyncOpenAI) -> Answers:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask_twice(client)) for _ in range(BRANCHES)]
    return [task.result() for task in tasks]


@async_program
async def task_group_in_task_group(client: openai.AsyncOpenAI) -> Answers:
    async def branch() -> Answers:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(client)) for _ in range(3)]
        return [task.result() for task in tasks]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(branch()) for _ in range(3)]
    return [task.result() for task in tasks]


@async_program
async def waiting_for(client: openai.AsyncOpenAI) -> Answers:
    return await asyncio.gather(*(asyncio.wait_for(ask(client), 5) for _ in range(BRANCHES)))


@async_program
async def tasks_made_first(client: openai.AsyncOpenAI) -> Answers:
    tasks = [asyncio.create_task(ask(client), name=f"task {number}") for number in range(BRANCHES)]
    await asyncio.wait(tasks)
    return [task.result() for task in tasks]


@async_program
async def limited_by_a_semaphore(client: openai.AsyncOpenAI) -> Answers:
    semaphore = asyncio.Semaphore(2)

    async def branch() -> Answers:
        async with semaphore:
            return await ask_twice(client)

    return await asyncio.gather(*(branch() for _ in range(BRANCHES)))


@async_program
async def streams(client: openai.AsyncOpenAI) -> Answers:
    async def branch() -> Answers:
        await asyncio.sleep(pause())
        return [chunk.to_dict() async for chunk in await client.chat.completions.create(**CHAT, stream=True)]

    return await asyncio.gather(*(branch() for _ in range(3)))


@async_program
async def own_contexts(client: openai.AsyncOpenAI) -> Answers:
    tasks = [asyncio.create_task(ask_twice(client), context=contextvars.copy_context()) for _ in range(BRANCHES)]
    return await asyncio.gather(*tasks)


@async_program
async def workers_on_a_queue(client: openai.AsyncOpenAI) -> Answers:
    """Which worker comes to which question is left to chance, and differs every time: the question decides."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    answers: Answers = [None] * 2 * BRANCHES

    async def work() -> None:
        while not queue.empty():
            number = queue.get_nowait()
            await asyncio.sleep(pause())
            question: Any = [{"role": "user", "content": f"question {number}"}]
            answers[number] = (await client.chat.completions.create(model="gpt-4o", messages=question)).id

    for number in range(2 * BRANCHES):
        queue.put_nowait(number)
    await asyncio.gather(*(work() for _ in range(3)))
    return answers


@async_program
async def one_context_for_all(client: openai.AsyncOpenAI) -> Answers:
    """A framework may keep one context for a whole conversation, and start tasks in it from inside of it."""
    context = contextvars.copy_context()

    async def branch() -> Answers:
        return [await ask(client), await asyncio.create_task(ask(client), context=context)]

    return [await asyncio.create_task(branch(), context=context) for _ in range(2)]


@async_program
async def anyio_task_group(client: openai.AsyncOpenAI) -> Answers:
    answers: Answers = [None] * BRANCHES

    async def branch(number: int) -> None:
        answers[number] = await ask_twice(client)

    async with anyio.create_task_group() as group:
        for number in range(BRANCHES):
            group.start_soon(branch, number)
    return answers


# -- threads below an event loop -------------------------------------------------------------------------------------


def beside(client: openai.AsyncOpenAI) -> openai.OpenAI:
    """A sync client that asks the same provider."""
    made: openai.OpenAI = client_of("openai", SYNC, str(client.base_url).removesuffix("/v1/"))
    return made


@async_program
async def to_thread(client: openai.AsyncOpenAI) -> Answers:
    with beside(client) as sync:
        return await asyncio.gather(*(asyncio.to_thread(ask_twice_now, sync) for _ in range(BRANCHES)))


@async_program
async def executor_of_the_loop(client: openai.AsyncOpenAI) -> Answers:
    loop = asyncio.get_running_loop()
    with beside(client) as sync:
        return await asyncio.gather(*(loop.run_in_executor(None, ask_twice_now, sync) for _ in range(BRANCHES)))


@async_program
async def executor_of_the_program(client: openai.AsyncOpenAI) -> Answers:
    loop = asyncio.get_running_loop()
    with beside(client) as sync, ThreadPoolExecutor(3) as pool:
        call = functools.partial(ask_twice_now, sync)
        return await asyncio.gather(*(loop.run_in_executor(pool, call) for _ in range(BRANCHES)))


@async_program
async def executor_with_contexts(client: openai.AsyncOpenAI) -> Answers:
    """How frameworks take their context variables along into a pool."""
    loop = asyncio.get_running_loop()
    with beside(client) as sync:
        calls = [functools.partial(contextvars.copy_context().run, ask_twice_now, sync) for _ in range(BRANCHES)]
        return await asyncio.gather(*(loop.run_in_executor(None, call) for call in calls))


@async_program
async def anyio_to_thread(client: openai.AsyncOpenAI) -> Answers:
    answers: Answers = [None] * BRANCHES

    async def branch(number: int) -> None:
        answers[number] = await anyio.to_thread.run_sync(ask_twice_now, sync)

    with beside(client) as sync:
        async with anyio.create_task_group() as group:
            for number in range(BRANCHES):
                group.start_soon(branch, number)
    return answers


# -- threads ---------------------------------------------------------------------------------------------------------


@sync_program
def threads(client: openai.OpenAI) -> Answers:
    answers: Answers = [None] * BRANCHES

    def branch(number: int) -> None:
        answers[number] = ask_twice_now(client)

    started = [threading.Thread(target=branch, args=[number]) for number in range(BRANCHES)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return answers


@sync_program
def threads_with_contexts(client: openai.OpenAI) -> Answers:
    """How programs take their context variables along into a thread."""
    answers: Answers = [None] * BRANCHES

    def branch(number: int) -> None:
        answers[number] = ask_twice_now(client)

    started = [threading.Thread(target=contextvars.copy_context().run, args=[branch, each]) for each in range(BRANCHES)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return answers


@sync_program
def threads_with_a_run_of_their_own(client: openai.OpenAI) -> Answers:
    class Asking(threading.Thread):
        def run(self) -> None:
            self.answers = ask_twice_now(client)

    started = [Asking() for _ in range(BRANCHES)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return [thread.answers for thread in started]


@sync_program
def threads_in_threads(client: openai.OpenAI) -> Answers:
    answers: dict[tuple[int, int], str] = {}

    def leaf(place: tuple[int, int]) -> None:
        answers[place] = ask_now(client)

    def branch(number: int) -> None:
        run([threading.Thread(target=leaf, args=[(number, below)]) for below in range(3)])

    def run(started: list[threading.Thread]) -> None:
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    run([threading.Thread(target=branch, args=[number]) for number in range(3)])
    return [answers[place] for place in sorted(answers)]


@sync_program
def pool_submit(client: openai.OpenAI) -> Answers:
    with ThreadPoolExecutor(3) as pool:
        return [future.result() for future in [pool.submit(ask_twice_now, client) for _ in range(BRANCHES)]]


@sync_program
def pool_map(client: openai.OpenAI) -> Answers:
    with ThreadPoolExecutor(BRANCHES) as pool:
        return list(pool.map(lambda _: ask_twice_now(client), range(BRANCHES)))


@sync_program
def pool_of_pools(client: openai.OpenAI) -> Answers:
    def branch(_: int) -> Answers:
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(lambda _: ask_now(client), range(3)))

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(branch, range(3)))


@sync_program
def pool_with_contexts(client: openai.OpenAI) -> Answers:
    """How frameworks take their context variables along into a pool."""
    with ThreadPoolExecutor(BRANCHES) as pool:
        contexts = [contextvars.copy_context() for _ in range(BRANCHES)]
        return [future.result() for future in [pool.submit(each.run, ask_twice_now, client) for each in contexts]]


@sync_program
def event_loops_in_threads(client: openai.OpenAI) -> Answers:
    url = str(client.base_url).removesuffix("/v1/")

    async def branch() -> Answers:
        async with client_of("openai", ASYNC, url) as own:
            return await asyncio.gather(*(ask(own) for _ in range(2)))

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda _: asyncio.run(branch()), range(3)))


# -- every one of them -----------------------------------------------------------------------------------------------


def flat(answers: Any) -> Iterator[str]:
    if isinstance(answers, list):
        for answer in answers:
            yield from flat(answer)
    else:
        yield answers["id"] if isinstance(answers, dict) else answers


def recording(store: Path, name: str = "") -> escapement.Trace:
    # Here the same request is made over and over on purpose.
    return escapement.init(name, storage_dir=store, loop_detection_enabled=False)


def replay_of(trace: escapement.Trace, store: Path) -> escapement.Trace:
    return escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store, loop_detection_enabled=False)


def keeps_its_answers(program: AsyncProgram, run: Callable[[Coroutine[Any, Any, Any]], Any], store: Path) -> None:
    """Record a program in an event loop (`run`), and replay it in that kind of loop as often as is wanted."""

    async def record(url: str) -> tuple[escapement.Trace, Answers]:
        async with client_of("openai", ASYNC, url) as made, recording(store) as trace:
            return trace, await program(made)

    async def replay(url: str, trace: escapement.Trace) -> list[Answers]:
        replays = []
        async with client_of("openai", ASYNC, url) as made:
            for _ in range(REPLAYS):
                async with replay_of(trace, store) as replay:
                    replays.append(await program(made))
                assert (replay.hits, replay.misses) == (trace.steps, 0)
        return replays

    with Provider() as provider:
        trace, live = run(record(provider.base_url))
    assert len(set(flat(live))) == trace.steps or program is streams
    replays = run(replay(provider.base_url, trace))
    print(
        f"\n{program.__name__} ({run.__module__.partition('.')[0]}): {replays.count(live)} of {REPLAYS} replays of "
        f"{trace.steps} calls gave each branch its own answers"
    )
    assert replays == [live] * REPLAYS
    assert provider.count == trace.steps


@pytest.mark.parametrize("name", ASYNC_PROGRAMS)
def test_async_branches_keep_their_answers(name: str, store: Path) -> None:
    keeps_its_answers(ASYNC_PROGRAMS[name], asyncio.run, store)


@pytest.mark.parametrize("name", SYNC_PROGRAMS)
def test_sync_branches_keep_their_answers(name: str, store: Path) -> None:
    program = SYNC_PROGRAMS[name]
    with Provider() as provider, client_of("openai", SYNC, provider.base_url) as made:
        trace = recording(store)
        live = program(made)
        escapement.stop()
        assert len(set(flat(live))) == trace.steps == provider.count
        provider.stop()
        replays = []
        for _ in range(REPLAYS):
            with replay_of(trace, store) as replay:
                replays.append(program(made))
            assert (replay.hits, replay.misses) == (trace.steps, 0)
    print(
        f"\n{name}: {replays.count(live)} of {REPLAYS} replays of {trace.steps} calls gave each branch its own answers"
    )
    assert replays == [live] * REPLAYS
    assert provider.count == trace.steps


@pytest.mark.parametrize("program", [gather, task_group, to_thread], ids=lambda program: program.__name__)
def test_branches_of_a_run_of_the_whole_process(program: AsyncProgram, store: Path) -> None:
    """The run is opened before there is an event loop, as at the top of a script."""

    async def once(url: str) -> Answers:
        async with client_of("openai", ASYNC, url) as made:
            return await program(made)

    with Provider() as provider:
        trace = recording(store)
        live = asyncio.run(once(provider.base_url))
        escapement.stop()
    for _ in range(5):
        replay_of(trace, store)
        assert asyncio.run(once(provider.base_url)) == live
        escapement.stop()


@contextmanager
def runs_of(kind: str) -> Iterator[Callable[[Any], Any]]:
    """Ways to run one coroutine after the other in one event loop: a notebook's, a test framework's."""
    if kind == "runner":
        with asyncio.Runner() as runner:
            yield runner.run
        return
    loop = asyncio.new_event_loop()
    try:
        yield loop.run_until_complete
    finally:
        loop.close()


@pytest.mark.parametrize("kind", ["runner", "loop"])
@pytest.mark.parametrize("scoped", [False, True], ids=["process", "with"])
def test_recorded_and_replayed_in_one_event_loop(kind: str, scoped: bool, store: Path) -> None:
    def opened(trace: escapement.Trace) -> AbstractContextManager[Any]:
        return trace if scoped else stopped()

    @contextmanager
    def stopped() -> Iterator[None]:
        yield
        escapement.stop()

    async def once(url: str) -> Answers:
        async with client_of("openai", ASYNC, url) as made:
            return await gather(made)

    with Provider() as provider, runs_of(kind) as run:
        with opened(trace := recording(store)):
            live = run(once(provider.base_url))
        provider.stop()
        for _ in range(5):
            with opened(replay_of(trace, store)):
                assert run(once(provider.base_url)) == live


# -- branches that are given up --------------------------------------------------------------------------------------


def test_the_others_are_cancelled_when_one_branch_fails(store: Path) -> None:
    async def program(client: openai.AsyncOpenAI) -> Answers:
        notes: Answers = []

        async def branch(model: str) -> None:
            try:
                notes.append((await client.chat.completions.create(**{**CHAT, "model": model})).id)
            except asyncio.CancelledError:
                notes.append(f"{model} cancelled")
                raise

        try:
            async with asyncio.TaskGroup() as group:
                for model in ("slow", "slow", "gpt-4o"):
                    group.create_task(branch(model))
                await asyncio.sleep(0.2)
                group.create_task(branch("error-400"))
        except* openai.BadRequestError as errors:
            notes.append([str(error) for error in errors.exceptions])
        return notes

    async def record(url: str) -> tuple[escapement.Trace, Answers]:
        async with client_of("openai", ASYNC, url) as made, recording(store) as trace:
            return trace, await program(made)

    async def replay(url: str, trace: escapement.Trace) -> Answers:
        async with client_of("openai", ASYNC, url) as made, replay_of(trace, store):
            return await program(made)

    with Provider() as provider:
        trace, live = asyncio.run(record(provider.base_url))
    assert live[1:3] == ["slow cancelled"] * 2
    assert asyncio.run(replay(provider.base_url, trace)) == live


def test_the_quicker_of_two_wins_again(store: Path) -> None:
    async def program(client: openai.AsyncOpenAI) -> Answers:
        calls = [client.chat.completions.create(**{**CHAT, "model": model}) for model in ("slow", "gpt-4o")]
        tasks = [asyncio.create_task(call) for call in calls]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(tasks)
        return [[task.result().id for task in done], [task in pending for task in tasks]]

    async def record(url: str) -> tuple[escapement.Trace, Answers]:
        async with client_of("openai", ASYNC, url) as made, recording(store) as trace:
            return trace, await program(made)

    async def replay(url: str, trace: escapement.Trace) -> Answers:
        async with client_of("openai", ASYNC, url) as made, replay_of(trace, store):
            return await program(made)

    with Provider() as provider:
        trace, live = asyncio.run(record(provider.base_url))
    assert live[1] == [True, False]
    assert asyncio.run(replay(provider.base_url, trace)) == live


@pytest.mark.parametrize("when", ["in the hook", "in a task at once", "in a task later"])
@pytest.mark.parametrize("event", ["request", "response"])
@pytest.mark.parametrize("kind", ["over http", "same SDK"])
@pytest.mark.parametrize("sdk", ["openai", "cohere"])
def test_calls_that_are_made_within_a_call(sdk: str, kind: str, event: str, when: str, store: Path) -> None:
    """Hooks of the program run in the middle of a call, and what they start keeps the context of that: its calls are its
    own, whether the one that it was started in is under way or over."""
    library: Any = library_of("openai") if sdk == "openai" else httpx
    cohere: Any = pytest.importorskip("cohere") if sdk == "cohere" else None

    async def program(url: str) -> Answers:
        within: list[Any] = []
        over = asyncio.Event()

        async def another() -> str:
            if when == "in a task later":
                await over.wait()
            if kind == "same SDK":
                return await call()
            async with library.AsyncClient() as direct:
                asked = direct.post(f"{url}/v1/chat/completions", json=CHAT, headers={"authorization": "Bearer k"})
                return str((await asked).json()["id"])

        async def hook(_: Any) -> None:
            if not within:
                within.append(None)  # not for what it sends itself
                within[0] = await another() if when == "in the hook" else asyncio.create_task(another())
                if when == "in a task at once":
                    await asyncio.sleep(0.002)  # it is sent before what we are called for, or beside it

        async with library.AsyncClient(event_hooks={event: [hook]}) as web:
            if sdk == "openai":
                client: Any = openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", http_client=web)
            else:
                client = cohere.AsyncClientV2(api_key="k", base_url=url, httpx_client=web)

            async def call() -> str:
                if sdk == "openai":
                    return str((await client.chat.completions.create(**CHAT)).id)
                return str((await client.chat(model="command-a", messages=USER)).id)

            first = await call()
            over.set()
            return [first, within[0] if when == "in the hook" else await within[0], await call()]

    with Provider() as provider:
        with recording(store) as trace:
            live = asyncio.run(program(provider.base_url))
        assert trace.steps == provider.count == len(set(live)) == 3
    with replay_of(trace, store) as replay:
        assert asyncio.run(program(provider.base_url)) == live
    assert (replay.hits, replay.misses) == (3, 0)


def test_calls_that_are_made_within_a_call_of_a_thread(store: Path) -> None:
    def program(url: str) -> Answers:
        within: list[str] = []

        def hook(_: Any) -> None:
            if not within:
                within.append("")
                within[0] = ask_now(client)

        with library_of("openai").Client(event_hooks={"request": [hook]}) as web:
            client = openai.OpenAI(api_key="k", base_url=f"{url}/v1", http_client=web)
            return [ask_now(client), within[0], ask_now(client)]

    with Provider() as provider:
        with recording(store) as trace:
            live = program(provider.base_url)
        assert trace.steps == provider.count == len(set(live)) == 3
    with replay_of(trace, store) as replay:
        assert program(provider.base_url) == live
    assert (replay.hits, replay.misses) == (3, 0)


# -- runs side by side -----------------------------------------------------------------------------------------------


def recorded_ids(trace: escapement.Trace, store: Path) -> list[str]:
    """The ids of the answers that a trace holds."""
    row = SpanStore(store).load(trace.trace_id)
    return [step.attributes["gen_ai.response.id"] for step in row.steps]


def test_recordings_of_two_tasks(store: Path) -> None:
    async def agent(client: openai.AsyncOpenAI, name: str) -> tuple[escapement.Trace, Answers]:
        async with recording(store, name) as trace:
            await asyncio.sleep(0.01)
            return trace, [*await ask_twice(client), *await asyncio.gather(ask(client), ask(client))]

    async def replayed(client: openai.AsyncOpenAI, trace: escapement.Trace) -> Answers:
        async with replay_of(trace, store):
            await asyncio.sleep(0.01)
            return [*await ask_twice(client), *await asyncio.gather(ask(client), ask(client))]

    async def program(url: str) -> None:
        async with client_of("openai", ASYNC, url) as made:
            agents = await asyncio.gather(*(agent(made, name) for name in "abc"))
            assert escapement.current() is None
            provider.stop()
            for trace, answers in agents:
                assert sorted(recorded_ids(trace, store)) == sorted(answers)
                assert trace.steps == 4
            again = await asyncio.gather(*(replayed(made, trace) for trace, _ in agents))
            assert again == [answers for _, answers in agents]

    with Provider() as provider:
        asyncio.run(program(provider.base_url))


def test_recordings_of_two_threads(store: Path) -> None:
    barrier = threading.Barrier(2)

    def agent(client: openai.OpenAI, name: str) -> tuple[escapement.Trace, Answers]:
        barrier.wait()
        with recording(store, name) as trace:
            barrier.wait()
            with ThreadPoolExecutor(2) as pool:
                return trace, [*ask_twice_now(client), *pool.map(lambda _: ask_now(client), range(2))]

    def replayed(client: openai.OpenAI, trace: escapement.Trace) -> Answers:
        barrier.wait()
        with replay_of(trace, store):
            barrier.wait()
            with ThreadPoolExecutor(2) as pool:
                return [*ask_twice_now(client), *pool.map(lambda _: ask_now(client), range(2))]

    with Provider() as provider, client_of("openai", SYNC, provider.base_url) as made, ThreadPoolExecutor(2) as pool:
        agents = list(pool.map(lambda name: agent(made, name), "ab"))
        assert escapement.current() is None
        provider.stop()
        for trace, answers in agents:
            assert sorted(recorded_ids(trace, store)) == sorted(answers)
            assert trace.steps == 4
        again = list(pool.map(lambda entry: replayed(made, entry[0]), agents))
        assert again == [answers for _, answers in agents]


def test_a_replay_in_one_task_while_another_goes_live(store: Path) -> None:
    async def replayed(client: openai.AsyncOpenAI, trace: escapement.Trace) -> Answers:
        async with replay_of(trace, store):
            return [*await ask_twice(client), *await asyncio.gather(ask(client), ask(client))]

    async def live(client: openai.AsyncOpenAI) -> Answers:
        assert escapement.current() is None
        return [*await ask_twice(client), *await asyncio.gather(ask(client), ask(client))]

    async def program() -> None:
        async with client_of("openai", ASYNC, provider.base_url) as made:
            async with recording(store) as trace:
                first = await live_in(made)
            before = provider.count
            again, other = await asyncio.gather(replayed(made, trace), live(made))
            assert again == first
            assert not set(other) & set(first)
            assert provider.count == before + 4

    async def live_in(client: openai.AsyncOpenAI) -> Answers:
        return [*await ask_twice(client), *await asyncio.gather(ask(client), ask(client))]

    with Provider() as provider:
        asyncio.run(program())


def test_a_replay_inside_a_recording(store: Path) -> None:
    """What the scoped replay serves is no business of the recording around it."""
    with Provider() as provider, client_of("openai", SYNC, provider.base_url) as made:
        with recording(store) as trace:
            first = ask_twice_now(made)
        with recording(store) as outer:
            before = ask_now(made)
            with replay_of(trace, store):
                assert ask_twice_now(made) == first
            after = ask_now(made)
        assert recorded_ids(outer, store) == [before, after]
