"""Where other tools fail that record agents and replay them: every one of those probes, from end to end.

Each program runs three times: live while it is recorded, live once more (its answers differ, so that a replay that goes
live is caught), and replayed with the provider gone. A program gets a client of either SDK, sync or async.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.conftest import ask
from tests.fidelity import anthropic_cases, openai_cases
from tests.fidelity.cases import ASYNC, SYNC, client, drained, drive, each, entered, settle
from tests.fidelity.openai_cases import WORDS, Place
from tests.fidelity.snapshot import differences, snapshot
from tests.program import run_program
from tests.provider import Provider
from tests.provider.words import ESCAPED, FOREIGN, TRAILING

Program = Callable[[Any], Awaitable[Any]]
KINDS = [(sdk, mode) for sdk in ("openai", "anthropic") for mode in (SYNC, ASYNC)]
kinds = pytest.mark.parametrize(("sdk", "mode"), KINDS)
modes = pytest.mark.parametrize("mode", [SYNC, ASYNC])

WEATHER: dict[str, Any] = {"openai": openai_cases.TOOL, "anthropic": anthropic_cases.TOOL}


def said(sdk: str, text: str, **options: Any) -> dict[str, Any]:
    """The arguments of a call."""
    asked: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": text}], **options}
    return asked if sdk == "openai" else {"max_tokens": 999, **asked}


def calls(made: Any) -> Any:
    return made.chat.completions if hasattr(made, "chat") else made.messages


def same(program: Program, sdk: str, mode: str, store: Path, **options: Any) -> escapement.Trace:
    """Record the program, replay it without the provider, and hold that it got the same; the recording."""

    async def run(url: str) -> Any:
        async with entered(client(sdk, mode, url, **options)) as made:
            return snapshot(await program(made))

    with Provider() as provider:
        with escapement.init(storage_dir=store) as trace:
            live = drive(mode, run(provider.base_url))
        assert differences(live, drive(mode, run(provider.base_url))) != []
        requests = provider.count
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
        again = drive(mode, run(provider.base_url))
    assert differences(live, again) == []
    assert (provider.count, replay.hits, replay.misses) == (requests, trace.steps, 0)
    assert trace.steps > 0
    return trace


# -- where they fail -------------------------------------------------------------------------------------------------


@kinds
def test_streams_on_replay(sdk: str, mode: str, store: Path) -> None:
    async def program(made: Any) -> Any:
        create = calls(made).create
        text = await settle(create(**said(sdk, "text"), stream=True))
        tools = await settle(create(**said(sdk, "tools", tools=[WEATHER[sdk]]), stream=True))
        broken = await settle(create(**said(sdk, "broken", model="drop-midstream"), stream=True))
        return [type(text), await drained(text), await drained(tools), await drained(broken)]

    same(program, sdk, mode, store)


@kinds
def test_raw_and_streaming_responses(sdk: str, mode: str, store: Path) -> None:
    async def program(made: Any) -> Any:
        told: list[Any] = []
        for model in ("any", "flaky-429"):
            raw = await settle(calls(made).with_raw_response.create(**said(sdk, "raw", model=model)))
            told += [raw, await settle(raw.parse())]
        for streaming in (False, True):
            by_hand = calls(made).with_streaming_response.create(**said(sdk, "by hand"), stream=streaming)
            async with entered(by_hand) as response:
                told += [await drained(response.iter_lines()), response]
        return told

    same(program, sdk, mode, store)


@kinds
def test_structured_output(sdk: str, mode: str, store: Path) -> None:
    if sdk == "anthropic" and not hasattr(anthropic.resources.Messages, "parse"):
        pytest.skip(f"anthropic {anthropic.__version__} has no parse")

    async def program(made: Any) -> Any:
        form: Any = {"response_format": Place} if sdk == "openai" else {"output_format": Place}
        answer = await settle(calls(made).parse(**said(sdk, "where?"), **form))
        parsed = answer.choices[0].message.parsed if sdk == "openai" else answer.parsed_output
        assert type(parsed).__name__ == "Place"
        with pytest.raises((openai.NotFoundError, anthropic.NotFoundError)) as refused:
            await settle(calls(made).parse(**said(sdk, "where?", model="error-404"), **form))
        return [answer, refused.value]

    same(program, sdk, mode, store)


@kinds
def test_error_classes_and_bodies(sdk: str, mode: str, store: Path) -> None:
    async def program(made: Any) -> Any:
        told: list[Any] = []
        for model in (
            "error-400",
            "error-401",
            "error-403",
            "error-404",
            "error-422",
            "error-429",
            "error-503",
            "drop",
        ):
            try:
                told.append(await settle(calls(made).create(**said(sdk, "no", model=model))))
            except (openai.APIError, anthropic.APIError) as error:
                told.append(error)
        assert len({type(error) for error in told}) == 8
        return told

    same(program, sdk, mode, store, max_retries=0)


@modes
def test_embeddings(mode: str, store: Path) -> None:
    async def program(made: Any) -> Any:
        floats = await settle(made.embeddings.create(**WORDS, encoding_format="float"))
        many = await settle(made.embeddings.create(model="text-embedding-3-small", input=["x"] * 100))
        return [await settle(made.embeddings.create(**WORDS)), floats, many]

    same(program, "openai", mode, store)


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_asyncio_gather(sdk: str, store: Path) -> None:
    """Each branch gets its own answer, also where all ask the same and the branches differ only in what they do next."""

    async def program(made: Any) -> Any:
        async def branch(number: int) -> Any:
            first = await calls(made).create(**said(sdk, "the same for all"))
            return [first, await calls(made).create(**said(sdk, f"{number} after {first.id}"))]

        return await asyncio.gather(*(branch(number) for number in range(6)))

    same(program, sdk, ASYNC, store)


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_threads(sdk: str, store: Path) -> None:
    async def program(made: Any) -> Any:
        def one(number: int) -> Any:
            return calls(made).create(**said(sdk, f"number {number}"))

        with ThreadPoolExecutor(4) as pool:
            pooled = list(pool.map(one, range(12)))
        told: dict[int, Any] = {}
        threads = [Thread(target=lambda number=number: told.update({number: one(number)})) for number in range(12, 16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [pooled, *(told[number] for number in range(12, 16))]

    same(program, sdk, SYNC, store)


@kinds
def test_strict_replay(sdk: str, mode: str, store: Path) -> None:
    """A history that was edited is another request, and gets neither the old answer nor a new one."""

    async def program(url: str, second: str) -> Any:
        async with entered(client(sdk, mode, url, max_retries=5)) as made:
            turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": second}]
            history = [*turns, {"role": "user", "content": "three"}]
            first = await settle(calls(made).create(**said(sdk, "one")))
            return [first, await settle(calls(made).create(**said(sdk, "", messages=history)))]

    with Provider() as provider:
        with escapement.init(storage_dir=store) as trace:
            drive(mode, program(provider.base_url, "two"))
        with (
            pytest.raises(escapement.ReplayDivergenceError, match=r"messages\[1\].content"),
            escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay,
        ):
            drive(mode, program(provider.base_url, "zwei"))
    assert (provider.count, replay.hits, replay.misses) == (2, 1, 1)


@kinds
def test_byte_exact_text(sdk: str, mode: str, store: Path) -> None:
    """Spaces at the end, line separators, half of an emoji: whatever a model says."""
    texts = [f"{text}{end}" for text in (*FOREIGN, *ESCAPED) for end in TRAILING]

    async def program(made: Any) -> Any:
        told = []
        for text in texts:
            raw = await settle(calls(made).with_raw_response.create(**said(sdk, text, model="echo")))
            answer = await settle(raw.parse())
            told.append([answer.choices[0].message.content if sdk == "openai" else answer.content[0].text, raw])
        assert [text for text, _ in told] == texts
        return told

    same(program, sdk, mode, store)


@pytest.mark.parametrize("library", [httpx, httpx2])
@modes
def test_httpx2(mode: str, library: Any, store: Path) -> None:
    """Whichever HTTP library a client stands on."""

    async def run(url: str) -> Any:
        kind = library.AsyncClient if mode == ASYNC else library.Client
        body = said("openai", "by hand")
        async with entered(kind()) as web:
            answer = await settle(web.post(f"{url}/v1/chat/completions", json=body))
            async with entered(web.stream("POST", f"{url}/v1/messages", json={**body, "stream": True})) as response:
                lines = await drained(response.aiter_lines() if mode == ASYNC else response.iter_lines())
            return snapshot([answer, lines, response])

    with Provider() as provider, escapement.init(storage_dir=store) as trace:
        live = drive(mode, run(provider.base_url))
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
        assert differences(live, drive(mode, run(provider.base_url))) == []
    assert (provider.count, replay.hits) == (2, 2)


@kinds
def test_stream_pace(sdk: str, mode: str, store: Path) -> None:
    """No chunk comes earlier than it was recorded (that none comes much later, `make bench-streams` measures)."""

    async def arrivals(url: str) -> list[float]:
        async with entered(client(sdk, mode, url)) as made:
            by_hand = calls(made).with_streaming_response.create(**said(sdk, "slowly"), stream=True)
            async with entered(by_hand) as response:
                return [time.perf_counter() async for _ in each(response.iter_bytes())]

    with Provider(chunk_delay=0.01) as provider, escapement.init(storage_dir=store) as trace:
        drive(mode, arrivals(provider.base_url))
    (step,) = SpanStore(store).load(trace.trace_id).steps
    recorded = step.response()
    assert recorded is not None
    sent = [chunk.at / 1e9 for chunk in recorded.chunks]
    with escapement.replay(trace.trace_id, strict_replay=True, timing="recorded", storage_dir=store):
        began = time.perf_counter()
        again = drive(mode, arrivals(provider.base_url))
    assert len(again) == len(sent) > 3
    # The first may be waited for before the clock of this test runs; the last is never early.
    assert again[-1] - began >= sent[-1]
    assert provider.count == 1


@kinds
def test_payload_dedup(sdk: str, mode: str, store: Path) -> None:
    """Fifty calls of a conversation that grows to 200 KB send 5 MB; the store grows by what is new."""

    async def program(made: Any) -> Any:
        turns: list[Any] = []
        answers = []
        for number in range(50):
            turns.append({"role": "user", "content": f"{number} {'x' * 4000}"})
            answers.append(await settle(calls(made).create(**said(sdk, "", messages=turns))))
            turns.append({"role": "assistant", "content": f"answer {number}"})
        return answers

    trace = same(program, sdk, mode, store)
    row = SpanStore(store).load(trace.trace_id)
    sent = [len(row.request_body(step)) for step in row.steps]
    kept = sum(file.stat().st_size for file in store.rglob("*.jsonl"))
    assert (sum(sent) > 5_000_000, max(sent) > 200_000) == (True, True)
    assert kept < 2.5 * max(sent)


@kinds
def test_loop_detection_beyond_a_step_cap(sdk: str, mode: str, store: Path) -> None:
    """A loop is stopped at its tenth round, whoever swallows exceptions; a run of many steps is none."""
    healthy = 60

    async def program(url: str) -> tuple[list[str], int]:
        refused, text = 0, ""
        async with entered(client(sdk, mode, url)) as made:
            for number in range(healthy):
                await settle(calls(made).create(**said(sdk, f"step {number}")))
            for _ in range(30):
                try:
                    await settle(calls(made).create(**said(sdk, "the same again")))
                except Exception as error:  # as agents do
                    refused, text = refused + 1, type(error).__name__
        return [text], refused

    with Provider() as provider, escapement.init(storage_dir=store) as trace:
        assert drive(mode, program(provider.base_url)) == (["LoopDetectedError"], 21)
    assert (provider.count, trace.status, trace.steps) == (healthy + 9, "killed", healthy + 9)
    assert len(SpanStore(store).load(trace.trace_id).steps) == healthy + 9


# -- what their users complain about ---------------------------------------------------------------------------------


Ask = Callable[[str], Any]


ASKERS = (
    "httpx",
    "httpx2",
    "openai",
    "openai, raw",
    "openai, responses",
    "openai, files",
    "anthropic",
    "anthropic, streamed",
)


@contextmanager
def asker_of(url: str, name: str) -> Iterator[Ask]:
    """A way to ask, which a replay has to notice."""
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=4) as gpt,
        anthropic.Anthropic(base_url=url, api_key="any", max_retries=4) as claude,
    ):
        yield askers(url, gpt, claude)[name]


def askers(url: str, gpt: openai.OpenAI, claude: anthropic.Anthropic) -> dict[str, Ask]:
    return {
        "httpx": lambda text: httpx.post(f"{url}/v1/chat/completions", json=said("openai", text)),
        "httpx2": lambda text: httpx2.post(f"{url}/v1/chat/completions", json=said("openai", text)),
        "openai": lambda text: gpt.chat.completions.create(**said("openai", text)),
        "openai, raw": lambda text: gpt.chat.completions.with_raw_response.create(**said("openai", text)),
        "openai, responses": lambda text: gpt.responses.create(model="any", input=text),
        "openai, files": lambda text: gpt.files.create(file=("a.txt", text.encode()), purpose="user_data"),
        "anthropic": lambda text: claude.messages.create(**said("anthropic", text)),
        "anthropic, streamed": lambda text: list(claude.messages.create(**said("anthropic", text), stream=True)),
    }


@pytest.mark.parametrize("asker", ASKERS)
def test_nothing_goes_live_silently(asker: str, store: Path) -> None:
    """Not strict: it goes live, and every time that is said, counted and kept."""
    with Provider() as provider, asker_of(provider.base_url, asker) as call:
        with escapement.init(storage_dir=store) as trace:
            pass
        with escapement.replay(trace.trace_id, storage_dir=store) as replay:
            for text in ("something new", "and more"):
                with pytest.warns(escapement.EscapementWarning, match="goes live"):
                    call(text)
    new = SpanStore(store).load(replay.trace_id)
    assert (replay.misses, len(new.steps), provider.count) == (2, 2, 2)


@pytest.mark.parametrize("asker", ASKERS)
def test_a_miss_costs_nothing(asker: str, store: Path) -> None:
    """Strict: nothing is sent, not even by the retries of an SDK or of a program that goes on."""
    with Provider() as provider, asker_of(provider.base_url, asker) as call:
        with escapement.init(storage_dir=store) as trace:
            pass
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
            for _ in range(3):
                with pytest.raises(escapement.ReplayDivergenceError):
                    call("something new")
    assert (replay.misses, provider.count) == (3, 0)


def test_bodies_that_are_new_every_time(store: Path) -> None:
    """Boundaries of forms, ids of tool calls, keys of idempotence: what does not count, and what comes of the recording."""

    async def program(made: Any) -> Any:
        file = made.files.create(file=("a.txt", b"\r\n--x"), purpose="user_data")
        heard = made.audio.transcriptions.create(file=("a.mp3", b"\xff\xfb"), model="whisper-1")
        first = made.chat.completions.create(
            **said(
                "openai", "weather?", tools=[WEATHER["openai"]], extra_headers={"idempotency-key": str(uuid.uuid4())}
            )
        )
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in first.choices[0].message.tool_calls
        ]
        turns = [{"role": "user", "content": "weather?"}, first.choices[0].message.to_dict(), *results]
        second = made.chat.completions.create(**said("openai", "", messages=turns, tools=[WEATHER["openai"]]))
        return [file, heard, first, second]

    same(program, "openai", SYNC, store)


def test_keys_are_never_kept(store: Path) -> None:
    key = "sk-proj-" + "aB3dE6gH9k" * 5
    with (
        Provider() as provider,
        openai.OpenAI(base_url=f"{provider.base_url}/v1", api_key=key) as made,
        escapement.init(storage_dir=store, metadata={"note": key}),
    ):
        ask(made, f"my key is {key}", model="echo")
        made.files.create(file=("a.txt", f"key={key}".encode()), purpose="user_data")
        made.get("/models", cast_to=object, options={"params": {"api_key": key}})
    kept = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    assert [file for file, data in kept.items() if key.encode() in data] == []
    assert (store / ".gitignore").read_text().strip() == "*"


@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_time_travel_runs_again_what_it_must_and_no_more(step: int, store: Path) -> None:
    with Provider() as provider, openai.OpenAI(base_url=f"{provider.base_url}/v1", api_key="any") as made:
        with escapement.init(storage_dir=store) as trace:
            live = [ask(made, f"step {number}") for number in range(1, 6)]
        sent = provider.count
        with escapement.replay(trace.trace_id, storage_dir=store):
            again = [ask(made, f"step {number}") for number in range(1, step)]
            escapement.fork()
            again += [ask(made, f"step {number}") for number in range(step, 6)]
    assert again[: step - 1] == live[: step - 1]
    assert [new != old for new, old in zip(again[step - 1 :], live[step - 1 :], strict=True)] == [True] * (6 - step)
    assert provider.count - sent == 6 - step


AGENT = """
import asyncio, json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pydantic import BaseModel

