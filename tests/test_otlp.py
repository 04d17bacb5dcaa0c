"""OTLP export to a real receiver: what arrives, what waits on disk, what is counted, and that the program never notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import escapement
from escapement.store.layout import Layout
from escapement.store.pieces import Delta
from escapement.store.prices import Prices
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.errors import ConfigError
from escapement_exporters.content import VARIABLE
from escapement_exporters.export import pipeline
from escapement_exporters.export import spool as spooling
from escapement_exporters.export.spool import Spool
from escapement_exporters.otlp import documents
from escapement_exporters.otlp.batches import LIMIT, Batches, count
from escapement_exporters.spans import Span
from tests.conftest import ask
from tests.provider import Provider
from tests.receiver import Receiver
from tests.test_cli import Cli, cli
from tests.test_otlp_json import attributes, parsed, spans

__all__ = ["cli"]  # a fixture

PROTOCOLS = ("http/protobuf", "grpc")


@pytest.fixture(params=PROTOCOLS)
def receiver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
    monkeypatch.setattr(pipeline, "_BACKOFF", (0.05, 0.2))
    with Receiver(request.param) as running:
        yield running
    pipeline.finish()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def by_name(receiver: Receiver) -> dict[str, Any]:
    return {span.name: span for span in receiver.spans}


def test_a_run_arrives_slim(client: openai.OpenAI, receiver: Receiver, store: Path) -> None:
    from opentelemetry import trace as otel

    with escapement.init("agent", tags=["x"], metadata={"user": 7}, otlp_endpoint=receiver.url) as trace:
        ask(client, "a secret question")
        with otel.get_tracer("theirs").start_as_current_span("other"):
            ask(client, "inside")
    pipeline.finish()
    row = SpanStore(store).load(trace.trace_id)
    assert trace.exported == {"sent": 4}
    first, inside, other, root = sorted(
        receiver.spans, key=lambda span: (span.name == "agent", span.name, span.start_time_unix_nano)
    )
    assert (first.name, inside.name, other.name, root.name) == ("chat gpt-4o", "chat gpt-4o", "other", "agent")
    assert root.trace_id.hex() == first.trace_id.hex() == row.otel_trace_id
    assert root.span_id.hex() == first.parent_span_id.hex() == row.span_id
    # What somebody else began in the run lies below it.
    assert inside.trace_id == other.trace_id == root.trace_id
    assert (inside.parent_span_id, other.parent_span_id) == (other.span_id, root.span_id)
    for span, step in zip((first, inside), row.steps, strict=True):
        assert (span.span_id.hex(), span.start_time_unix_nano, span.end_time_unix_nano) == (
            step.span_id, step.start, step.end,
        )  # fmt: skip
    # As `escapement export --format otlp` has it, attribute for attribute.
    exported = {
        span.span_id: attributes(span.attributes) for span in spans(parsed(documents.export(row, prices=Prices())))
    }
    assert {span.span_id: attributes(span.attributes) for span in receiver.spans} == exported
    assert "secret question" not in str(receiver.requests)
    resource = attributes(receiver.requests[0].resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource[semconv.TRACE_ID]) == ("agent", trace.trace_id)


def test_the_standard_variables(client: openai.OpenAI, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with escapement.init() as silent:
        ask(client)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with escapement.init() as trace:
        ask(client)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    with escapement.init() as off:
        ask(client)
    pipeline.finish()
    assert (silent.exported, trace.exported, off.exported) == ({}, {"sent": 2}, {})
    assert len(receiver.spans) == 2
    headers = receiver.headers[0]
    assert headers["authorization"] == "Bearer x"
    if receiver.protocol != "grpc":
        assert (headers["content-type"], headers["content-encoding"]) == ("application/x-protobuf", "gzip")


def test_content_only_as_the_variable_says(
    client: openai.OpenAI, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[Any] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}]
    for value, shown in (("true", True), ("SPAN_ONLY", True), ("NO_CONTENT", False), ("event_only", False)):
        receiver.requests.clear()
        monkeypatch.setenv(VARIABLE, value)
        with escapement.init("agent", otlp_endpoint=receiver.url):
            said = [client.chat.completions.create(model="gpt-4o", messages=messages).choices[0].message.content or ""]
            longer = [*messages, {"role": "assistant", "content": said[0]}, {"role": "user", "content": "x" * 70_000}]
            said.append(
                client.chat.completions.create(model="gpt-4o", messages=longer).choices[0].message.content or ""
            )
        pipeline.finish()
        first, second = [attributes(span.attributes) for span in receiver.spans if span.name == "chat gpt-4o"]
        names = {semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES}
        assert (names & first.keys() == names) is shown
        if shown:
            assert json.loads(first[semconv.INPUT_MESSAGES]) == [
                {"role": "system", "parts": [{"type": "text", "content": "be brief"}]},
                {"role": "user", "parts": [{"type": "text", "content": "one"}]},
            ]
            (answer,) = json.loads(first[semconv.OUTPUT_MESSAGES])
            assert answer == {
                "role": "assistant", "parts": [{"type": "text", "content": said[0]}], "finish_reason": "stop",
            }  # fmt: skip
            # What is too long is named: its size, its hash, and where it is.
            assert second[semconv.INPUT_MESSAGES].endswith(f"in the span store: {second[semconv.TRACE_ID]} step 2]")
            assert json.loads(second[semconv.OUTPUT_MESSAGES])[0]["parts"][0]["content"] == said[1]


def test_a_replay_is_marked_and_has_no_usage(client: openai.OpenAI, receiver: Receiver, store: Path) -> None:
    with escapement.init("agent") as parent:
        ask(client, "one")
    with escapement.replay(parent.trace_id, otlp_endpoint=receiver.url, strict_replay=True) as replay:
        ask(client, "one")
    pipeline.finish()
    original = SpanStore(store).load(parent.trace_id)
    arrived = by_name(receiver)
    assert sorted(arrived) == ["chat gpt-4o", f"replay of {parent.trace_id}"]
    served, root = arrived["chat gpt-4o"], arrived[f"replay of {parent.trace_id}"]
    assert served.parent_span_id == root.span_id
    assert served.trace_id == root.trace_id
    assert served.trace_id.hex() != original.otel_trace_id
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in served.links] == [
        (original.otel_trace_id, original.steps[0].span_id)
    ]
    found = attributes(served.attributes)
    assert (found[semconv.MODE], found[semconv.SERVED_FROM]) == ("replay", f"{parent.trace_id} step 1")
    assert not [name for name in found if name.startswith("gen_ai.usage.")]
    assert attributes(root.attributes)[semconv.MODE] == "replay"
    assert replay.exported == {"sent": 2}


def test_a_fork_goes_on_as_a_trace_of_its_own(client: openai.OpenAI, receiver: Receiver, store: Path) -> None:
    with escapement.init("agent") as parent:
        ask(client, "one")
    with escapement.replay(parent.trace_id, otlp_endpoint=receiver.url) as fork:
        ask(client, "one")
        escapement.fork()
        ask(client, "two")
    pipeline.finish()
    row = SpanStore(store).load(fork.trace_id)
    live = [span for span in receiver.spans if span.trace_id.hex() == row.otel_trace_id]
    assert sorted(span.name for span in live) == ["agent", "chat gpt-4o"]
    assert sorted(span.name for span in receiver.spans if span not in live) == [
        "chat gpt-4o", f"replay of {parent.trace_id}",
    ]  # fmt: skip
    assert fork.exported == {"sent": 4}


@pytest.mark.parametrize("how", ["killed", "error"])
def test_what_cannot_be_sent_waits_on_disk(how: str, client: openai.OpenAI, receiver: Receiver, store: Path) -> None:
    import grpc

    if how == "killed":
        receiver.kill()
    else:
        receiver.error = grpc.StatusCode.UNAVAILABLE if receiver.protocol == "grpc" else 503
    with escapement.init("agent", otlp_endpoint=receiver.url) as trace:
        ask(client)
        ask(client, "more")
    pipeline.finish()
    assert trace.exported == {"spooled": 3}
    spool = Spool(Layout.of(store))
    assert sum(count(path.read_bytes()) for path, _ in spool.waiting()) == 3
    for path in (spool.folder, *spool.folder.iterdir()):
        assert path.stat().st_mode & 0o077 == 0
    receiver.error = None
    if how == "killed":
        receiver.start()
    until(lambda: len(receiver.spans) == 3)
    until(lambda: not spool.waiting())
    pipeline.finish()
    assert receiver.ids() == Counter(
        [
            *(step.span_id for step in SpanStore(store).load(trace.trace_id).steps),
            SpanStore(store).load(trace.trace_id).span_id,
        ]
    )
    assert spool.totals() == {"spooled": 3, "sent": 3}


def test_a_receiver_with_a_lower_limit_gets_smaller_requests(client: openai.OpenAI, receiver: Receiver) -> None:
    receiver.kill()
    receiver.limit = 4000
    receiver.start()
    with escapement.init("agent", otlp_endpoint=receiver.url) as trace:
        for number in range(8):
            ask(client, str(number))
    pipeline.finish()
    assert trace.exported == {"sent": 9}
    assert set(receiver.ids().values()) == {1}
    assert len(receiver.spans) == 9


def test_a_span_that_is_refused_is_counted(client: openai.OpenAI, receiver: Receiver) -> None:
    import grpc

    receiver.error = grpc.StatusCode.INVALID_ARGUMENT if receiver.protocol == "grpc" else 400
    with escapement.init("agent", otlp_endpoint=receiver.url) as trace:
        ask(client)
    pipeline.finish()
    assert trace.exported == {"dropped": 2}
    assert not Spool(Layout.of(".escapement")).waiting()


PROGRAM = textwrap.dedent("""
    import os, sys, openai, escapement
    url, calls = sys.argv[1], int(sys.argv[2])
    client = openai.OpenAI(api_key="k", base_url=url)
    trace = escapement.init("program", sealing="manual", loop_detection_enabled=False)
    print(trace.trace_id, flush=True)
    for number in range(calls):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": str(number)}])
    if "fork" in sys.argv:
        child = os.fork()
        client = openai.OpenAI(api_key="k", base_url=url)
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": f"of {child}"}])
        if child:
            assert os.waitpid(child, 0)[1] == 0
        else:
            sys.exit(0)
    if "kill" in sys.argv:
        os.kill(os.getpid(), 9)
