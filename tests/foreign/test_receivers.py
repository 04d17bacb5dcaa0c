"""An agent's run in the receivers that people use: what they say arrived is what was recorded. `make interop`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

import escapement
from escapement.store.layout import Layout
from escapement.store.prices import Prices
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.config import resolve
from escapement_exporters.content import VARIABLE
from escapement_exporters.export import pipeline
from escapement_exporters.export.spool import Spool
from escapement_exporters.otlp import documents
from tests.foreign import agent
from tests.foreign.receivers import MLflow, Phoenix, Rotel, Seen
from tests.receiver import Receiver
from tests.test_cli import Cli, cli
from tests.test_otlp import until
from tests.test_otlp_json import attributes, parsed, spans

__all__ = ["cli"]  # a fixture

pytestmark = pytest.mark.framework

SAID = {
    semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES, semconv.TOOL_CALL_ARGUMENTS, semconv.TOOL_CALL_RESULT,
    "gen_ai.tool.definitions",
}  # fmt: skip
"""What is content."""
OWN = {
    "phoenix": ("llm.", "input.", "output.", "tool.", "embedding.", "openinference."),
    "mlflow": ("mlflow.",),
}
"""What a receiver adds to the attributes of a span."""

Note = Callable[[str, object], None]


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    with Phoenix(tmp_path_factory.mktemp("phoenix")) as running:
        yield running


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflow]:
    with MLflow(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


def work(client: openai.OpenAI, claude: anthropic.Anthropic) -> list[agent.Said]:
    """An agent on three APIs, with tools, streams, an embedding, a failure, and spans of its own; what it was told."""
    from opentelemetry import trace as otel

    tracer = otel.get_tracer("the agent")
    said = [*agent.on_chat(client), *agent.on_responses(client), *agent.on_messages(claude)]
    tool = {
        semconv.OPERATION_NAME: "execute_tool", semconv.TOOL_NAME: "search",
        semconv.TOOL_CALL_ARGUMENTS: '{"query":"bees"}', semconv.TOOL_CALL_RESULT: "Bees.",
    }  # fmt: skip
    with tracer.start_as_current_span("execute_tool search", attributes=tool):
        client.embeddings.create(model="text-embedding-3-small", input="bees")
    with pytest.raises(openai.BadRequestError):
        client.with_options(max_retries=0).chat.completions.create(
            model="error-400", messages=[{"role": "user", "content": "bad"}]
        )
    return said


def recorded(trace_id: str) -> tuple[TraceRow, dict[str, Seen]]:
    """A trace, and each span that there is to arrive of it, by id."""
    row = SpanStore(Path(".escapement")).load(trace_id)
    names = {0: "UNSET", 1: "OK", 2: "ERROR"}
    made = {
        span.span_id.hex(): Seen(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            name=span.name,
            status=names[span.status.code],
            start=span.start_time_unix_nano // 1000,
            end=span.end_time_unix_nano // 1000,
            attributes=attributes(span.attributes),
        )
        for span in spans(parsed(documents.export(row, prices=Prices.of(resolve()))))
    }
    names = {span.name for span in made.values()}
    assert {"weather", "chat gpt-4o", "chat claude-haiku-4-5", "execute_tool search"} <= names
    assert len({span.trace_id for span in made.values()}) == 1
    return row, made


def compare(receiver: str, expected: dict[str, Seen], arrived: list[Seen], content: bool) -> None:
    """Every span once, whole, and content only if it may be there."""
    assert sorted(span.span_id for span in arrived) == sorted(expected)
    for span in arrived:
        wanted = expected[span.span_id]
        theirs = {name for name in span.attributes.keys() - wanted.attributes if name.startswith(OWN[receiver])}
        found = {name: value for name, value in span.attributes.items() if name not in theirs | SAID}
        seen = (span.trace_id, span.parent, span.name, span.status, found)
        assert seen == (wanted.trace_id, wanted.parent, wanted.name, wanted.status, wanted.attributes)
        # One of them computes with floats.
        assert abs(span.start - wanted.start) <= 1
        assert abs(span.end - wanted.end) <= 1
        if not content:
            assert not SAID & span.attributes.keys()
    if not content:
        assert "Bees" not in str(arrived)


def told(arrived: list[Seen]) -> list[agent.Said]:
    """What models said in a run, by the messages on its spans."""
    found = []
    for span in sorted(arrived, key=lambda span: span.start):
        if semconv.OUTPUT_MESSAGES in span.attributes and span.name.startswith("chat "):
            messages = span.attributes[semconv.OUTPUT_MESSAGES]
            messages = json.loads(messages) if isinstance(messages, str) else messages
            parts = [part for message in messages for part in message["parts"]]
            found.append(
                {
                    "text": "".join(part["content"] for part in parts if part["type"] == "text"),
                    "calls": [
                        {name: part[name] for name in ("id", "name", "arguments")}
                        for part in parts
                        if part["type"] == "tool_call"
                    ],
                }
            )
    return found


def used(row: TraceRow, *, embeddings: bool) -> dict[str, int]:
    """Tokens of a run."""
    steps = [step for step in row.steps if embeddings or step.attributes[semconv.OPERATION_NAME] != "embeddings"]
    names = {"input": semconv.USAGE_INPUT_TOKENS, "output": semconv.USAGE_OUTPUT_TOKENS}
    return {name: sum(step.attributes.get(attribute, 0) for step in steps) for name, attribute in names.items()}


def cost(trace_id: str) -> float:
    table = escapement.open_store().query("SELECT cost_usd FROM traces WHERE trace_id = ?", [trace_id])
    value = table.to_pylist()[0]["cost_usd"]
    assert isinstance(value, float)
    return value


def eventually(look: Callable[[], list[Seen]], count: int) -> list[Seen]:
    """What is there when so many spans are; receivers write them down after they have answered."""
    deadline = time.monotonic() + 60
    while len(found := look()) < count and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@pytest.mark.filterwarnings("ignore")  # Traceloop's
@pytest.mark.parametrize("content", [False, True], ids=["slim", "content"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_run_arrives_in_phoenix(
    protocol: str,
    content: bool,
    phoenix: Phoenix,
    client: openai.OpenAI,
    claude: anthropic.Anthropic,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Note,
) -> None:
    project = f"{protocol[:4]}-{content}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"openinference.project.name={project}")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv(VARIABLE, str(content))
    url = phoenix.grpc_url if protocol == "grpc" else phoenix.url
    with escapement.init("weather", otlp_endpoint=url, instrumentors=["openai"]) as trace:  # Traceloop's, beside us
        said = work(client, claude)
    pipeline.finish(60)
    row, expected = recorded(trace.trace_id)
    assert "openai.chat" in {span.name for span in expected.values()}
    assert trace.exported == {"sent": len(expected)}
    arrived = eventually(lambda: phoenix.spans(project), len(expected))
    compare("phoenix", expected, arrived, content)
    if content:
        assert told(arrived) == said
    kinds = {span.name: span.shown for span in arrived}
    assert {kinds["chat gpt-4o"], kinds["chat claude-haiku-4-5"]} == {"LLM"}
    assert (kinds["execute_tool search"], kinds["embeddings text-embedding-3-small"]) == ("TOOL", "EMBEDDING")
    totals = phoenix.totals(project)
    assert {name: totals[name] for name in ("input", "output")} == used(row, embeddings=False)
    record_property("receiver", ("phoenix", protocol, content, len(arrived), totals, cost(trace.trace_id)))


def test_an_old_trace_is_pushed_to_phoenix(
    phoenix: Phoenix, cli: Cli, client: openai.OpenAI, claude: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    with escapement.init("weather") as trace:
        said = work(client, claude)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "openinference.project.name=pushed")
    monkeypatch.setenv("ESCAPEMENT_OTLP_ENDPOINT", phoenix.url)
    monkeypatch.setenv(VARIABLE, "true")
    _, expected = recorded(trace.trace_id)
    done = cli("otlp", "push", trace.trace_id)
    assert (done.code, done.out) == (0, f"Sent {len(expected)} spans of {trace.trace_id} to {phoenix.url}.\n")
    for _ in range(2):  # and again: what is there already is not there twice
        arrived = eventually(lambda: phoenix.spans("pushed"), len(expected))
        compare("phoenix", expected, arrived, content=True)
        assert told(arrived) == said
        assert cli("otlp", "push", trace.trace_id).code == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("content", [False, True], ids=["slim", "content"])
def test_a_run_arrives_in_mlflow(
    content: bool,
    mlflow: MLflow,
    client: openai.OpenAI,
    claude: anthropic.Anthropic,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Note,
) -> None:
    experiment = mlflow.experiment(f"live {content}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-mlflow-experiment-id={experiment}")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv(VARIABLE, str(content))
    with escapement.init("weather", otlp_endpoint=mlflow.url, instrumentors=["openai"]) as trace:
        said = work(client, claude)
    pipeline.finish(60)
    row, expected = recorded(trace.trace_id)
    assert "openai.chat" in {span.name for span in expected.values()}
    assert trace.exported == {"sent": len(expected)}
    arrived, totals = mlflow.traces(experiment)
    compare("mlflow", expected, arrived, content)
    if content:
        assert told(arrived) == said
    kinds = {span.name: span.shown for span in arrived}
    assert {kinds["chat gpt-4o"], kinds["chat claude-haiku-4-5"]} == {"CHAT_MODEL"}
    assert (kinds["execute_tool search"], kinds["embeddings text-embedding-3-small"]) == ("TOOL", "EMBEDDING")
    assert totals | {"cost": 0} == {**used(row, embeddings=True), "traces": 1, "cost": 0}
    record_property("receiver", ("mlflow", "http/protobuf", content, len(arrived), totals, cost(trace.trace_id)))


def test_an_old_trace_is_pushed_to_mlflow(
    mlflow: MLflow, cli: Cli, client: openai.OpenAI, claude: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    with escapement.init("weather") as trace:
        said = work(client, claude)
    experiment = mlflow.experiment("pushed")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-mlflow-experiment-id={experiment}")
    monkeypatch.setenv("ESCAPEMENT_OTLP_ENDPOINT", mlflow.url)
    monkeypatch.setenv(VARIABLE, "true")
    _, expected = recorded(trace.trace_id)
    done = cli("otlp", "push", trace.trace_id)
    assert (done.code, done.out) == (0, f"Sent {len(expected)} spans of {trace.trace_id} to {mlflow.url}.\n")
    for _ in range(2):  # and again: what is there already is not there twice
        arrived, totals = mlflow.traces(experiment)
        compare("mlflow", expected, arrived, content=True)
        assert told(arrived) == said
        assert totals["traces"] == 1
        assert cli("otlp", "push", trace.trace_id).code == 0


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_in_between_changes_nothing(
    protocol: str,
    client: openai.OpenAI,
    claude: anthropic.Anthropic,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Note,
) -> None:
    """Agent → rotel → a receiver, which sees the very spans that it would have seen without."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    with Receiver(protocol) as last, Rotel(tmp_path, last.url, protocol.partition("/")[0]) as rotel:
        with escapement.init("weather", otlp_endpoint=rotel.grpc_url if protocol == "grpc" else rotel.url) as trace:
            work(client, claude)
        pipeline.finish(60)
        row, expected = recorded(trace.trace_id)
        assert trace.exported == {"sent": len(expected)}
        deadline = time.monotonic() + 60
        while len(last.spans) < len(expected) and time.monotonic() < deadline:
            time.sleep(0.1)
    sent = {span.span_id: span for span in spans(parsed(documents.export(row, prices=Prices.of(resolve()))))}
    assert {span.span_id: span for span in last.spans}.keys() == sent.keys()
    assert len(last.spans) == len(sent)
    for span in last.spans:
        wanted = sent[span.span_id]
        pairs = (attributes(span.attributes), attributes(wanted.attributes))
        assert pairs[0] == pairs[1]
        for one in (span, wanted):
            one.ClearField("attributes")
        assert span == wanted
    (around,) = {str(sorted(attributes(of.resource.attributes).items())) for of in last.requests[0].resource_spans}
    assert trace.trace_id in around
    record_property("receiver", ("rotel", protocol, False, len(last.spans), {}, cost(trace.trace_id)))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_is_killed_midway(
    protocol: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, record_property: Note
) -> None:
    """10,000 calls, every 500th with an answer of 5 MB; the collector gets SIGKILL, and is started again later.

    A collector answers when it has spans in memory, so what it had then is lost with it: `otlp push ID` is for that.
    """
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setattr(pipeline, "_BACKOFF", (0.2, 1.0))
    with Receiver(limit=1_000_000_000) as last, Rotel(tmp_path, last.url, "http") as rotel, speaker() as client:
        url = rotel.grpc_url if protocol == "grpc" else rotel.url
        with escapement.init("many", otlp_endpoint=url, loop_detection_enabled=False) as trace:
            for number in range(10_000):
                if number == 2000:
                    until(lambda: bool(last.requests))
                if number == 3000:
                    rotel.kill()
                if number == 6000:
                    until(lambda: trace.exported.get("spooled", 0) > 0)
                    rotel.start()
                model = "long" if number % 500 == 0 else "short"
                asked = {"model": model, "messages": [{"role": "user", "content": f"question {number}"}]}
                client.post("https://api.openai.com/v1/chat/completions", json=asked).raise_for_status()
        pipeline.finish(60)
        counted = trace.exported
        spool = Spool(Layout.of(".escapement"))
        until(lambda: not spool.waiting())
        pipeline.finish(60)
        assert counted["sent"] + counted["spooled"] == 10_001
        assert counted.keys() == {"sent", "spooled"}
        assert spool.totals()["sent"] == 10_001  # the collector said so

        row = SpanStore(Path(".escapement")).load(trace.trace_id)
        expected = {row.span_id, *(step.span_id for step in row.steps)}
        assert len(expected) == 10_001
        steps = {step.span_id: step.step for step in row.steps}
        quiet(last)
        arrived = last.ids()
        lost = expected - arrived.keys()
        twice = {span_id for span_id, times in arrived.items() if times > 1}
        assert arrived.keys() <= expected
        # Only what was on its way through the collector when it was killed.
        assert all(steps[span_id] <= 3000 for span_id in lost | twice)

        monkeypatch.setenv("ESCAPEMENT_OTLP_ENDPOINT", url)
        done = cli("otlp", "push", trace.trace_id, "--json")
        assert json.loads(done.out)["pushed"] == [
            {"trace": trace.trace_id, "sent": 10_001, "slimmed": 0, "rejected": 0, "dropped": 0, "left": 0}
        ]
        quiet(last)
        assert last.ids().keys() == expected
    record_property("killed", (protocol, counted["sent"], counted["spooled"], len(lost), len(twice)))


@contextmanager
def speaker() -> Iterator[httpx2.Client]:
    """A client whose model says little or, asked for it, 5 MB."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}

    def answer(request: httpx2.Request) -> httpx2.Response:
        long = json.loads(request.content)["model"] == "long"
        message = {"role": "assistant", "content": "x" * 5_000_000 if long else "Yes."}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return httpx2.Response(200, json={"id": "x", "model": "gpt-4o", "choices": choices, "usage": usage})

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as client:
        yield client


def quiet(receiver: Receiver) -> None:
    """Until a receiver has got nothing more for two seconds."""
    count, since = -1, time.monotonic()
    while time.monotonic() < since + 2:
        if len(receiver.requests) != count:
            count, since = len(receiver.requests), time.monotonic()
        time.sleep(0.05)
