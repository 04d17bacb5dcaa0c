"""What Escapement says by the GenAI conventions: names, types, values, and that the checker would see it if it did not."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import escapement
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement_exporters.metrics import measuring
from escapement_exporters.otlp import documents
from tests import conventions
from tests.conventions import complaints
from tests.provider import Provider
from tests.test_otlp_json import attributes, parsed, spans

ROOT = Path(__file__).parent.parent
NAMES = {
    value
    for name, value in vars(semconv).items()
    if isinstance(value, str) and value.startswith(("gen_ai.", "openai.", "server.", "error.")) and "METRIC" not in name
}
METRICS = {semconv.CLIENT_TOKEN_USAGE, semconv.CLIENT_OPERATION_DURATION, semconv.CLIENT_TIME_TO_FIRST_CHUNK}

CALL: dict[str, Any] = {
    "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
    "gen_ai.request.temperature": 0.5, "gen_ai.request.max_tokens": 9, "gen_ai.response.finish_reasons": ["stop"],
    "server.address": "api.openai.com", "server.port": 443, "escapement.step": 1,
}  # fmt: skip


def test_every_name_in_the_code_is_one_that_is_checked_and_documented() -> None:
    assert set(conventions.TYPES) - {"openai.api.type"} == NAMES - METRICS
    page = (ROOT / "docs" / "conventions.md").read_text()
    documented = set(re.findall(r"`((?:gen_ai|openai|server|error)\.[\w.]+)`", page))
    assert documented == NAMES - METRICS - {semconv.TOKEN_TYPE}
    assert f"`{semconv.VERSION}`" in page
    for value in conventions.OURS["gen_ai.provider.name"]:
        assert f"`{value}`" in page


def test_names_and_values_are_those_that_packages_publish() -> None:
    """The package of the conventions is frozen at the state before they moved; what is newer is in the instrumentors'."""
    from opentelemetry.semconv._incubating.attributes import error_attributes, gen_ai_attributes, server_attributes
    from opentelemetry.semconv._incubating.attributes import openai_attributes as of_openai
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
    from opentelemetry.util import genai

    modules = (error_attributes, gen_ai_attributes, server_attributes, of_openai)
    published = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    sources = "".join(path.read_text() for path in Path(genai.__path__[0]).rglob("*.py"))
    assert [name for name in sorted(set(conventions.TYPES) - published) if f'"{name}"' not in sources] == []
    assert {value for name, value in vars(gen_ai_metrics).items() if name.startswith("GEN_AI_")} >= METRICS
    for name, enum in (
        ("gen_ai.provider.name", gen_ai_attributes.GenAiProviderNameValues),
        ("gen_ai.operation.name", gen_ai_attributes.GenAiOperationNameValues),
        ("gen_ai.output.type", gen_ai_attributes.GenAiOutputTypeValues),
        ("gen_ai.token.type", gen_ai_attributes.GenAiTokenTypeValues),
    ):
        assert {member.value for member in enum} >= conventions.WELL_KNOWN[name] - {"plan", "moonshot_ai", "retrieval",
                                                                                  "invoke_workflow", "fetch_response"}, name  # fmt: skip


def test_no_name_is_one_that_was_given_up() -> None:
    """Every attribute of the frozen package says that it has moved; of those given up it says by what, or that it is gone."""
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

    source = inspect.getsource(gen_ai_attributes)
    notes = re.findall(r'^\w+: Final = "([\w.]+)"\n"""\n(.*?)"""', source, re.S | re.M)
    given_up = {name for name, note in notes if re.search(r"Deprecated: (Replaced|Removed)", note)}
    assert {"gen_ai.system", "gen_ai.usage.prompt_tokens"} <= given_up
    assert given_up & set(conventions.TYPES) == set()