""")


def program(url: str, *arguments: str, **environment: str) -> tuple[str, str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"{url}/v1", *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip(), done.stderr, done.returncode


def test_the_end_of_a_program_sends_what_is_left(provider: Provider, receiver: Receiver) -> None:
    _, errors, code = program(provider.base_url, "3", ESCAPEMENT_OTLP_ENDPOINT=receiver.url)
    assert (errors, code) == ("", 0)
    assert Counter(span.name for span in receiver.spans) == {"chat gpt-4o": 3, "program": 1}


def test_the_next_run_sends_what_the_last_one_could_not(provider: Provider, receiver: Receiver, store: Path) -> None:
    receiver.kill()
    _, errors, code = program(provider.base_url, "3", ESCAPEMENT_OTLP_ENDPOINT=receiver.url)
    assert code == 0
    assert errors.count("\n") == 1
    assert "does not take spans" in errors
    assert Spool(Layout.of(store)).totals() == {"spooled": 4}
    receiver.start()
    with escapement.init("next", otlp_endpoint=receiver.url):
        until(lambda: len(receiver.spans) == 4)
    pipeline.finish()
    assert Counter(span.name for span in receiver.spans) == {"chat gpt-4o": 3, "program": 1, "next": 1}


def test_processes_send_their_own(provider: Provider, receiver: Receiver) -> None:
    _, errors, code = program(provider.base_url, "2", "fork", ESCAPEMENT_OTLP_ENDPOINT=receiver.url)
    assert code == 0, errors
    assert Counter(span.name for span in receiver.spans) == {"chat gpt-4o": 4, "program": 1}, errors
    assert set(receiver.ids().values()) == {1}
    assert len({span.trace_id for span in receiver.spans}) == 1


WORKERS = textwrap.dedent("""
    import multiprocessing, sys, openai
    def call(number):
        client = openai.OpenAI(api_key="k", base_url=sys.argv[1])
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": f"{number}"}])
    if __name__ == "__main__":
        call(1)
        for number, way in enumerate(("fork", "spawn", "forkserver"), 2):
            process = multiprocessing.get_context(way).Process(target=call, args=(number,))
            process.start()
            process.join()
