"""Beside the OpenTelemetry of others: nobody loses telemetry to us, and no call is counted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.provider import Provider
from tests.test_spans import application


def test_a_provider_that_comes_after_init_gets_everything_from_then_on(provider: Provider, store: Path) -> None:
    """Also by tracers that were handed out before: by OpenTelemetry's own proxy, and by what stood in."""
    result = application(
        provider,
        """
        import logging
        logging.basicConfig(stream=sys.stderr)
        before = trace.get_tracer("before")
        run = escapement.init("agent")
        meanwhile = trace.get_tracer("meanwhile")
        with before.start_as_current_span("one"):
            ask("first")
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        assert trace.get_tracer_provider() is provider
        with before.start_as_current_span("two"), meanwhile.start_as_current_span("three"):
            ask("second")
        escapement.stop()
        with meanwhile.start_as_current_span("four"):
            pass
        print(json.dumps({"id": run.trace_id, "spans": exported()}))
        """,
    )
    spans: list[dict[str, Any]] = result["spans"]  # type: ignore[assignment]
    assert [span["name"] for span in spans] == ["chat gpt-4o", "three", "two", "four"]
    row = SpanStore(store).load(str(result["id"]))
    assert [step.answered for step in row.steps] == [True, True]
    assert [span["name"] for span in row.spans] == ["one"], "those of a provider of its own are kept when asked for"
    assert spans[0]["parent"] == spans[1]["id"] == row.steps[1].parent_span_id


@pytest.mark.parametrize("when", ["before", "after"])
def test_logfire(provider: Provider, store: Path, when: str) -> None:
    configure = """
        logfire.configure(send_to_logfire=False, console=False, inspect_arguments=False,
                          additional_span_processors=[SimpleSpanProcessor(exporter)])
    """
    start = """
        run = escapement.init("agent")
    """
    result = application(
        provider,
        f"""
        import logfire
        {configure if when == "before" else start}
        {start if when == "before" else configure}
        with logfire.span("work"):
            ask("hello")
        escapement.stop()
        print(json.dumps({{"id": run.trace_id, "spans": exported()}}))
        """,
    )
    spans = {span["name"]: span for span in result["spans"]}  # type: ignore[attr-defined]
    assert spans.keys() - {"agent"} == {"work", "chat gpt-4o"}
    assert spans["chat gpt-4o"]["parent"] == spans["work"]["id"]
    (step,) = SpanStore(store).load(str(result["id"])).steps
    assert (step.answered, step.parent_span_id) == (True, spans["work"]["id"])


