"""What comes beside an answer: how long it took, ids, headers, cookies, counts; live and replayed alike."""

from __future__ import annotations

import asyncio
import datetime
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

import escapement
from escapement.engine import redaction
from escapement.engine.calls import Exchange
from escapement.engine.spans import StepSpan
from tests.fidelity.anthropic_cases import ASK
from tests.fidelity.cases import ASYNC, SYNC, client, drive, each, entered, library_of, settle
from tests.fidelity.openai_cases import CHAT, USER
from tests.fidelity.snapshot import differences, snapshot
from tests.provider import Provider

Effect = Callable[[Any], Any]


def calls(made: Any) -> Any:
    """What makes calls of this client: its plain method, its raw one, its streaming one."""
    return made.chat.completions if isinstance(made, (openai.OpenAI, openai.AsyncOpenAI)) else made.messages


def asked(made: Any, **options: Any) -> Any:
    return {**(CHAT if hasattr(made, "chat") else ASK), **options}


async def whole(made: Any) -> Any:
    raw = await settle(calls(made).with_raw_response.create(**asked(made)))
    return [raw.http_response, await settle(raw.parse()), raw]


async def streamed(made: Any) -> Any:
    """The response of a stream, when it has been read."""
    stream = await settle(calls(made).create(**asked(made, stream=True)))
    events = [event async for event in each(stream)]
    return [stream.response, events[-1], stream]


async def streamed_by_hand(made: Any) -> Any:
    async with entered(calls(made).with_streaming_response.create(**asked(made))) as response:
        return [response.http_response, await settle(response.parse()), response]


async def refused(made: Any) -> Any:
    try:
        await settle(calls(made).create(**asked(made.with_options(max_retries=0), model="error-429")))
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return [error.response, error, error]
    raise AssertionError("it was not refused")


async def tried_again(made: Any) -> Any:
    raw = await settle(calls(made).with_raw_response.create(**asked(made, model="flaky-429")))
    return [raw.http_response, await settle(raw.parse()), raw]


PROGRAMS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    program.__name__: program for program in (whole, streamed, streamed_by_hand, refused, tried_again)
}


def limits(headers: Any) -> list[tuple[str, str]]:
    found = [(name, value) for name, value in headers.multi_items() if "ratelimit" in name or "retry" in name]
    assert found
    return found


def cookies(response: Any) -> Any:
    """Name, and everything about it, of each cookie; of its value only that it has one."""
    jar = response.cookies.jar
    assert len(jar) == 1
    return [(one.name, one.path, one.domain, one.secure, one.expires, one._rest, bool(one.value)) for one in jar]