class Place(BaseModel):
    city: str

def user(text): return [{"role": "user", "content": text}]

async def branches():
    async with openai.AsyncOpenAI(api_key="any", base_url=sys.argv[1] + "/v1") as several:
        async def branch():
            first = await several.chat.completions.create(model="any", messages=user("the same"))
            second = await several.chat.completions.create(model="any", messages=user(first.id))
            return [first.to_dict(), second.to_dict()]
        return await asyncio.gather(*(branch() for _ in range(4)))

def agent():
    chat = client.chat.completions
    yield [chunk.to_dict() for chunk in chat.create(model="any", messages=user("stream"), stream=True)]
    raw = chat.with_raw_response.create(model="flaky-429", messages=user("raw"))
    yield [raw.retries_taken, raw.text, raw.headers["x-request-id"], raw.headers["x-ratelimit-remaining-tokens"]]
    with chat.with_streaming_response.create(model="any", messages=user("bytes"), stream=True) as response:
        yield [chunk.hex() for chunk in response.iter_bytes()]
    yield chat.parse(model="any", messages=user("where?"), response_format=Place).choices[0].message.parsed.city
    try:
        ask("refused", model="error-422")
    except openai.UnprocessableEntityError as error:
        yield [str(error), error.body, error.request_id]
    yield client.embeddings.create(model="any", input=["a"]).to_dict()
    yield asyncio.run(branches())
    with ThreadPoolExecutor(4) as pool:
        yield list(pool.map(ask, [f"number {number}" for number in range(8)]))

{opening}
    for told in agent():
        print(json.dumps(told))
print(trace.steps, file=sys.stderr)
"""


def test_everything_in_processes_of_its_own() -> None:
    """One agent that does all of it, recorded by one process and replayed by another when the provider is gone."""

    def run(opening: str) -> tuple[str, str]:
        done = run_program(AGENT.replace("{opening}", f"with {opening} as trace:"), provider)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    with Provider() as provider:
        live, steps = run("escapement.init('agent')")
        assert run("escapement.init('agent')")[0] != live
    sent = provider.count
    assert run("escapement.replay('@-2', strict_replay=True)") == (live, steps)
    assert provider.count == sent
