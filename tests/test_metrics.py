"""Metrics: into the application's meter provider, or to the collector where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from opentelemetry import metrics as otel
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.util._once import Once

import escapement
from escapement.engine import usage
from escapement.store.prices import Prices
from escapement.store.traces import SpanStore
from escapement_exporters.export import pipeline
from escapement_exporters.metrics import measuring
from tests.conftest import ask
from tests.dashboards import story
from tests.provider import Provider
from tests.receiver import Receiver


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """The application has a meter provider. OpenTelemetry takes one a process, so it is put in by hand."""
    measuring.finish(10)  # what an earlier test left to be measured is not for this one
    made = InMemoryMetricReader()
    provider = MeterProvider([made], shutdown_on_exit=False)
    monkeypatch.setattr(otel._internal, "_METER_PROVIDER", provider)
    monkeypatch.setattr(otel._internal, "_METER_PROVIDER_SET_ONCE", Once())
    yield made
    provider.shutdown()


def found(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """By name: attributes, and the sum (of a histogram: count and sum)."""
    measuring.finish(10)
    data = reader.get_metrics_data()
    return {
        metric.name: [
            (
                dict(point.attributes or {}),
                (point.count, point.sum) if isinstance(point, HistogramDataPoint) else point.value,
            )
            for point in metric.data.data_points
        ]
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_live_calls(client: openai.OpenAI, provider: Provider, reader: InMemoryMetricReader) -> None:
    with escapement.init() as trace:
        ask(client, "one")
        stream = client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        for _ in stream:
            pass
        with pytest.raises(openai.BadRequestError):
            ask(client, "bad", model="error-400")
    measured = found(reader)
    assert sorted(measured) == [
        "escapement.client.cost", "escapement.run.cost", "gen_ai.client.operation.duration", "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.token.usage",
    ]  # fmt: skip
    port = int(provider.base_url.rpartition(":")[2])
    common = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": measured["gen_ai.client.token.usage"][0][0]["gen_ai.response.model"],
        "server.address": "127.0.0.1", "server.port": port,
    }  # fmt: skip
    assert [(attributes, count) for attributes, (count, _) in measured["gen_ai.client.operation.duration"]] == [
        (common, 2),
        (
            {name: common[name] for name in common if name != "gen_ai.response.model"}
            | {"gen_ai.request.model": "error-400", "error.type": "400"},
            1,
        ),
    ]
    assert measured["gen_ai.client.token.usage"] == [
        (common | {"gen_ai.token.type": "input"}, (2, trace.input_tokens)),
        (common | {"gen_ai.token.type": "output"}, (2, trace.output_tokens)),
    ]
    ((first, (count, seconds)),) = measured["gen_ai.client.operation.time_to_first_chunk"]
    assert (first, count) == (common, 1)
    assert 0 < seconds < 30
    ((paid, dollars),) = measured["escapement.client.cost"]
    assert paid == common
    assert dollars == pytest.approx(trace.cost)
    ((how, (count, dollars)),) = measured["escapement.run.cost"]
    assert (how, count) == ({"escapement.trace.status": "completed"}, 1)
    assert dollars == pytest.approx(trace.cost)


def test_replayed_calls_are_counted_apart(
    client: openai.OpenAI, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(otel._internal, "_METER_PROVIDER", None)
        with escapement.init() as parent:
            ask(client, "one")
            ask(client, "two")
    with warnings.catch_warnings(), escapement.replay(parent.trace_id) as replay:
        warnings.simplefilter("ignore", escapement.EscapementWarning)
        ask(client, "one")
        ask(client, "new")
        ask(client, "newer")
    measured = found(reader)
    assert [value for _, value in measured["escapement.replay.hits"]] == [replay.hits] == [1]
    assert [value for _, value in measured["escapement.replay.misses"]] == [replay.misses] == [2]
    assert measured["escapement.replay.divergences"] == [({}, 1)]
    assert [count for _, (count, _) in measured["gen_ai.client.operation.duration"]] == [2]


def test_a_loop(client: openai.OpenAI, reader: InMemoryMetricReader) -> None:
    with pytest.raises(escapement.LoopDetectedError), escapement.init(max_identical_calls=2):
        ask(client)
        ask(client)
    assert found(reader)["escapement.guard.kills"] == [({}, 1)]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_collector_where_the_application_has_no_provider(
    protocol: str, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    with Receiver(protocol) as receiver:
        with escapement.init(otlp_endpoint=receiver.url):
            ask(client)
        measuring.finish(10)
        pipeline.finish()
    names = {
        metric.name
        for request in receiver.metrics
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert names == {
        "gen_ai.client.operation.duration", "gen_ai.client.token.usage", "escapement.client.cost", "escapement.run.cost",
    }  # fmt: skip
    for provider in measuring._made:
        provider.shutdown()
    measuring._made.clear()
    measuring._own.cache_clear()


def test_tools_savings_and_what_runs_cost(
    client: openai.OpenAI, claude: anthropic.Anthropic, reader: InMemoryMetricReader, store: Path
) -> None:
    told = story.tell(client, claude)
    measured = found(reader)
    steps = SpanStore(store).load(told.support.trace_id).steps
    of_tools = {"gen_ai.tool.name": "search", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o"}
    asked = len(steps[2].attributes["escapement.tools.called"])
    assert measured["escapement.tool.calls"] == measured["escapement.tool.failures"] == [(of_tools, asked)]
    # What was served would have cost what it cost: all of it once, and its first call once more.
    once = [usage.cost_of(step.attributes, step.start, Prices()) or 0.0 for step in steps]
    ((served, saved),) = measured["escapement.replay.saved"]
    ((_, hits),) = measured["escapement.replay.hits"]
    assert (served["gen_ai.request.model"], hits) == ("gpt-4o", 5)
    assert saved == pytest.approx(sum(once) + once[0])
    # One run's price is not known, and one made no live call.
    assert {how["escapement.trace.status"]: (count, pytest.approx(cost)) for how, (count, cost) in measured["escapement.run.cost"]} == {
        "completed": (2, told.support.cost + told.diverged.cost), "killed": (1, told.looping.cost),
    }  # fmt: skip
