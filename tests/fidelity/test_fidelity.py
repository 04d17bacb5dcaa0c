"""The matrix: every kind of call, recorded against a provider that never says the same twice, replayed without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import escapement
from tests.fidelity import (  # noqa: F401  # their cases
    anthropic_cases,
    anthropic_surface_cases,
    client_cases,
    openai_cases,
    openai_surface_cases,
)
from tests.fidelity.cases import ASYNC, CASES, SYNC, Case, client, drive, entered, library_of
from tests.fidelity.snapshot import differences, snapshot
from tests.provider import Provider


def matrix() -> Iterator[Any]:
    for case in CASES:
        marks = [pytest.mark.skip(reason=case.missing)] if case.missing else []
        for mode in case.modes:
            yield pytest.param(case, mode, id=f"{case.sdk}-{mode}-{case.name}", marks=marks)


async def outcome(case: Case, client: Any) -> Any:
    """What the program gets, be it an exception."""
    try:
        return snapshot(await case.program(client))
    except (AssertionError, escapement.EscapementError):
        raise
    except Exception as error:  # which one it is, the snapshot says
        return snapshot(error)


async def recorded(case: Case, mode: str, url: str, store: Path) -> tuple[escapement.Trace, Any, Any]:
    """A recording, what the program got, and what it got when it ran once more."""
    async with entered(client(case.sdk, mode, url)) as made:
        trace = escapement.init(storage_dir=store)
        live = await outcome(case, made)
        escapement.stop()
        return trace, live, await outcome(case, made)


async def replayed(case: Case, mode: str, url: str, store: Path, trace_id: str) -> tuple[escapement.Trace, Any]:
    async with entered(client(case.sdk, mode, url)) as made:
        replay = escapement.replay(trace_id, strict_replay=True, storage_dir=store)
        again = await outcome(case, made)
        escapement.stop()
        return replay, again


FAILING = ("error", "dropped", "timeout", "refused")
"""Words in the names of programs that end with an exception; a replay of others would repeat a mistake of the test."""


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # by openai, of translations and variations
@pytest.mark.parametrize(("case", "mode"), list(matrix()))
def test_a_replay_is_the_recording(case: Case, mode: str, store: Path) -> None:
    with Provider() as provider:
        trace, live, other = drive(mode, recorded(case, mode, provider.base_url, store))
    requests = provider.count
    failed = isinstance(live, dict) and "causes" in live
    assert not failed or any(word in case.name for word in FAILING), live
    replay, again = drive(mode, replayed(case, mode, provider.base_url, store, trace.trace_id))
    assert differences(live, again) == []
    assert provider.count == requests
    assert (replay.hits, replay.misses, replay.calls) == (trace.steps, 0, 0)
    assert trace.steps > 0, live
    assert case.varies in (None, differences(live, other) != [])


WAYS = ("process", "with", "async with")


@pytest.mark.parametrize("recording", WAYS)
@pytest.mark.parametrize("replaying", WAYS)
@pytest.mark.parametrize(("sdk", "mode"), [("openai", SYNC), ("openai", ASYNC), ("anthropic", ASYNC)])
def test_however_a_run_is_opened(sdk: str, mode: str, recording: str, replaying: str, store: Path) -> None:
    chosen = ("create_with_tools", "raw_stream", "error_422", "flaky_429_raw")
    cases = [case for case in CASES if case.sdk == sdk and case.name in chosen]
    assert len(cases) == len(chosen)

    async def program(url: str) -> list[Any]:
        async with entered(client(sdk, mode, url)) as made:
            return [await outcome(case, made) for case in cases]

    def run(way: str, opened: Any, url: str) -> tuple[escapement.Trace, Any]:
        async def inside(trace: escapement.Trace) -> Any:
            async with trace:
                return await program(url)

        trace = opened()
        match way:
            case "process":
                result = drive(mode, program(url))
                assert escapement.stop() is trace
            case "with":
                with trace:
                    result = drive(mode, program(url))
            case _:
                result = drive(mode, inside(trace))
        return trace, result

    with Provider() as provider:
        trace, live = run(recording, lambda: escapement.init(storage_dir=store), provider.base_url)
    requests = provider.count
    again = lambda: escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store)  # noqa: E731
    replay, result = run(replaying, again, provider.base_url)
    assert differences(live, result) == []
    assert (provider.count, replay.hits, replay.misses) == (requests, trace.steps, 0)


def test_the_provider_is_really_gone(store: Path) -> None:
    """What the matrix stands on: a call that is not replayed does not get through."""
    case = next(case for case in CASES if case.name == "dropped")
    with Provider() as provider:
        drive(SYNC, recorded(case, SYNC, provider.base_url, store))
    with client("openai", SYNC, provider.base_url, max_retries=0) as made:
        gone = drive(SYNC, outcome(next(case for case in CASES if case.name == "create"), made))
    assert gone["type"].endswith("APIConnectionError")
    assert gone["causes"][0]["type"].endswith("ConnectError")


def test_elapsed_is_how_long_the_recorded_call_took(store: Path) -> None:
    with Provider(latency=0.3) as provider, client("openai", SYNC, provider.base_url) as made:
        with escapement.init(storage_dir=store) as trace:
            live = made.chat.completions.with_raw_response.create(**openai_cases.CHAT).elapsed
        provider.stop()
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            again = made.chat.completions.with_raw_response.create(**openai_cases.CHAT).elapsed
    assert abs((again - live).total_seconds()) < 0.2
    assert again.total_seconds() >= 0.3


@pytest.mark.parametrize("model", ["gpt-4o", "gzip-gpt"])
@pytest.mark.parametrize("stream", [False, True])
def test_bytes_downloaded(model: str, stream: bool, store: Path) -> None:
    def program() -> int:
        raw = made.chat.completions.with_raw_response.create(**{**openai_cases.CHAT, "model": model}, stream=stream)
        raw.http_response.read()
        count: int = raw.http_response.num_bytes_downloaded
        return count

    with Provider() as provider, client("openai", SYNC, provider.base_url) as made:
        with escapement.init(storage_dir=store) as trace:
            live = program()
        provider.stop()
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            assert program() == live > 0


@pytest.mark.parametrize("status", [200, 404, 529])
def test_an_answer_without_a_reason_phrase(status: int, store: Path) -> None:
    """As HTTP/2 has none; the HTTP client then gives the usual one."""
    library: Any = library_of("openai")
    answers = library.MockTransport(lambda request: library.Response(status, json={}))

    def program(transport: Any) -> str:
        with client("openai", SYNC, "http://127.0.0.1", http_client=library.Client(transport=transport)) as made:
            try:
                raw = made.with_options(max_retries=0).chat.completions.with_raw_response.create(**openai_cases.CHAT)
            except openai.APIStatusError as error:
                return str(error.response.reason_phrase)
            return str(raw.http_response.reason_phrase)

    with escapement.init(storage_dir=store) as trace:
        live = program(answers)
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
        assert program(library.HTTPTransport()) == live


FAILURES = {
    "several addresses": (ExceptionGroup("several failed", [OSError(111, "refused"), OSError(111, "refused")]), True),
    "an error number": (OSError(101, "Network is unreachable"), True),
    "not from a message": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), False),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_that_are_made_of_more_than_a_message(name: str, store: Path) -> None:
    """What cannot be made again just so says what it was; it is never another failure, of the replay's own."""
    library: Any = library_of("openai")
    failure, wrapped = FAILURES[name]

    def fail(request: Any) -> Any:
        if wrapped:
            raise library.ConnectError("All connection attempts failed") from failure
        raise failure

    def program(transport: Any) -> tuple[str, str, str]:
        with client("openai", SYNC, "http://127.0.0.1", http_client=library.Client(transport=transport)) as made:
            with pytest.raises(Exception) as caught:
                made.with_options(max_retries=0).chat.completions.create(**openai_cases.CHAT)
            error = caught.value
            return type(error).__name__, str(error), str(error.__cause__)

    with escapement.init(storage_dir=store) as trace:
        live = program(library.MockTransport(fail))
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
        again = program(library.HTTPTransport())
    assert again == live or (not wrapped and live[1] in again[1])