def test_metrics_have_the_units_and_bounds_that_instrumentors_use() -> None:
    from opentelemetry.util.genai._instruments import _Instruments

    readers = InMemoryMetricReader(), InMemoryMetricReader()
    theirs, ours = (MeterProvider([reader], shutdown_on_exit=False) for reader in readers)
    made = _Instruments(theirs.get_meter("theirs"))
    for instrument in (made.token_usage, made.operation_duration, made.time_to_first_chunk):
        instrument.record(1)
    for name in METRICS:
        measuring._instruments(ours)[name].record(1)
    told = [
        {
            (metric.name, metric.unit, tuple(point.explicit_bounds))
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }
        for reader in readers
    ]
    assert told[0] == told[1]
    assert {name for name, _, _ in told[0]} == METRICS
    theirs.shutdown()
    ours.shutdown()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"gen_ai.system": "openai"}, "gen_ai.system is not in the conventions"),
        ({"gen_ai.usage.prompt_tokens": 3}, "gen_ai.usage.prompt_tokens is not in the conventions"),
        ({"llm.model_name": "gpt-4o"}, "llm.model_name is not in the conventions"),
        (
            {"gen_ai.provider.name": "groq", "openai.response.service_tier": "flex"},
            "openai.response.service_tier is of OpenAI only",
        ),
        ({"gen_ai.request.top_k": 3.0}, "gen_ai.request.top_k should be a int, not 3.0"),
        ({"gen_ai.request.temperature": 1}, "gen_ai.request.temperature should be a double, not 1"),
        ({"gen_ai.request.max_tokens": 9.0}, "gen_ai.request.max_tokens should be a int, not 9.0"),
        ({"gen_ai.usage.input_tokens": True}, "gen_ai.usage.input_tokens should be a int, not True"),
        ({"gen_ai.response.finish_reasons": "stop"}, "gen_ai.response.finish_reasons should be a string[], not 'stop'"),
        ({"gen_ai.response.finish_reasons": [1]}, "gen_ai.response.finish_reasons should be a string[], not [1]"),
        ({"gen_ai.provider.name": "OpenAI"}, "gen_ai.provider.name has no value 'OpenAI'"),
        ({"gen_ai.operation.name": "talk"}, "gen_ai.operation.name has no value 'talk'"),
        ({"gen_ai.provider.name": None}, "chat requires gen_ai.provider.name"),
        ({"gen_ai.operation.name": None}, "gen_ai.operation.name is missing"),
        ({"gen_ai.request.model": None}, "chat requires gen_ai.request.model"),
        ({"gen_ai.request.model": "gpt-5"}, "it is called 'chat gpt-4o', and not 'chat gpt-5'"),
        ({"server.port": None}, "server.address requires server.port"),
    ],
)
def test_the_checker_sees_what_is_wrong(change: dict[str, Any], complaint: str) -> None:
    assert complaints("chat gpt-4o", "CLIENT", CALL) == []
    changed = {name: value for name, value in {**CALL, **change}.items() if value is not None}
    assert complaint in complaints("chat gpt-4o", "CLIENT", changed)


def test_the_checker_sees_kinds_and_names() -> None:
    assert complaints("chat gpt-4o", "INTERNAL", CALL) == ["a span of chat is CLIENT, not INTERNAL"]
    tool = {"gen_ai.operation.name": "execute_tool"}
    assert complaints("execute_tool search", "INTERNAL", tool) == [
        "execute_tool requires gen_ai.tool.name",
        "it is called 'execute_tool search', and not 'execute_tool'",
    ]
    other = {"gen_ai.operation.name": "files"}
    assert complaints("files", "INTERNAL", other) == [
        "a span of files is CLIENT, not INTERNAL",
        "files requires gen_ai.provider.name",
    ]
    searched = {"gen_ai.operation.name": "retrieval"}
    assert complaints("retrieval docs", "INTERNAL", searched) == []
    assert complaints("retrieval", "CLIENT", searched) == ["retrieval requires gen_ai.provider.name"]
    assert complaints("retrieval", "SERVER", searched) == [
        "a span of retrieval is CLIENT, not SERVER",
        "retrieval requires gen_ai.provider.name",
    ]
    fetched = {"gen_ai.operation.name": "fetch_response", "gen_ai.provider.name": "openai"}
    assert complaints("fetch_response", "CLIENT", fetched) == ["fetch_response requires gen_ai.response.id"]
    assert complaints("fetch_response", "CLIENT", fetched, answered=False) == []


def test_numbers_are_of_the_type_that_they_should_be_however_they_are_written(
    client: openai.OpenAI, store: Path
) -> None:
    with escapement.init() as trace:
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], temperature=1, top_p=1, max_tokens=9,
            seed=7, presence_penalty=0, service_tier="flex", extra_body={"top_k": 3.0},
        )  # fmt: skip
    (step,) = SpanStore(store).load(trace.trace_id).steps
    asked = {
        name: value for name, value in step.attributes.items() if name.startswith(("gen_ai.request.", "openai.req"))
    }
    assert [(name, type(value), value) for name, value in sorted(asked.items())] == [
        ("gen_ai.request.max_tokens", int, 9),
        ("gen_ai.request.model", str, "gpt-4o"),
        ("gen_ai.request.presence_penalty", float, 0.0),
        ("gen_ai.request.seed", int, 7),
        ("gen_ai.request.temperature", float, 1.0),
        ("gen_ai.request.top_k", int, 3),
        ("gen_ai.request.top_p", float, 1.0),
        ("openai.request.service_tier", str, "flex"),
    ]


def test_what_is_exported_keeps_to_them(client: openai.OpenAI, provider: Provider, store: Path) -> None:
    with escapement.init("agent") as trace:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], temperature=1)
        list(
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], stream=True,
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
        client.embeddings.create(model="text-embedding-3-small", input="Hi")
        client.images.generate(model="gpt-image-1", prompt="a clock")
        client.responses.create(model="gpt-4o", input="Hi")
    row = SpanStore(store).load(trace.trace_id)
    for content in (False, True):
        root, *exported = spans(parsed(documents.export(row, content=content)))
        assert root.name == "agent"
        assert len(exported) == 5
        kinds = {2: "SERVER", 3: "CLIENT", 1: "INTERNAL"}
        for span in exported:
            assert complaints(span.name, kinds[span.kind], attributes(span.attributes)) == [], span.name