EFFECTS: dict[str, Effect] = {
    "_request_id": lambda got: getattr(got[1], "_request_id", None),
    "request_id": lambda got: getattr(got[2], "request_id", None),
    "http_response": lambda got: [type(got[0]), got[0].status_code, got[0].reason_phrase, got[0].http_version],
    "address": lambda got: [str(got[0].url), got[0].request.method, str(got[0].request.url), got[0].history],
    "extensions": lambda got: [got[0].extensions[name] for name in ("http_version", "reason_phrase")],
    "cookies": lambda got: cookies(got[0]),
    "rate limits": lambda got: limits(got[0].headers),
    "all headers but cookies": lambda got: [pair for pair in got[0].headers.multi_items() if pair[0] != "set-cookie"],
    "usage": lambda got: snapshot(getattr(got[1], "usage", None)),
    "retries_taken": lambda got: getattr(got[2], "retries_taken", None),
    "state": lambda got: [
        got[0].is_success,
        got[0].is_closed,
        got[0].is_stream_consumed,
        got[0].encoding,
        got[0].links,
    ],
    "bytes": lambda got: got[0].num_bytes_downloaded,
    "elapsed": lambda got: [type(got[0].elapsed), got[0].elapsed > datetime.timedelta()],
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mode", [SYNC, ASYNC])
@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_what_comes_beside_an_answer(sdk: str, mode: str, program: str, store: Path) -> None:
    async def run(url: str) -> dict[str, Any]:
        async with entered(client(sdk, mode, url)) as made:
            got = await PROGRAMS[program](made)
            return {name: snapshot(effect(got)) for name, effect in EFFECTS.items()}

    with Provider() as provider:
        with escapement.init(storage_dir=store) as trace:
            live = drive(mode, run(provider.base_url))
        other = drive(mode, run(provider.base_url))
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
        again = drive(mode, run(provider.base_url))
    assert differences(live, again) == []
    # What is the same in any two runs could not tell a replay from a call.
    told = {name for name in EFFECTS if differences(live[name], other[name])}
    assert {"rate limits", "all headers but cookies"} <= told
    assert "request_id" in told or program == "streamed"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mode", [SYNC, ASYNC])
@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_a_call_leaves_nothing_to_the_garbage_collector(sdk: str, mode: str, program: str, store: Path) -> None:
    """What a call held is let go of with it: programs of long runs switch the collector off, or freeze it."""

    async def run(url: str) -> list[str]:
        async with entered(client(sdk, mode, url)) as made:
            await PROGRAMS[program](made)
            if mode == ASYNC:
                await asyncio.sleep(0.01)  # the event loop closes forgotten generators a little later
            # Asynchronous connections keep the context that they were opened in, and with it a `Call` of no content.
            return [type(one).__name__ for one in held() if id(one) not in before]

    def held() -> list[object]:
        return [one for one in gc.get_objects() if type(one) in (Exchange, StepSpan)]  # `isinstance` asks dead proxies

    if program.startswith("streamed") and library_of(sdk) is httpx:
        pytest.skip("a streamed response of httpx knows itself, so it waits for the garbage collector without us, too")
    gc.collect()
    before = {id(one) for one in held()}  # by the traceback of a test that failed
    gc.disable()
    try:
        with Provider() as provider, escapement.init(storage_dir=store) as trace:
            assert drive(mode, run(provider.base_url)) == []
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            assert drive(mode, run(provider.base_url)) == []
    finally:
        gc.enable()


COOKIE = "__cf_bm=secret-of-the-session; path=/; expires=Fri, 01-Jan-38 00:00:00 GMT; Secure; HttpOnly; SameSite=None"


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_cookies_have_their_names_and_no_values(library: Any, store: Path) -> None:
    """What a replay serves is never sent to anybody: not even the placeholder of a cookie, when it goes live."""

    def answer(request: Any) -> Any:
        return library.Response(
            200, json={"cookies sent": "cookie" in request.headers}, headers=[("set-cookie", COOKIE)]
        )

    def program(web: Any, number: int) -> Any:
        body = {"model": "m", "messages": [{"role": "user", "content": str(number)}]}
        return web.post("https://api.example.com/v1/chat/completions", json=body)

    def open_client() -> Any:
        return library.Client(transport=library.MockTransport(answer))

    with escapement.init(storage_dir=store) as trace, open_client() as web:
        live = [program(web, number) for number in range(2)]
    assert [response.json()["cookies sent"] for response in live] == [False, True]
    with escapement.replay(trace.trace_id, storage_dir=store) as replay, open_client() as web:
        again = [program(web, number) for number in range(2)]
        escapement.fork()
        after = program(web, 2)
    assert (replay.hits, replay.misses) == (2, 0)
    assert [(list(response.cookies), response.cookies["__cf_bm"]) for response in again] == [
        (["__cf_bm"], "REDACTED")
    ] * 2
    attributes = COOKIE.partition(";")[2]
    assert [response.headers["set-cookie"] for response in again] == [f"__cf_bm=REDACTED;{attributes}"] * 2
    assert [list(response.cookies) for response in live] == [["__cf_bm"]] * 2
    assert after.json() == {"cookies sent": False}
    kept = b"".join(file.read_bytes() for file in store.rglob("*") if file.is_file())
    assert (b"__cf_bm=REDACTED" in kept, b"secret-of-the-session" in kept) == (True, False)


@pytest.mark.parametrize(
    ("received", "kept"),
    [
        ("id=secret; path=/", "id=REDACTED; path=/"),
        ("id=secret", "id=REDACTED"),
        ("id=", "id=REDACTED"),
        ('id="se;cret"; Secure', "id=REDACTED; Secure"),
        ("two words=secret; path=/", "two words=REDACTED; path=/"),
        ("id=se=cret==; path=/", "id=REDACTED; path=/"),
        ("secret; path=/", "REDACTED; path=/"),  # without a name: all of it is the value
        ("=secret; path=/", "=REDACTED; path=/"),
        ("", "REDACTED"),
    ],
)
def test_no_value_of_a_cookie_is_kept(received: str, kept: str) -> None:
    assert redaction.response_headers([("Set-Cookie", received)]) == [("Set-Cookie", kept)]


HARMLESS = {
    "RateLimit": "limit=10",
    "RateLimit-Policy": "10;w=1",
    "Accept-Ranges": "bytes",
    "Access-Control-Expose-Headers": "request-id",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Deprecation": "@1688169599",
    "Permissions-Policy": "interest-cohort=()",
    "Pragma": "no-cache",
    "Priority": "u=1,i",
    "Referrer-Policy": "no-referrer",
    "Sunset": "Sat, 31 Dec 2033 23:59:59 GMT",
    "Timing-Allow-Origin": "*",
    "Traceresponse": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "Warning": "299 - Deprecated",
}


def test_headers_that_give_nobody_away_are_kept(store: Path) -> None:
    answers = httpx2.MockTransport(lambda request: httpx2.Response(200, json={}, headers=HARMLESS))

    def program(transport: Any) -> list[tuple[bytes, bytes]]:
        with httpx2.Client(transport=transport) as web:
            raw = web.post("https://api.example.com/v1/chat/completions", json={"model": "m", "messages": USER})
            return list(raw.headers.raw)

    with escapement.init(storage_dir=store) as trace:
        live = program(answers)
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
        assert program(httpx2.HTTPTransport()) == live
    assert len(live) == len(HARMLESS) + 2
