"""Streams: passed on at once, replayed chunk by chunk, and what becomes of those that are not read to their end."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.fidelity.anthropic_cases import ASK
from tests.fidelity.cases import ASYNC, SYNC, client, drive, each, entered, library_of, settle
from tests.fidelity.openai_cases import CHAT
from tests.fidelity.snapshot import differences, snapshot
from tests.provider import Provider, sse

NEVER = 600.0  # seconds between chunks: after the first the test would wait for ever

Program = Callable[[Any], Coroutine[Any, Any, Any]]
modes = pytest.mark.parametrize("mode", [SYNC, ASYNC])
sdks = pytest.mark.parametrize("sdk", ["openai", "anthropic"])


async def opened(client: Any) -> Any:
    """A stream of either SDK."""
    if hasattr(client, "chat"):
        return await settle(client.chat.completions.create(**CHAT, stream=True))
    return await settle(client.messages.create(**ASK, stream=True))


async def some(items: Any, count: int) -> list[Any]:
    """The next few items, without closing what they come from."""
    return [
        snapshot(await settle(items.__anext__() if hasattr(items, "__anext__") else next(items))) for _ in range(count)
    ]


class Stage:
    """A provider, a span store, and programs that are run in between."""

    def __init__(self, sdk: str, mode: str, provider: Provider, store: Path) -> None:
        self.sdk = sdk
        self.mode = mode
        self.provider = provider
        self.store = store
        self.trace: escapement.Trace | None = None

    def _run(self, program: Program) -> Any:
        async def inside() -> Any:
            async with entered(client(self.sdk, self.mode, self.provider.base_url, max_retries=0)) as made:
                return await program(made)

        return drive(self.mode, inside())

    def record(self, program: Program) -> Any:
        self.trace = escapement.init(storage_dir=self.store)
        try:
            return self._run(program)
        finally:
            escapement.stop()

    def replay(self, program: Program) -> Any:
        assert self.trace is not None
        self.provider.stop()
        requests = self.provider.count
        escapement.replay(self.trace.trace_id, strict_replay=True, storage_dir=self.store)
        try:
            return self._run(program)
        finally:
            escapement.stop()
            assert self.provider.count == requests

    def same(self, program: Program) -> Any:
        """What the program gets, the first time and again."""
        live = self.record(program)
        assert differences(snapshot(live), snapshot(self.replay(program))) == []
        return live

    def step(self) -> Any:
        """The only recorded step."""
        assert self.trace is not None
        (step,) = SpanStore(self.store).load(self.trace.trace_id).steps
        return step


@contextmanager
def staged(sdk: str, mode: str, store: Path, **options: Any) -> Iterator[Stage]:
    with Provider(**options) as provider:
        yield Stage(sdk, mode, provider, store)


# -- chunks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", ["iter_raw", "iter_bytes", "iter_lines", "iter_text"])
@modes
@sdks
def test_chunks_have_the_same_boundaries(sdk: str, mode: str, reading: str, store: Path) -> None:
    async def program(client: Any) -> Any:
        response = (await opened(client)).response
        name = reading if mode == SYNC else f"a{reading}"
        chunks = [chunk async for chunk in each(getattr(response, name)())]
        assert response.is_closed
        return chunks

    with staged(sdk, mode, store, chunk_delay=0.001) as stage:
        assert len(stage.same(program)) > 10


@pytest.mark.parametrize("size", [1, 7, 100_000])
@modes
def test_chunks_of_a_chosen_size(mode: str, size: int, store: Path) -> None:
    async def program(client: Any) -> Any:
        streaming = client.chat.completions.with_streaming_response.create(**CHAT, stream=True)
        async with entered(streaming) as response:
            return [chunk async for chunk in each(response.iter_bytes(size))]

    with staged("openai", mode, store) as stage:
        assert stage.same(program)


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
@modes
def test_chunks_without_any_sdk(library: Any, mode: str, store: Path) -> None:
    """A program that speaks to the API through an HTTP client alone."""

    async def program(client: Any) -> Any:
        url = f"{client.base_url}chat/completions"
        async with entered(library.Client() if mode == SYNC else library.AsyncClient()) as plain:
            told = []
            for name in ("iter_raw", "iter_bytes"):
                async with entered(plain.stream("POST", url, json={**CHAT, "stream": True})) as response:
                    reading = getattr(response, name if mode == SYNC else f"a{name}")
                    told.append([chunk async for chunk in each(reading())])
            return [*told, await settle(plain.post(url, json=CHAT))]

    with staged("openai", mode, store) as stage:
        assert len(stage.same(program)[0]) > 1


# -- nothing is held back --------------------------------------------------------------------------------------------


@modes
@sdks
def test_chunks_are_passed_on_as_they_come(sdk: str, mode: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    whole = sse.chunks

    def noted(parts: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in whole(parts):
            events.append("sent")
            yield chunk

    async def program(client: Any) -> Any:
        async for _ in each(await opened(client)):
            events.append("received")

    monkeypatch.setattr(sse, "chunks", noted)
    with staged(sdk, mode, store, chunk_delay=0.02) as stage:
        stage.record(program)
    last_sent = len(events) - events[::-1].index("sent") - 1
    before = events[:last_sent].count("received")
    assert before > events.count("received") / 2


@modes
@sdks
def test_the_first_chunk_does_not_wait_for_the_last(sdk: str, mode: str, store: Path) -> None:
    async def program(client: Any) -> Any:
        response = (await opened(client)).response
        chunks = response.iter_raw() if mode == SYNC else response.aiter_raw()
        first = await some(chunks, 1)
        await settle(response.close() if mode == SYNC else response.aclose())
        return first

    with staged(sdk, mode, store, chunk_delay=NEVER) as stage:
        assert stage.same(program)


# -- not read to the end ---------------------------------------------------------------------------------------------


@modes
@sdks
def test_a_stream_closed_early_keeps_what_had_arrived(sdk: str, mode: str, store: Path) -> None:
    async def program(client: Any) -> Any:
        stream = await opened(client)
        told = []
        async for event in each(stream):
            told.append(snapshot(event))
            if len(told) == 4:
                break
        await settle(stream.close())
        return told

    with staged(sdk, mode, store, chunk_delay=0.005) as stage:
        assert len(stage.same(program)) == 4
        assert 4 <= len(stage.step().response().chunks) < 15
        assert stage.step().response().ending == "closed"


@modes
@sdks
def test_a_stream_left_in_with_keeps_what_had_arrived(sdk: str, mode: str, store: Path) -> None:
    async def program(client: Any) -> Any:
        async with entered(await opened(client)) as stream:
            return await some(stream, 3)

    with staged(sdk, mode, store, chunk_delay=0.005) as stage:
        assert len(stage.same(program)) == 3


@modes
@sdks
def test_a_forgotten_stream_keeps_what_had_arrived(sdk: str, mode: str, store: Path) -> None:
    async def program(client: Any) -> Any:
        stream = await opened(client)
        told = await some(stream, 3)
        del stream
        gc.collect()
        if mode == ASYNC:
            await asyncio.sleep(0.01)  # the event loop closes forgotten generators a little later
        return told

    with staged(sdk, mode, store, chunk_delay=0.005) as stage:
        assert len(stage.same(program)) == 3
        assert stage.step().response().ending in ("closed", "dropped")


@modes
@sdks
def test_a_stream_closed_without_reading(sdk: str, mode: str, store: Path) -> None:
    async def program(client: Any) -> Any:
        stream = await opened(client)
        await settle(stream.close())
        return [stream.response.status_code, stream.response.headers, stream.response.is_closed]

    with staged(sdk, mode, store, chunk_delay=NEVER) as stage:
        stage.same(program)
        assert not stage.step().response().chunks


@modes
def test_a_streaming_response_left_without_reading(mode: str, store: Path) -> None:
    async def program(client: Any) -> Any:
        async with entered(client.chat.completions.with_streaming_response.create(**CHAT)) as response:
            return [response.status_code, response.headers]

    with staged("openai", mode, store) as stage:
        stage.same(program)


@modes
@sdks
def test_reading_on_where_the_recording_stopped(sdk: str, mode: str, store: Path) -> None:
    async def reading(client: Any, count: int) -> Any:
        async with entered(await opened(client)) as stream:
            told = []
            try:
                async for event in each(stream):
                    told.append(snapshot(event))
                    if len(told) == count:
                        break
            except escapement.ReplayDivergenceError as error:
                return told, error
            return told, None

    with staged(sdk, mode, store, chunk_delay=0.005) as stage:
        live, nothing = stage.record(lambda client: reading(client, 3))
        assert nothing is None
        again, error = stage.replay(lambda client: reading(client, -1))
        assert again[:3] == live
        assert len(again) < 8
        assert isinstance(error, escapement.ReplayDivergenceError)
        assert stage.trace is not None
        assert (error.reason, error.trace_id, error.step) == ("incomplete", stage.trace.trace_id, 1)


@modes
@sdks
def test_reading_less_than_the_recording_did(sdk: str, mode: str, store: Path) -> None:
    async def reading(client: Any, count: int) -> Any:
        async with entered(await opened(client)) as stream:
            return await some(stream, count)

    with staged(sdk, mode, store, chunk_delay=0.001) as stage:
        live = stage.record(lambda client: reading(client, 5))
        assert differences(live[:2], stage.replay(lambda client: reading(client, 2))) == []


@pytest.mark.parametrize("reading", ["read", "iter_lines", "events"])
@modes
def test_a_stream_that_was_read_until_it_said_it_was_done(reading: str, mode: str, store: Path) -> None:
    """An SDK stops at `[DONE]`, some before the connection says that it ends: nothing is missing then."""

    async def recorded(client: Any) -> Any:
        return [snapshot(event) async for event in each(await opened(client))]

    async def replayed(client: Any) -> Any:
        stream = await opened(client)
        if reading == "events":
            return [snapshot(event) async for event in each(stream)]
        response, prefix = stream.response, "" if mode == SYNC else "a"
        if reading == "read":
            return await settle(getattr(response, f"{prefix}read")())
        return [line async for line in each(getattr(response, f"{prefix}iter_lines")())]

    with staged("openai", mode, store) as stage:
        stage.record(recorded)
        assert stage.replay(replayed)


# -- the run ends first ----------------------------------------------------------------------------------------------


@modes
@sdks
def test_a_stream_open_when_the_run_stops(sdk: str, mode: str, store: Path) -> None:
    async def program(client: Any) -> Any:
        async with entered(await opened(client)) as stream:
            first = await some(stream, 3)
            escapement.stop()
            try:
                rest = [snapshot(event) async for event in each(stream)]
            except escapement.ReplayDivergenceError as error:
                assert error.reason == "incomplete"
                rest = []
            return first, rest

    with staged(sdk, mode, store, chunk_delay=0.005) as stage:
        first, rest = stage.record(program)
        assert len(rest) > 3  # the program is not disturbed
        assert stage.trace is not None
        assert stage.trace.status == "completed"
        assert stage.step().answered
        again, missing = stage.replay(program)
        assert differences(first, again) == []
        assert len(missing) < 8


@modes
def test_a_call_under_way_when_the_run_stops(mode: str, store: Path) -> None:
    """The answer of a call comes after the run: the program gets it, and the trace says that it has none."""

    async def program(client: Any) -> Any:
        def stop(_: Any) -> None:
            escapement.stop()

        async def stop_async(_: Any) -> None:
            escapement.stop()

        library = httpx2 if hasattr(openai._base_client, "httpx2") else httpx
        kind: Any = library.Client if mode == SYNC else library.AsyncClient
        hooks = {"response": [stop if mode == SYNC else stop_async]}
        async with entered(client.with_options(http_client=kind(event_hooks=hooks))) as own:
            return await settle(own.chat.completions.create(**CHAT))

    with staged("openai", mode, store) as stage:
        assert stage.record(program).choices
        assert not stage.step().answered
        with pytest.raises(escapement.ReplayDivergenceError) as caught:
            stage.replay(program)
        assert caught.value.reason == "unanswered"


# -- cancelled -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def noting(notes: list[str]) -> AsyncIterator[None]:
    try:
        yield
    except BaseException as error:
        notes.append(type(error).__name__)
        raise


@sdks
def test_a_call_given_up_after_a_while(sdk: str, store: Path) -> None:
    async def program(client: Any) -> Any:
        notes: list[str] = []

        async def call() -> None:
            async with noting(notes):
                if sdk == "openai":
                    await client.chat.completions.create(**{**CHAT, "model": "slow"})
                else:
                    await client.messages.create(**{**ASK, "model": "slow"})

        async with noting(notes):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call(), 0.2)
        return notes

    with staged(sdk, ASYNC, store) as stage:
        assert stage.same(program) == ["CancelledError"]


def test_a_call_cancelled_by_another_task(store: Path) -> None:
    async def program(client: Any) -> Any:
        task = asyncio.create_task(client.chat.completions.create(**{**CHAT, "model": "slow"}))
        await asyncio.sleep(0.1)
        task.cancel()
        done, _ = await asyncio.wait([task])
        return [task.cancelled() for task in done]

    with staged("openai", ASYNC, store) as stage:
        assert stage.same(program) == [True]


def test_a_call_left_by_a_cancel_scope(store: Path) -> None:
    async def program(client: Any) -> Any:
        with anyio.move_on_after(0.2) as scope:
            await client.chat.completions.create(**{**CHAT, "model": "slow"})
        return scope.cancelled_caught

    with staged("openai", ASYNC, store) as stage:
        assert stage.same(program) is True


def test_a_call_whose_event_loop_goes_away(store: Path) -> None:
    """Nothing of ours complains when a coroutine that waits for an answer is thrown away."""
    library: Any = library_of("openai")

    class Silent(library.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            await asyncio.get_running_loop().create_future()

    complaints: list[Any] = []
    gc.collect()  # what others left open complains now
    with escapement.init(storage_dir=store), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", complaints.append)
        made = client("openai", ASYNC, "http://127.0.0.1", http_client=library.AsyncClient(transport=Silent()))
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # asyncio's own complaint about the task
        task = loop.create_task(made.chat.completions.create(**CHAT))
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()
        del task
        gc.collect()
    assert [str(complaint.exc_value) for complaint in complaints] == []


@sdks
def test_a_stream_given_up_after_a_while(sdk: str, store: Path) -> None:
    """The timeout strikes while the program waits for the next chunk; so it must in a replay."""

    async def program(client: Any) -> Any:
        told = []

        async def read() -> None:
            response = (await opened(client)).response
            try:
                async for chunk in response.aiter_raw():
                    told.append(chunk)
            finally:
                await response.aclose()

        try:
            await asyncio.wait_for(read(), 0.3)
        except TimeoutError as error:
            return [told, error]
        return [told, None]

    with staged(sdk, ASYNC, store, chunk_delay=NEVER) as stage:
        told, error = stage.same(program)
        assert len(told) == 1
        assert error is not None


def test_a_stream_cancelled_by_another_task(store: Path) -> None:
    async def program(client: Any) -> Any:
        told: list[bytes] = []

        async def read() -> None:
            response = (await opened(client)).response
            try:
                async for chunk in response.aiter_raw():
                    told.append(chunk)
            finally:
                await response.aclose()

        task = asyncio.create_task(read())
        await asyncio.sleep(0.3)
        early = task.done()
        task.cancel()
        await asyncio.wait([task])
        return [told, early, task.cancelled()]

    with staged("openai", ASYNC, store, chunk_delay=NEVER) as stage:
        told, early, cancelled = stage.same(program)
        assert (len(told), early, cancelled) == (1, False, True)


@modes
@sdks
def test_a_stream_that_times_out(sdk: str, mode: str, store: Path) -> None:
    """The HTTP client's own timeout, between two chunks."""

    async def program(client: Any) -> Any:
        response = (await opened(client.with_options(timeout=0.3))).response
        told: list[Any] = []
        try:
            async for chunk in each(response.iter_raw() if mode == SYNC else response.aiter_raw()):
                told.append(chunk)
        except Exception as error:
            told.append((type(error), str(error)))
        return told

    with staged(sdk, mode, store, chunk_delay=NEVER) as stage:
        chunk, (kind, _) = stage.same(program)
        assert chunk
        assert kind.__name__ == "ReadTimeout"