""")


def test_processes_of_multiprocessing_and_the_command_line(
    provider: Provider, receiver: Receiver, tmp_path: Path
) -> None:
    """They pass over `atexit`, and another process has the root of the run."""
    (tmp_path / "workers.py").write_text(WORKERS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "escapement",
            "run",
            "-q",
            "--",
            sys.executable,
            "workers.py",
            f"{provider.base_url}/v1",
        ],
        env=os.environ | {"ESCAPEMENT_OTLP_ENDPOINT": receiver.url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert Counter(span.name for span in receiver.spans) == {"chat gpt-4o": 4, "workers.py": 1}
    (root,) = (span for span in receiver.spans if span.name == "workers.py")
    assert {(span.trace_id, span.parent_span_id) for span in receiver.spans if span is not root} == {
        (root.trace_id, root.span_id)
    }


def test_many_spans_and_a_receiver_that_is_killed_midway(receiver: Receiver, store: Path) -> None:
    """10,000 spans, every 500th with 5 MB in it: each arrives, or is on disk and counted."""
    from tests.receiver import LIMIT

    receiver.limit = LIMIT
    with escapement.init("agent", otlp_endpoint=receiver.url, durability="process") as trace:
        session = trace._session
        assert session is not None
        for number in range(10_000):
            if number == 3000:
                until(lambda: bool(receiver.requests))
                receiver.kill()
            if number == 6000:
                until(lambda: trace.exported.get("spooled", 0) > 0)
                receiver.start()
            made(session, number, "x" * 5_000_000 if number % 500 == 0 else "short")
    pipeline.finish(60)
    until(lambda: not Spool(Layout.of(store)).waiting())
    pipeline.finish(60)
    expected = {f"{number + 1:016x}" for number in range(10_000)}
    arrived = receiver.ids()
    assert expected <= arrived.keys()
    exported = trace.exported
    assert exported.get("dropped", 0) == 0
    assert exported["sent"] + exported["spooled"] == 10_001
    assert exported["spooled"] > 0
    assert all(request.ByteSize() < LIMIT for request in receiver.requests)


def made(session: Any, number: int, body: str) -> None:
    """A step as the engine tells it, without a call around it."""
    span_id = f"{number + 1:016x}"
    now = time.time_ns()
    asked = {
        semconv.STEP: number + 1, semconv.LANE: "main", semconv.FINGERPRINT: "1:ff", semconv.TRACE_ID: session.trace_id,
        semconv.REQUEST_BODY: Delta(0, 0, [], 0), semconv.OPERATION_NAME: "chat",
    }  # fmt: skip
    about = {"span_id": span_id, "trace_id": "1" * 32, "name": "chat m"}
    for outlet in session.outlets:
        outlet.take([{"record": "start", **about, "parent": "2" * 16, "start": now, "attributes": asked, "pieces": {}}])
        answer = {semconv.STATUS: 200, semconv.RESPONSE_BODY: body}
        outlet.take([{"record": "span", **about, "end": now + 5, "status": "UNSET", "attributes": answer}])


class _Owner:
    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()


def span_of(size: int, pieces: int = 1) -> Span:
    return Span(
        trace_id="1" * 32, span_id="2" * 16, name="s", kind="CLIENT", start=1, end=2,
        attributes={f"a{number}": "x" * size for number in range(pieces)},
    )  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 90)), max_size=12))
def test_requests_stay_below_the_limit(sizes: list[tuple[int, int]]) -> None:
    batches, owner = Batches(), _Owner()
    resource = {"service.name": "s"}
    found = [batch for size, pieces in sizes for batch in batches.add(span_of(size, pieces), owner, resource)]
    found += batches.flush()
    assert sum(batch.spans for batch in found) == len(sizes)
    assert all(len(batch.data) <= LIMIT for batch in found)
    assert [count(batch.data) for batch in found] == [batch.spans for batch in found]
    # What is around the values counts, too: some bytes an attribute, some for the span.
    surely, perhaps = (
        sum((size + name) * pieces + frame > LIMIT // 2 for size, pieces in sizes)
        for name, frame in ((0, 0), (20, 200))
    )
    assert surely <= owner.counted["slimmed"] <= perhaps


def test_a_span_too_large_for_any_request_is_slimmed_and_counted() -> None:
    batches, owner = Batches(), _Owner()
    list(batches.add(span_of(60_000, 100), owner, {}))
    (batch,) = batches.flush()
    (span,) = ExportTraceServiceRequest.FromString(batch.data).resource_spans[0].scope_spans[0].spans
    assert len(span.attributes) == 100
    assert attributes(span.attributes)["a0"].startswith("[60000 bytes, blake2b ")
    assert owner.counted == {"slimmed": 1}


def filler(number: int) -> bytes:
    """A request of 3 MB."""
    batches = Batches()
    list(batches.add(span_of(60_000, 25), _Owner(), {"n": number}))
    list(batches.add(span_of(60_000, 25), _Owner(), {"n": number}))
    (batch,) = batches.flush()
    return batch.data


def test_the_spool_is_bounded_and_gives_back_what_had_to_go(tmp_path: Path) -> None:
    spool = Spool(Layout.of(tmp_path), most=10_000_000)
    gone = [old for number in range(6) for old in spool.put(filler(number))]
    # A segment each: there is room for three of them.
    assert gone == [filler(0), filler(1), filler(2)]
    assert [path.read_bytes() for path, _ in spool.waiting()] == [filler(3), filler(4), filler(5)]


def test_a_segment_that_was_cut_off_keeps_what_is_whole(tmp_path: Path) -> None:
    owner, batches = _Owner(), Batches()
    list(batches.add(span_of(100), owner, {"service.name": "s"}))
    (batch,) = batches.flush()
    twice = batch.data * 2
    assert spooling.whole(twice) == twice
    for length in range(len(batch.data), len(twice)):
        assert spooling.whole(twice[:length]) == batch.data
    spool = Spool(Layout.of(tmp_path))
    spool.put(twice[:-3])
    segment = spool.take()
    assert segment is not None
    assert segment.data == batch.data
    assert spool.take() is None  # it is ours
    segment.put_back()
    again = spool.take()
    assert again is not None
    again.done()
    assert not spool.waiting()


def test_the_end_may_be_told_twice(client: openai.OpenAI, receiver: Receiver, store: Path) -> None:
    """As multiprocessing does: what could not be sent is spooled once."""
    receiver.delay = 1.0
    with escapement.init("agent", otlp_endpoint=receiver.url) as trace:
        ask(client)
        until(lambda: bool(in_flight()))
        ask(client, "more")
    pipeline.finish(0.3)
    pipeline.finish(0.3)
    # The first was on its way already, and may arrive twice; the rest was not.
    spooled = Counter(
        span.span_id.hex()
        for path, _ in Spool(Layout.of(store)).waiting()
        for span in spans(ExportTraceServiceRequest.FromString(path.read_bytes()))
    )
    row = SpanStore(store).load(trace.trace_id)
    assert spooled == Counter([row.span_id, *(step.span_id for step in row.steps)])
    assert trace.exported["spooled"] == 3


def in_flight() -> list[pipeline.Pipeline]:
    return [one for one in pipeline._pipelines.values() if one._in_flight is not None]


def test_what_others_say_of_the_same_call_has_no_usage(receiver: Receiver, client: openai.OpenAI, store: Path) -> None:
    """An instrumentor beside us, around the call or after it; and an agent's span, whose sum is its own."""
    from opentelemetry import trace as otel

    used = {"gen_ai.usage.input_tokens": 1, "llm.token_count.prompt": 1, "gen_ai.request.model": "gpt-4o"}
    tracer = otel.get_tracer("theirs")
    with escapement.init("agent", otlp_endpoint=receiver.url) as trace:
        with (
            tracer.start_as_current_span("planner", attributes={"gen_ai.operation.name": "invoke_agent", **used}),
            tracer.start_as_current_span("outer", attributes={"openinference.span.kind": "LLM", **used}),
            tracer.start_as_current_span("around", attributes={"gen_ai.operation.name": "chat", **used}),
        ):
            answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
        after = {"gen_ai.operation.name": "chat", "gen_ai.response.id": answer.id, **used}
        tracer.start_span("after", attributes=after).end()
        tracer.start_span("elsewhere", attributes={**after, "gen_ai.response.id": "another"}).end()
    pipeline.finish()
    for found in (receiver.spans, spans(parsed(documents.export(SpanStore(store).load(trace.trace_id))))):
        counted = {
            span.name
            for span in found
            if {"gen_ai.usage.input_tokens", "llm.token_count.prompt"} & attributes(span.attributes).keys()
        }
        theirs = [span for span in found if span.name in ("outer", "around", "after")]
        assert len(theirs) == 3
        assert counted == {"planner", "elsewhere", "chat gpt-4o"}
        assert all(attributes(span.attributes)["gen_ai.request.model"] == "gpt-4o" for span in theirs)


