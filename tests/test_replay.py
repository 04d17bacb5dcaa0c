"""Replay: what is served, what is a miss, what a fork becomes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anthropic
import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.conftest import ask
from tests.provider import Provider


def record(client: openai.OpenAI, *texts: str) -> tuple[escapement.Trace, list[str]]:
    with escapement.init("recorded") as trace:
        answers = [ask(client, text) for text in texts]
    return trace, answers


def test_the_same_answers_and_nothing_is_sent_or_written(
    client: openai.OpenAI, provider: Provider, store: Path
) -> None:
    trace, answers = record(client, "one", "two", "two")
    before, files = provider.count, sorted(store.rglob("*"))
    with escapement.replay(trace.trace_id, strict_replay=True) as replayed:
        assert [ask(client, text) for text in ("one", "two", "two")] == answers
    assert provider.count == before
    assert sorted(store.rglob("*")) == files
    assert (replayed.mode, replayed.status, replayed.trace_id) == ("replay", "completed", trace.trace_id)
    assert (replayed.hits, replayed.misses, replayed.calls, replayed.cost) == (3, 0, 0, 0.0)


@pytest.mark.parametrize("reference", ["@last", "@-1", "prefix", "bare hex", "trace"])
def test_what_names_a_trace(client: openai.OpenAI, reference: str) -> None:
    record(client, "older")
    trace, answers = record(client, "one")
    named = {"prefix": trace.trace_id[:9], "bare hex": trace.trace_id[3:], "trace": trace}.get(reference, reference)
    with escapement.replay(named, strict_replay=True):
        assert [ask(client, "one")] == answers


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("tr_ffffffffffff", "no trace 'tr_ffffffffffff' in .*escapement; it holds 2"),
        ("@-3", "no trace '@-3'"),
        ("@first", "`@last` is the newest"),
        ("../../etc/passwd", "is not a trace id"),
        ("tr_*", "is not a trace id"),
        ("", "could be any of 2 traces: tr_"),
    ],
)
def test_what_names_no_trace(client: openai.OpenAI, reference: str, message: str) -> None:
    record(client, "one")
    record(client, "two")
    with pytest.raises(escapement.TraceNotFoundError, match=message):
        escapement.replay(reference)
    assert escapement.current() is None


def test_an_ambiguous_prefix_lists_the_candidates(client: openai.OpenAI) -> None:
    ids = sorted(record(client, "one")[0].trace_id for _ in range(3))
    with pytest.raises(escapement.TraceNotFoundError) as raised:
        escapement.replay("tr_")
    assert list(raised.value.candidates) == ids


def test_replay_with_nothing_recorded() -> None:
    with pytest.raises(escapement.TraceNotFoundError, match="nothing has been recorded there yet"):
        escapement.replay("@last")
    with pytest.raises(escapement.ConfigError, match="takes the id of a trace"):
        escapement.replay(7)  # type: ignore[arg-type]


def test_a_strict_miss_raises_and_sends_nothing(client: openai.OpenAI, provider: Provider, store: Path) -> None:
    trace, _ = record(client, "one", "It is 2026-11-22T10:00Z, say two")
    before = provider.count
    with escapement.replay(trace.trace_id, strict_replay=True) as replayed:
        ask(client, "one")
        with pytest.raises(escapement.ReplayDivergenceError) as raised:
            ask(client, "It is 2026-11-23T10:00Z, say two")
    error = raised.value
    assert provider.count == before
    assert (error.reason, error.trace_id, error.step, error.candidates) == ("no_match", trace.trace_id, 2, (2,))
    assert error.diff == {
        "path": "messages[0].content",
        "recorded": "It is 2026-11-22T10:00Z, say two",
        "requested": "It is 2026-11-23T10:00Z, say two",
    }
    first, *rest = str(error).splitlines()
    assert first.startswith(f"[no_match] trace {trace.trace_id} step 2 (lane main) chat gpt-4o   conftest.py:")
    assert rest == [
        "  nearest recorded step 2, first difference at messages[0].content",
        "  - It is 2026-11-22T10:00Z, say two   looks like a timestamp",
        "  + It is 2026-11-23T10:00Z, say two",
        "  replayed 1 of 2 steps; recorded next: step 2 chat gpt-4o",
        "  Fix: give the program the same value each time | strict_replay=False lets this call go live | escapement.fork() before it | record again",
    ]
    assert (replayed.hits, replayed.misses) == (1, 1)
    assert len(list(SpanStore(store).traces())) == 1


def test_a_request_made_more_often_than_recorded(client: openai.OpenAI) -> None:
    trace, _ = record(client, "one")
    with escapement.replay(trace.trace_id, strict_replay=True):
        ask(client, "one")
        with pytest.raises(escapement.ReplayDivergenceError, match="not as often as it is made now") as raised:
            ask(client, "one")
    assert (raised.value.reason, raised.value.candidates) == ("exhausted", (1,))


def test_both_sdks_and_both_flavours_let_our_error_through(
    client: openai.OpenAI, claude: anthropic.Anthropic, provider: Provider
) -> None:
    """Not wrapped, not retried, not slept over: whatever the SDK does with exceptions."""
    with escapement.init() as trace:
        pass
    hello = [{"role": "user", "content": "Hello"}]

    async def asynchronous() -> None:
        async with (
            openai.AsyncOpenAI(api_key="k", base_url=f"{provider.base_url}/v1") as a,
            anthropic.AsyncAnthropic(api_key="k", base_url=provider.base_url) as b,
        ):
            with pytest.raises(escapement.ReplayDivergenceError):
                await a.chat.completions.create(model="m", messages=hello)  # type: ignore[arg-type]
            with pytest.raises(escapement.ReplayDivergenceError):
                await b.messages.create(model="m", max_tokens=5, messages=hello)  # type: ignore[arg-type]

    with escapement.replay(trace.trace_id, strict_replay=True) as replayed:
        with pytest.raises(escapement.ReplayDivergenceError):
            ask(client)
        with pytest.raises(escapement.ReplayDivergenceError):
            claude.messages.create(model="m", max_tokens=5, messages=hello)  # type: ignore[arg-type]
        with pytest.raises(escapement.ReplayDivergenceError):
            claude.messages.create(model="m", max_tokens=5, messages=hello, stream=True)  # type: ignore[arg-type]
        asyncio.run(asynchronous())
    assert (replayed.misses, provider.count) == (5, 0)


def test_a_miss_goes_live_loudly_and_becomes_a_trace_of_its_own(
    client: openai.OpenAI, provider: Provider, store: Path
) -> None:
    trace, answers = record(client, "one", "two", "three")
    before = provider.count
    with escapement.replay(trace.trace_id) as replayed:
        assert ask(client, "one") == answers[0]
        with pytest.warns(
            escapement.EscapementWarning, match=r"(?s)goes live.*first difference at messages\[0\].content"
        ):
            new = ask(client, "something new")
        assert ask(client, "three") == answers[2]
    assert provider.count == before + 1
    assert (replayed.mode, replayed.parent_id, replayed.hits, replayed.misses) == ("fork", trace.trace_id, 2, 1)
    row = SpanStore(store).load(replayed.trace_id)
    assert (row.mode, row.parent, row.status) == ("fork", trace.trace_id, "completed")
    assert [(step.step, step.source) for step in row.steps] == [
        (1, (trace.trace_id, 1)),
        (2, None),
        (3, (trace.trace_id, 3)),
    ]
    with escapement.replay(replayed.trace_id, strict_replay=True) as again:
        assert [ask(client, text) for text in ("one", "something new", "three")] == [answers[0], new, answers[2]]
    assert (again.hits, again.misses, provider.count) == (3, 0, before + 1)


def test_fork_goes_live_and_keeps_the_replayed_part(client: openai.OpenAI, provider: Provider, store: Path) -> None:
    trace, answers = record(client, "one", "two", "three")
    before = provider.count
    escapement.replay(trace.trace_id, strict_replay=True)
    assert ask(client, "one") == answers[0]
    fork = escapement.fork()
    assert fork.trace_id != trace.trace_id
    live = [ask(client, "two"), ask(client, "three")]
    assert live != answers[1:]
    assert escapement.stop() is fork
    assert (fork.mode, fork.parent_id, fork.hits, fork.calls, provider.count) == (
        "fork",
        trace.trace_id,
        1,
        2,
        before + 2,
    )
    for reference in (fork.trace_id, "@last"):
        with escapement.replay(reference, strict_replay=True):
            assert [ask(client, text) for text in ("one", "two", "three")] == [answers[0], *live]
    assert provider.count == before + 2
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert [ask(client, text) for text in ("one", "two", "three")] == answers


def test_a_fork_of_a_fork_names_where_its_steps_really_are(client: openai.OpenAI, store: Path) -> None:
    trace, answers = record(client, "one", "two", "three")
    with escapement.replay(trace.trace_id):
        ask(client, "one")
        first = escapement.fork()
        two = ask(client, "two")
    with escapement.replay(first.trace_id):
        ask(client, "one"), ask(client, "two")
        second = escapement.fork()
        three = ask(client, "three")
    row = SpanStore(store).load(second.trace_id)
    assert [step.source for step in row.steps] == [(trace.trace_id, 1), (first.trace_id, 2), None]
    with escapement.replay(second.trace_id, strict_replay=True):
        assert [ask(client, text) for text in ("one", "two", "three")] == [answers[0], two, three]


def test_a_fork_whose_parent_is_gone_says_so(client: openai.OpenAI, store: Path) -> None:
    trace, _ = record(client, "one", "two")
    with escapement.replay(trace.trace_id):
        ask(client, "one")
        fork = escapement.fork()
        two = ask(client, "two")
    for journal in store.glob(f"journal/{trace.trace_id}-*"):
        journal.unlink()
    row = SpanStore(store).load(fork.trace_id)
    assert [step.answered for step in row.steps] == [False, True]
    with pytest.raises(
        escapement.StoreError, match=f"was served from {trace.trace_id} step 1, which is not in the store"
    ):
        row.request_body(row.steps[0])
    with escapement.replay(fork.trace_id, strict_replay=True):
        assert ask(client, "two") == two


def test_requests_that_differ_in_nothing_that_counts(client: openai.OpenAI, provider: Provider) -> None:
    with escapement.init() as trace:
        answer = client.chat.completions.create(
            model="gpt-4o", temperature=0.5, messages=[{"role": "user", "content": "Hello"}], tools=[], user="u"
        )
    other = openai.OpenAI(
        api_key="sk-another", base_url="http://127.0.0.1:9/openai/v1", default_headers={"x-team": "b"}
    )
    with other, escapement.replay(trace.trace_id, strict_replay=True):
        again = other.chat.completions.create(
            user="u", tools=[], messages=[{"content": "Hello", "role": "user"}], model="gpt-4o", temperature=0.5
        )
    assert again.model_dump() == answer.model_dump()


def test_keys_in_a_request_do_not_count(client: openai.OpenAI, store: Path) -> None:
    first, second = "sk-proj-" + "a" * 40, "sk-proj-" + "b" * 40
    trace, answers = record(client, f"my key is {first}")
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert [ask(client, f"my key is {second}")] == answers
    written = b"".join(path.read_bytes() for path in store.rglob("*.jsonl"))
    assert first.encode() not in written
    assert b"[REDACTED:openai-key]" in written


def test_other_traffic_passes_untouched(client: openai.OpenAI, provider: Provider) -> None:
    import httpx2

    with escapement.init() as trace, httpx2.Client() as web:
        ask(client)
        assert web.get(f"{provider.base_url}/_count").text == "1"
        web.post(
            f"{provider.base_url}/v1/messages", json={"to": "+49", "body": "hi"}
        )  # not every API with this path is a model
    assert trace.steps == 1
    with escapement.replay(trace.trace_id, strict_replay=True), httpx2.Client() as web:
        assert web.get(f"{provider.base_url}/_count").text == "2"  # live, in the middle of a strict replay


def test_a_client_without_an_sdk_is_recorded_by_its_path(provider: Provider) -> None:
    import httpx2

    request = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    with httpx2.Client() as web:
        with escapement.init() as trace:
            live = web.post(f"{provider.base_url}/v1/chat/completions", json=request)
        provider.stop()
        with escapement.replay(trace.trace_id, strict_replay=True):
            again = web.post(f"{provider.base_url}/v1/chat/completions", json=request)
    assert (again.status_code, again.json(), again.http_version) == (live.status_code, live.json(), live.http_version)


def test_concurrent_answers_come_in_the_recorded_order(provider: Provider) -> None:
    """A program that goes by who answers first (as_completed, a shared history) goes the same way again."""

    async def race() -> list[str]:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{provider.base_url}/v1") as client:
            order: list[str] = []

            async def one(name: str, model: str) -> None:
                await client.chat.completions.create(model=model, messages=[{"role": "user", "content": name}])
                order.append(name)
                await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": str(order)}])

            await asyncio.gather(one("patient", "flaky-500-2"), one("slow", "flaky-429"), one("quick", "gpt-4o"))
            return order

    with escapement.init() as trace:
        live = asyncio.run(race())
    assert live != ["patient", "slow", "quick"], "the first that is asked must not be the first that answers"
    before = provider.count
    for _ in range(10):
        with escapement.replay(trace.trace_id, strict_replay=True):
            assert asyncio.run(race()) == live
    assert provider.count == before


def test_an_answer_does_not_wait_for_a_step_that_never_comes(provider: Provider) -> None:
    async def ask_for(*names: str) -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{provider.base_url}/v1") as client:
            for name in names:
                await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": name}])

    with escapement.init() as trace:
        asyncio.run(ask_for("one", "two", "three"))
    with escapement.replay(trace.trace_id, strict_replay=True) as replayed:
        asyncio.run(ask_for("three", "two"))
    assert (replayed.hits, replayed.misses) == (2, 0)


# -- until ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [1, 2, 3, 4])
def test_until_answers_the_steps_before_it_and_goes_live_there(
    client: openai.OpenAI, provider: Provider, store: Path, until: int
) -> None:
    trace, answers = record(client, "one", "two", "three")
    with escapement.replay(trace.trace_id, until=until) as forked:
        again = [ask(client, text) for text in ("one", "two", "three", "four")]
    assert again[: until - 1] == answers[: until - 1]
    assert not set(again[until - 1 :]) & set(answers)
    assert (forked.hits, forked.misses, forked.calls) == (until - 1, 0, 5 - until)
    assert (provider.count, forked.mode, forked.parent_id) == (3 + 5 - until, "fork", trace.trace_id)
    before = provider.count
    with escapement.replay(forked.trace_id, strict_replay=True):
        assert [ask(client, text) for text in ("one", "two", "three", "four")] == again
    assert provider.count == before


def test_until_is_not_a_miss_even_in_strict_replay(client: openai.OpenAI, recwarn: pytest.WarningsRecorder) -> None:
    trace, answers = record(client, "one", "two")
    with escapement.replay(trace.trace_id, until=2, strict_replay=True) as forked:
        assert ask(client, "one") == answers[0]
        ask(client, "something else")
    assert (forked.misses, [str(one.message) for one in recwarn]) == (0, [])
    with (
        escapement.replay(trace.trace_id, until=2, strict_replay=True),
        pytest.raises(escapement.ReplayDivergenceError),
    ):
        ask(client, "not the first step")


@pytest.mark.parametrize("until", [0, -1, 4, "2", 1.5, True])
def test_until_takes_a_step_of_the_trace(client: openai.OpenAI, until: object) -> None:
    trace, _ = record(client, "one", "two")
    with pytest.raises(escapement.ConfigError, match=rf"until takes the step of {trace.trace_id} .*steps 1 to 2"):
        escapement.replay(trace.trace_id, until=until)  # type: ignore[arg-type]
    assert escapement.current() is None
