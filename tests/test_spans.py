"""Spans: whole in the store, conventional attributes, the application's telemetry left as it is."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import anthropic
import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from escapement.words import semconv
from tests.provider import Provider


def test_a_step_as_it_is_kept(client: openai.OpenAI, provider: Provider, store: Path) -> None:
    with escapement.init("agent") as trace:
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "Hello"}],
            temperature=0.5,
            max_completion_tokens=100,
            stop=["END"],
            seed=7,
            n=2,
        )
    (step,) = SpanStore(store).load(trace.trace_id).steps
    answer = json.loads(raw.content)
    usage = answer["usage"]
    attributes = dict(step.attributes)
    headers = dict(attributes.pop(semconv.RESPONSE_HEADERS))
    assert headers["x-request-id"] == raw.headers["x-request-id"]
    assert "REDACTED" in headers["set-cookie"]
    assert attributes.pop(semconv.RESPONSE_ELAPSED) > 0
    assert attributes.pop(semconv.REQUEST_BODY)["base"] == 0
    assert {key.lower(): value for key, value in attributes.pop(semconv.REQUEST_HEADERS)} == {
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": f"OpenAI/Python {openai.__version__}",
    }
    assert len(attributes.pop(semconv.EXACT)) == 32
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.request.seed": 7,
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.model": answer["model"],
        "gen_ai.response.finish_reasons": [choice["finish_reason"] for choice in answer["choices"]],
        "openai.response.service_tier": answer["service_tier"],
        "openai.response.system_fingerprint": answer["system_fingerprint"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "gen_ai.usage.reasoning.output_tokens": usage["completion_tokens_details"]["reasoning_tokens"],
        "server.address": "127.0.0.1",
        "server.port": int(provider.base_url.rpartition(":")[2]),
        "escapement.trace.id": trace.trace_id,
        "escapement.step": 1,
        "escapement.lane": "main",
        "escapement.mode": "record",
        "escapement.fingerprint": step.fingerprint,
        "escapement.request.method": "POST",
        "escapement.request.path": "/v1/chat/completions",
        "escapement.request.size": len(provider.requests[0].body),
        "escapement.response.status": 200,
        "escapement.response.body": raw.content.decode(),
    }
    assert (step.name, step.lane, step.otel_trace_id[:12]) == ("chat gpt-4o", "main", trace.trace_id[3:])
    assert step.fingerprint.startswith("1:")


def test_a_streams_attributes_are_those_of_its_sum(claude: anthropic.Anthropic, store: Path) -> None:
    with (
        escapement.init() as trace,
        claude.messages.stream(
            model="claude", max_tokens=50, messages=[{"role": "user", "content": "Hello"}], stop_sequences=["END"]
        ) as stream,
    ):
        final = stream.get_final_message()
    (step,) = SpanStore(store).load(trace.trace_id).steps
    usage = final.usage
    attributes = {key: value for key, value in step.attributes.items() if key.startswith(("gen_ai.", "server"))}
    assert attributes.pop("gen_ai.response.time_to_first_chunk") > 0
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.request.stream": True,
        "gen_ai.response.id": final.id,
        "gen_ai.response.model": final.model,
        "gen_ai.response.finish_reasons": [final.stop_reason],
        "gen_ai.usage.input_tokens": usage.input_tokens + cached + written,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": cached,
        "gen_ai.usage.cache_write.input_tokens": written,
        "server.address": "127.0.0.1",
        "server.port": step.attributes["server.port"],
    } | {key: value for key, value in attributes.items() if key == "gen_ai.usage.reasoning.output_tokens"}


def test_failed_attempts_are_kept_with_the_call(client: openai.OpenAI, store: Path) -> None:
    with escapement.init() as trace:
        client.chat.completions.create(model="flaky-500-2", messages=[{"role": "user", "content": "Hello"}])
    (step,) = SpanStore(store).load(trace.trace_id).steps
    attempts = step.attributes[semconv.ATTEMPTS]
    assert [attempt["status"] for attempt in attempts] == [500, 500, 200]
    assert "error" in attempts[0]["body"]
    assert attempts[0]["started"] < attempts[1]["started"] < attempts[2]["started"]


# -- the application's own telemetry ----------------------------------------------------------------------------------

_APPLICATION = """
import json, sys
import escapement, openai
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