def test_what_ends_before_the_call_does_has_no_usage(receiver: Receiver, client: openai.OpenAI, store: Path) -> None:
    """As spans of instrumentors do that end when a stream has begun."""
    from opentelemetry import trace as otel

    used = {"gen_ai.operation.name": "chat", "gen_ai.usage.output_tokens": 1}
    asked: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with escapement.init("agent", otlp_endpoint=receiver.url) as trace:
        with otel.get_tracer("theirs").start_as_current_span("around", attributes=used):
            stream = client.chat.completions.create(**asked, stream_options={"include_usage": True})
        list(stream)
    pipeline.finish()
    for found in (receiver.spans, spans(parsed(documents.export(SpanStore(store).load(trace.trace_id))))):
        counted = {span.name: "gen_ai.usage.output_tokens" in attributes(span.attributes) for span in found}
        assert counted == {"agent": False, "around": False, "chat gpt-4o": True}


def test_what_the_environment_says_of_the_resource(
    cli: Cli, client: openai.OpenAI, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=pro%20d,service.name=billing,host.name=x"
    )
    monkeypatch.setenv("ESCAPEMENT_OTLP_ENDPOINT", receiver.url)
    with escapement.init("agent") as trace:
        ask(client)
    pipeline.finish()
    assert cli("otlp", "push", trace.trace_id).code == 0
    live, pushed = (attributes(request.resource_spans[0].resource.attributes) for request in receiver.requests)
    assert live == {name: value for name, value in pushed.items() if name != "escapement.trace.status"}
    assert (live["deployment.environment.name"], live["service.name"]) == ("pro d", "billing")
    assert live["host.name"] != "x"  # it is known