def test_nothing_of_ours_is_left_after_the_last_run(provider: Provider) -> None:
    application(
        provider,
        """
        before, tracer = trace.get_tracer_provider(), trace.get_tracer("before")
        with escapement.init("outer"):
            assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
            assert trace.get_tracer_provider() is not before
            with escapement.init("inner"):
                assert tracer.start_span("one").is_recording()
            assert tracer.start_span("two").is_recording()
        assert trace.get_tracer_provider() is before
        assert not tracer.start_span("three").is_recording()
        print("{}")
        """,
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_spans_of_an_applications_provider_are_kept_when_asked_for(
    provider: Provider, store: Path, when: str
) -> None:
    own = """
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
    """
    result = application(
        provider,
        f"""
        {own if when == "before" else ""}
        run = escapement.init("agent", keep_spans=True)
        {own if when == "after" else ""}
        with trace.get_tracer("app").start_as_current_span("tool"):
            ask("hello")
        escapement.stop()
        with trace.get_tracer("app").start_as_current_span("afterwards"):
            pass
        with escapement.replay(run.trace_id, strict_replay=True):
            ask("hello")
        print(json.dumps({{"id": run.trace_id}}))
        """,
    )
    (listed,) = escapement.open_store().list()
    row = SpanStore(store).load(str(result["id"]))
    assert (listed.trace_id, listed.steps) == (row.trace_id, 1)
    (tool,) = row.spans
    assert (tool["name"], tool["scope"]) == ("tool", "app")
    assert row.steps[0].parent_span_id == tool["span_id"]


@pytest.mark.parametrize("configured", ["before", "after", "twice"])
def test_logfires_spans_are_kept_from_the_first_on(provider: Provider, store: Path, configured: str) -> None:
    """Also those that begin before the first call. After a second `configure()`, from the next call on."""
    configure = """
        logfire.configure(send_to_logfire=False, console=False, inspect_arguments=False)
    """
    result = application(
        provider,
        f"""
        import logfire
        {configure if configured != "after" else ""}
        run = escapement.init("agent", keep_spans=True)
        {configure if configured != "before" else ""}
        {"ask('first')" if configured == "twice" else ""}
        with logfire.span("work"):
            with logfire.span("plan"):
                pass
            ask("hello")
        escapement.stop()
        print(json.dumps({{"id": run.trace_id}}))
        """,
    )
    row = SpanStore(store).load(str(result["id"]))
    spans = {str(span["name"]): span for span in row.spans}
    assert (spans.keys(), len(row.spans)) == ({"work", "plan"}, 2)
    assert spans["plan"]["parent"] == row.steps[-1].parent_span_id == spans["work"]["span_id"]


def test_anthropic_sends_no_header_on_our_account(provider: Provider) -> None:
    """It traces itself, and says so to the server, where the application listens. That a run is open changes nothing."""
    result = application(
        provider,
        """
        import anthropic
        claude = anthropic.Anthropic(api_key="k", base_url=sys.argv[1])
        def ask_claude():
            claude.messages.create(model="claude-sonnet-4-5", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
        with escapement.init("agent") as run:
            ask_claude()
        ask_claude()
        print(json.dumps({"id": run.trace_id}))
        """,
    )
    assert [name for request in provider.requests for name in request.headers if "trace" in name.lower()] == []
    assert SpanStore(Path(".escapement")).load(str(result["id"])).spans == []


INSTRUMENTORS = {
    "traceloop": ["opentelemetry.instrumentation.openai", "opentelemetry.instrumentation.anthropic"],
    "genai": ["opentelemetry.instrumentation.genai.openai", "opentelemetry.instrumentation.genai.anthropic"],
    "openinference": ["openinference.instrumentation.openai", "openinference.instrumentation.anthropic"],
    "anthropic's own": [],
}
EVERY = [module for modules in INSTRUMENTORS.values() for module in modules]
AGENT = """
import asyncio, importlib
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pydantic import BaseModel
import anthropic

client = openai.OpenAI(api_key="k", base_url=sys.argv[1] + "/v1")
claude = anthropic.Anthropic(api_key="k", base_url=sys.argv[1])
TEXT = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "gpt-4o", "messages": TEXT}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CLAUDE = {"model": "claude-haiku-4-5", "max_tokens": 99, "messages": TEXT}
SAID = {"model": "gpt-4o", "input": "Hello"}

class City(BaseModel):
    name: str

def plain(answer):
    return answer.model_dump(mode="json", warnings=False)

def of_openai():
    yield plain(client.chat.completions.create(**CHAT))
    yield [plain(chunk) for chunk in client.chat.completions.create(**USAGE, **CHAT)]
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    yield raw.headers["x-request-id"], raw.text, plain(raw.parse())
    with client.chat.completions.with_streaming_response.create(**CHAT) as streamed:
        yield streamed.read().decode()
    parsed = client.chat.completions.parse(response_format=City, **CHAT)
    yield plain(parsed), parsed.choices[0].message.parsed.name
    yield plain(client.responses.create(**SAID))
    yield [plain(event) for event in client.responses.create(stream=True, **SAID)]
    yield plain(client.embeddings.create(model="text-embedding-3-small", input="Hello"))

def of_anthropic():
    yield plain(claude.messages.create(**CLAUDE))
    yield [plain(event) for event in claude.messages.create(stream=True, **CLAUDE)]
    with claude.messages.stream(**CLAUDE) as stream:
        yield "".join(stream.text_stream), plain(stream.get_final_message())
    raw = claude.messages.with_raw_response.create(**CLAUDE)
    yield raw.headers["request-id"], raw.text(), plain(raw.parse())
    with claude.messages.with_streaming_response.create(**CLAUDE) as streamed:
        yield streamed.read().decode()

async def of_both():
    later = openai.AsyncOpenAI(api_key="k", base_url=sys.argv[1] + "/v1")
    claude_later = anthropic.AsyncAnthropic(api_key="k", base_url=sys.argv[1])
    said = [plain(await later.chat.completions.create(**CHAT))]
    said.append([plain(chunk) async for chunk in await later.chat.completions.create(**USAGE, **CHAT)])
    said.append(plain(await claude_later.messages.create(**CLAUDE)))
    async with claude_later.messages.stream(**CLAUDE) as stream:
        said.append(plain(await stream.get_final_message()))
    await later.close()
    await claude_later.close()
    return said

def agent():
    return json.dumps([*of_openai(), *of_anthropic(), *asyncio.run(of_both())])
"""


@pytest.mark.parametrize(
    ("modules", "own"),
    [*((modules, True) for modules in INSTRUMENTORS.values()), (EVERY, True), (EVERY, False)],
    ids=[*INSTRUMENTORS, "all at once", "all, and no provider"],
)
def test_no_call_is_counted_twice_none_is_lost_and_no_response_broken(
    provider: Provider, store: Path, modules: list[str], own: bool
) -> None:
    """Whatever else instruments the SDKs: calls, streams, raw, streamed and parsed answers, live and replayed."""
    result = application(
        provider,
        AGENT
        + f"""
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
if {own}:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
for name in {modules}:
    module = importlib.import_module(name)
    getattr(module, "AnthropicInstrumentor" if "anthropic" in name else "OpenAIInstrumentor")().instrument()

with escapement.init("both", keep_spans=True) as run:
    live = agent()
    used = run.input_tokens, run.output_tokens, run.calls
with escapement.replay(run.trace_id, strict_replay=True) as again:
    replayed = agent()
assert (again.hits, again.misses, again.input_tokens) == (17, 0, 0)
assert replayed == live, (replayed, live)
from escapement_exporters.metrics import measuring
measuring.finish(10)
measured = [
    (point.count, point.sum)
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics if scope.scope.name == "escapement"
    for metric in scope.metrics if metric.name == "gen_ai.client.token.usage"
    for point in metric.data.data_points if point.attributes["gen_ai.token.type"] == "input"
]
print(json.dumps({{"id": run.trace_id, "used": used, "cost": run.cost,
                   "measured": sum(tokens for _, tokens in measured)}}, default=float))
""",
    )
    assert provider.count == 17
    row = SpanStore(store).load(str(result["id"]))
    tokens = [
        sum(int(step.attributes.get(f"gen_ai.usage.{kind}_tokens") or 0) for step in row.steps)
        for kind in ("input", "output")
    ]
    assert result["used"] == [*tokens, 17]
    assert result["measured"] == tokens[0] > 0
    theirs = {str(span["scope"]) for span in row.spans}
    assert {name for name in theirs if "anthropic.sdk" in name} == ({"com.anthropic.sdk.python"} if own else set())
    assert all(any(name.startswith(module) for name in theirs) for module in modules), theirs
    opened = escapement.open_store()
    (summary,) = opened.list()
    assert (summary.steps, summary.input_tokens, summary.output_tokens) == (17, *tokens)
    assert float(summary.cost or 0) == pytest.approx(result["cost"])
    all_calls, *by_model = opened.stats(summary.trace_id)
    assert (all_calls.calls, all_calls.input_tokens, all_calls.output_tokens) == (17, *tokens)
    assert sum(group.calls for group in by_model) == 17
    counted = opened.query("SELECT count(*) AS n, sum(input_tokens) AS i, sum(output_tokens) AS o FROM llm_calls")
    assert counted.to_pylist() == [{"n": 17, "i": tokens[0], "o": tokens[1]}]


# -- OTEL_TRACES_EXPORTER=escapement ---------------------------------------------------------------------------------


def instrumented(
    program: str, provider: Provider | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A program under `opentelemetry-instrument`, with the span store as its exporter."""
    command = [
        str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, "-c", textwrap.dedent(program)
    ]  # fmt: skip
    surroundings = {
        **os.environ, "OTEL_TRACES_EXPORTER": "escapement", "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none", "OTEL_SERVICE_NAME": "shop",
        "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{provider.base_url}/v1" if provider is not None else "",
        **environment,
    }  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)


def test_the_store_is_an_exporter_of_any_program(store: Path) -> None:
    done = instrumented(
        """
        from opentelemetry import trace
        tracer = trace.get_tracer("app")
        with tracer.start_as_current_span("checkout", attributes={"cart": [1, 2], "paid": True}) as span:
            with tracer.start_as_current_span("payment"):
                pass
            span.add_event("done", {"took": 0.5})
        """,
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai,anthropic",
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (listed,) = escapement.open_store().list()
    assert (listed.name, listed.status, listed.steps) == ("shop", "completed", 0)
    row = SpanStore(store).load(listed.trace_id)
    (payment,) = row.spans
    assert (payment["name"], payment["parent"], payment["scope"]) == ("payment", row.span_id, "app")
    assert list((store / "intake").iterdir()) == []


def test_calls_that_others_instrument_become_steps_that_replay(provider: Provider, store: Path) -> None:
    """The agent knows nothing of Escapement."""
    agent = """
    import openai
    answer = openai.OpenAI().chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
    print(answer.choices[0].message.content)
    """
    done = instrumented(agent, provider)
    assert done.returncode == 0, done.stderr
    (listed,) = escapement.open_store().list()
    assert (listed.steps, listed.name) == (1, "shop")
    sent = provider.count
    again = subprocess.run(
        [sys.executable, "-m", "escapement", "replay", "@last", "--strict", "--", sys.executable, "-c", textwrap.dedent(agent)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{provider.base_url}/v1"},
    )  # fmt: skip
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
    assert provider.count == sent


def test_a_program_that_records_itself_is_not_exported_twice(provider: Provider, store: Path) -> None:
    """Its run keeps the spans that happen in it, and the exporter has the others."""
    done = instrumented(
        """
        import escapement, openai
        from opentelemetry import trace
        tracer = trace.get_tracer("app")
        client = openai.OpenAI()
        def ask(text):
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}])
        with tracer.start_as_current_span("start"), tracer.start_as_current_span("before"):
            pass
        with escapement.init("agent"), tracer.start_as_current_span("inside"):
            ask("recorded")
        """,
        provider,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    opened = escapement.open_store()
    assert sorted((listed.name, listed.steps) for listed in opened.list()) == [("agent", 1), ("shop", 0)]
    assert opened.query("SELECT count(*) AS n FROM llm_calls").to_pylist() == [{"n": 1}]
    names = opened.query("SELECT name FROM spans").column("name").to_pylist()
    assert (names.count("before"), names.count("inside")) == (1, 1)


def test_what_a_replay_is_told_of_is_not_exported_as_calls(provider: Provider, store: Path) -> None:
    """Instrumentors see calls in a replay as they do live, and say what was used; nothing was."""
    done = instrumented(
        """
        import escapement, openai
        client = openai.OpenAI()
        def ask():
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
        with escapement.init("agent") as run:
            ask()
        with escapement.replay(run.trace_id, strict_replay=True):
            ask()
        """,
        provider,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    opened = escapement.open_store()
    assert [(listed.name, listed.steps) for listed in opened.list()] == [("agent", 1)]
    assert opened.query("SELECT count(*) AS n FROM llm_calls").to_pylist() == [{"n": 1}]


def test_a_stream_that_outlives_its_run_is_counted_once(provider: Provider, store: Path) -> None:
    """Our step ends with the run, and what others say of the call afterwards is the exporter's to leave out. What is
    no call is kept."""
    done = instrumented(
        """
        import escapement, openai
        from opentelemetry import trace
        client = openai.OpenAI()
        run = escapement.init("agent")
        tool = trace.get_tracer("app").start_span("tool")
        stream = client.chat.completions.create(
            model="gpt-4o", stream=True, stream_options={"include_usage": True},
            messages=[{"role": "user", "content": "Hello"}],
        )
        next(stream)
        escapement.stop()
        for _ in stream:
            pass
        tool.end()
        """,
        provider,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    opened = escapement.open_store()
    assert sorted((listed.name, listed.steps) for listed in opened.list()) == [("agent", 1), ("shop", 0)]
    assert opened.query("SELECT count(*) AS n FROM llm_calls").to_pylist() == [{"n": 1}]


def test_what_was_exported_survives_a_kill(store: Path) -> None:
    done = instrumented(
        """
        import os, signal
        from opentelemetry import trace
        with trace.get_tracer("app").start_as_current_span("lost with its process"):
            pass
        trace.get_tracer_provider().force_flush()
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert done.returncode == -signal.SIGKILL
    compacted = subprocess.run(
        [sys.executable, "-m", "escapement", "store", "compact"], capture_output=True, text=True, check=False
    )
    assert compacted.returncode == 0, compacted.stderr
    (listed,) = escapement.open_store().list()
    assert listed.name == "shop"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ESCAPEMENT_DURABILITY": "sometimes"}, "durability"),
        ({"ESCAPEMENT_STORAGE_DIR": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_an_exporter_that_cannot_write_says_so_once_and_harms_nobody(environment: dict[str, str], said: str) -> None:
    done = instrumented(
        """
        from opentelemetry import trace
        for number in range(3):
            with trace.get_tracer("app").start_as_current_span("work"):
                pass
            trace.get_tracer_provider().force_flush()
        print("fine")
        """,
        **environment,
    )
    assert (done.returncode, done.stdout) == (0, "fine\n")
    assert done.stderr.count("Escapement:") == 1
    assert said in done.stderr


def test_switched_off_it_writes_nothing() -> None:
    done = instrumented(
        """
        from opentelemetry import trace
        with trace.get_tracer("app").start_as_current_span("work"):
            pass
        """,
        ESCAPEMENT_ENABLED="false",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(".escapement").exists()


def test_forked_children_export_their_own_spans(store: Path) -> None:
    done = instrumented(
        """
        import os
        from opentelemetry import trace
        tracer = trace.get_tracer("app")
        with tracer.start_as_current_span("root"), tracer.start_as_current_span("parent"):
            trace.get_tracer_provider().force_flush()
            child = os.fork()
            if not child:
                with tracer.start_as_current_span("child"):
                    pass
                trace.get_tracer_provider().shutdown()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert done.returncode == 0, done.stderr
    names = escapement.open_store().query("SELECT name FROM spans").column("name").to_pylist()
    assert (names.count("parent"), names.count("child")) == (1, 1)