exporter = InMemorySpanExporter()
client = openai.OpenAI(api_key="k", base_url=sys.argv[1] + "/v1")

def ask(text):
    return client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}])

def exported():
    return [
        {"name": span.name, "id": f"{span.context.span_id:016x}", "trace": f"{span.context.trace_id:032x}",
         "parent": f"{span.parent.span_id:016x}" if span.parent else None, "attributes": dict(span.attributes)}
        for span in exporter.get_finished_spans()
    ]
"""


def application(provider: Provider, program: str, **environment: str) -> dict[str, object]:
    import os

    done = subprocess.run(
        [sys.executable, "-c", _APPLICATION + textwrap.dedent(program), provider.base_url],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("sampler", ["ALWAYS_ON", "ALWAYS_OFF"])
def test_an_applications_provider_stays_and_gets_slim_copies(provider: Provider, store: Path, sampler: str) -> None:
    result = application(
        provider,
        f"""
        provider = TracerProvider(sampler={sampler})
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        run = escapement.init("agent")
        assert trace.get_tracer_provider() is provider
        with trace.get_tracer("app").start_as_current_span("request"):
            ask("a secret plan")
        escapement.stop()
        print(json.dumps({{"id": run.trace_id, "spans": exported()}}))
        """,
    )
    row = SpanStore(store).load(str(result["id"]))
    (step,) = row.steps
    assert step.answered, "sampled or not"
    spans = {span["name"]: span for span in result["spans"]}  # type: ignore[attr-defined]
    if sampler == "ALWAYS_OFF":
        assert spans == {}
        return
    assert spans.keys() == {"request", "chat gpt-4o", "agent"}
    ours = spans["chat gpt-4o"]
    assert (ours["parent"], ours["trace"]) == (spans["request"]["id"], spans["request"]["trace"])
    assert (step.span_id, step.otel_trace_id, step.parent_span_id) == (ours["id"], ours["trace"], ours["parent"])
    attributes = ours["attributes"]
    assert (attributes["gen_ai.usage.input_tokens"], attributes["escapement.step"]) == (
        step.attributes["gen_ai.usage.input_tokens"],
        1,
    )
    assert "a secret plan" not in json.dumps(spans)
    assert not attributes.keys() & semconv.PAYLOAD


def test_without_a_provider_ours_becomes_the_global_one(provider: Provider, store: Path) -> None:
    result = application(
        provider,
        """
        with escapement.init("agent") as run:
            trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
            with trace.get_tracer("app").start_as_current_span("tool") as span:
                span.set_attribute("answer", 42)
                ask("a secret plan")
        with trace.get_tracer("app").start_as_current_span("afterwards"):
            pass
        print(json.dumps({"id": run.trace_id, "spans": exported()}))
        """,
    )
    row = SpanStore(store).load(str(result["id"]))
    (step,) = row.steps
    (tool,) = row.spans
    assert (tool["name"], tool["attributes"], tool["scope"]) == ("tool", {"answer": 42}, "app")
    assert step.parent_span_id == tool["span_id"]
    names = [span["name"] for span in result["spans"]]  # type: ignore[attr-defined]
    assert names == ["chat gpt-4o", "tool", "agent", "afterwards"]
    assert "a secret plan" not in json.dumps(result["spans"])


def test_a_recording_is_not_telemetry_that_can_be_switched_off(provider: Provider, store: Path) -> None:
    limits = {
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "1",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    for environment in ({"OTEL_SDK_DISABLED": "true"}, limits):
        result = application(
            provider,
            """
            with escapement.init("agent") as run:
                text = ask("hello").choices[0].message.content
            print(json.dumps({"id": run.trace_id, "text": text}))
            """,
            **environment,
        )
        (step,) = SpanStore(store).load(str(result["id"])).steps
        assert json.loads(step.body())["choices"][0]["message"]["content"] == result["text"]


def test_replayed_calls_are_marked_in_the_applications_trace(provider: Provider) -> None:
    result = application(
        provider,
        """
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        with escapement.init("agent") as run:
            ask("hello")
        exporter.clear()
        with escapement.replay(run.trace_id, strict_replay=True):
            ask("hello")
        print(json.dumps({"spans": exported()}))
        """,
    )
    (span,) = result["spans"]  # type: ignore[misc]
    assert (span["name"], span["attributes"]["escapement.mode"]) == ("chat gpt-4o", "replay")