def test_an_application_that_exports_by_itself_is_left_to_it(provider: Provider, tmp_path: Path) -> None:
    """It has read the standard variables, too, and gets a twin of each span: nothing is to arrive twice."""
    with Receiver() as receiver:
        code = f"""
import openai, escapement
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
client = openai.OpenAI(api_key="k", base_url="{provider.base_url}/v1")
with escapement.init("agent", sealing="manual") as run:
    client.chat.completions.create(model="gpt-4o", messages=[{{"role": "user", "content": "x"}}])
print(run.exported)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == ("{}\n", 0), done.stderr
        assert sorted(receiver.ids().values()) == [1, 1]


def test_a_killed_program_loses_only_what_the_journal_has(
    cli: Cli, provider: Provider, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_id, _, code = program(provider.base_url, "3", "kill", ESCAPEMENT_OTLP_ENDPOINT=receiver.url)
    assert code == -9
    receiver.requests.clear()
    monkeypatch.setenv("ESCAPEMENT_OTLP_ENDPOINT", receiver.url)
    assert cli("otlp", "push", trace_id).out == f"Sent 4 spans of {trace_id} to {receiver.url}.\n"
    assert Counter(span.name for span in receiver.spans) == {"chat gpt-4o": 3, "program": 1}


def test_what_is_set_and_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="otlp_endpoint takes a URL"):
        escapement.init(otlp_endpoint="localhost:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(ConfigError, match="takes grpc or http/protobuf, not 'http/json'"):
        escapement.init(otlp_endpoint="http://localhost:4318")


def test_pushing_what_waits_and_a_trace(
    cli: Cli, client: openai.OpenAI, receiver: Receiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = cli("otlp", "push")
    assert nowhere.code == 1
    assert "there is no collector to send to" in nowhere.err
    monkeypatch.setenv("ESCAPEMENT_OTLP_ENDPOINT", receiver.url)
    assert cli("otlp", "push").out == "Nothing waits to be sent.\n"
    receiver.kill()
    monkeypatch.setattr(pipeline, "_BACKOFF", (600.0, 600.0))  # what a thread tries again meanwhile does not wait
    with escapement.init("agent") as trace:
        ask(client)
    pipeline.finish()
    shown = cli("info", "--json")
    assert json.loads(shown.out)["otlp"] | {"waiting": {}} == {
        "endpoint": receiver.url, "protocol": receiver.protocol, "waiting": {},
        "spans": {"sent": 0, "spooled": 2, "slimmed": 0, "rejected": 0, "dropped": 0},
    }  # fmt: skip
    assert json.loads(shown.out)["otlp"]["waiting"]["files"] == 1
    failed = cli("otlp", "push", "--json")
    assert failed.code == 1
    (one,) = json.loads(failed.out)["pushed"]
    assert (one["sent"], one["left"]) == (0, 2)
    assert "2 spans could not be sent, and wait" in failed.err
    receiver.start()
    done = cli("otlp", "push")
    assert (done.code, done.err) == (0, "")
    assert done.out in (f"Sent 2 spans to {receiver.url}.\n", "Nothing waits to be sent.\n")  # a thread may be first
    until(lambda: len(receiver.spans) == 2)
    first = {span.span_id: attributes(span.attributes) for span in receiver.spans}
    again = cli("otlp", "push", "@last", "--json")
    assert json.loads(again.out) == {
        "endpoint": receiver.url,
        "pushed": [{"trace": trace.trace_id, "sent": 2, "slimmed": 0, "rejected": 0, "dropped": 0, "left": 0}],
    }
    assert len(receiver.spans) == 4
    assert {span.span_id: attributes(span.attributes) for span in receiver.spans[2:]} == first
    assert cli("otlp", "push", "tr_nothing").code == 5
    assert "OTLP export" in cli("info").out
