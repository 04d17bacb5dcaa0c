"""OTLP of others: imported, and replayed to the end with what was said then, and no request.

The files in `golden/foreign` were written by the real instrumentors (`tests.foreign.record`), with Escapement off.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot

import escapement
from escapement.engine import conversation
from escapement.store import documents, exchange
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement_exporters.foreign import decoding, rebuilding
from tests.conftest import ask
from tests.foreign import agent
from tests.provider import Provider
from tests.test_cli import Cli, cli
from tests.test_otlp_json import parsed

__all__ = ["cli"]  # a fixture

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "foreign"
FILES = sorted(path.stem for path in GOLDEN.glob("*.json"))


def golden(name: str) -> tuple[list[agent.Said], dict[str, Any]]:
    document = json.loads((GOLDEN / f"{name}.json").read_text())
    return document["said"], document["otlp"]


def imported(cli: Cli, path: Path, data: bytes, *options: str) -> TraceRow:
    path.write_bytes(data)
    trace_id = cli("import", str(path), *options).out.split()[-1]
    return SpanStore(".escapement").load(trace_id)


def without_unknown_ids(row: TraceRow, said: list[agent.Said]) -> list[agent.Said]:
    """What was said, without the ids of calls where the spans of the trace do not hold them."""
    if all("response.tool_call.id" not in step.attributes[semconv.REBUILT] for step in row.steps):
        return said
    return [{**one, "calls": [{**call, "id": ""} for call in one["calls"]]} for one in said]


def replayed(trace_id: str, program: str, base_url: str) -> tuple[list[agent.Said], list[str]]:
    """What the program says in a strict replay, and the warnings that it gets."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with escapement.replay(trace_id, strict_replay=True):
            said = agent.run(program, base_url)
    return said, [str(one.message) for one in told if issubclass(one.category, escapement.EscapementWarning)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_what_others_recorded_is_replayed(name: str, form: str, cli: Cli, tmp_path: Path, provider: Provider) -> None:
    said, otlp = golden(name)
    data = json.dumps(otlp).encode() if form == "json" else parsed(otlp).SerializeToString()
    row = imported(cli, tmp_path / "spans", data)
    assert [step.answered for step in row.steps] == [True] * len(said)
    again, told = replayed(row.trace_id, name.rpartition("-")[2], provider.base_url)
    assert without_unknown_ids(row, again) == without_unknown_ids(row, said)
    assert (without_unknown_ids(row, said) == said) == (name != "traceloop-responses")
    assert provider.count == 0
    assert [one for one in told if "rebuilt" in one] == told
    assert len(told) == 1


def test_what_a_span_does_not_hold_is_listed(cli: Cli, tmp_path: Path) -> None:
    found = {}
    for name in FILES:
        row = imported(cli, tmp_path / name, json.dumps(golden(name)[1]).encode())
        found[name] = sorted({missing for step in row.steps for missing in step.attributes[semconv.REBUILT]})
    assert found == snapshot(
        {
            "anthropic-sdk-messages": [
                "request.body",
                "request.parameters",
                "request.tools",
                "response.body",
                "response.events",
                "response.headers",
            ],
            "genai-chat": [
                "request.body",
                "request.parameters",
                "response.body",
                "response.events",
                "response.headers",
                "response.usage",
            ],
            "genai-messages": [
                "request.body",
                "request.parameters",
                "response.body",
                "response.events",
                "response.headers",
            ],
            "genai-responses": [
                "request.body",
                "request.parameters",
                "response.body",
                "response.events",
                "response.headers",
            ],
            "openinference-chat": ["request.body", "response.events", "response.headers"],
            "openinference-messages": ["request.body", "response.events", "response.headers"],
            "openinference-responses": ["request.body", "response.events", "response.headers"],
            "traceloop-chat": [
                "request.body",
                "request.parameters",
                "response.body",
                "response.events",
                "response.headers",
                "response.usage",
            ],
            "traceloop-messages": [
                "request.body",
                "request.parameters",
                "response.body",
                "response.events",
                "response.headers",
            ],
            "traceloop-responses": [
                "request.body",
                "request.parameters",
                "response.body",
                "response.events",
                "response.headers",
                "response.tool_call.id",
            ],
        }
    )


def test_everything_that_may_be_missing_is_explained() -> None:
    source = "".join(path.read_text() for path in (ROOT / "exporters" / "escapement_exporters").rglob("*.py"))
    names = set(re.findall(r'"((?:request|response)(?:\.[a-z_]+)*)"', source)) - {"request", "response_model"}
    text = (ROOT / "docs" / "otlp-import.md").read_text()
    table = text[text.index("| name | what is not known |") :]
    assert names == set(re.findall(r"`((?:request|response)(?:\.[\w.]*)?)`", table.partition("\n\n")[0]))


def test_show_marks_what_was_rebuilt(cli: Cli, tmp_path: Path) -> None:
    row = imported(cli, tmp_path / "spans", json.dumps(golden("anthropic-sdk-messages")[1]).encode())
    shown = cli("show", row.trace_id, "--content").out
    assert shown.count("  rebuilt") == len(row.steps) * 2
    assert "rebuilt without request.body, request.tools" in shown
    steps = json.loads(cli("show", row.trace_id, "--json").out)["steps"]
    assert [step["rebuilt"] for step in steps] == [step.attributes[semconv.REBUILT] for step in row.steps]


def test_the_spans_of_one_call_are_one_step(cli: Cli, tmp_path: Path) -> None:
    """Anthropic's SDK and an instrumentor both tell of a call. It is counted once, and the other is still a span."""
    for name in ("traceloop-messages", "genai-messages", "openinference-messages"):
        said, otlp = golden(name)
        row = imported(cli, tmp_path / name, json.dumps(otlp).encode())
        assert len(row.steps) == len(said)
        assert [span["scope"] for span in row.spans] == ["com.anthropic.sdk.python"] * len(said)


def test_a_changed_prompt_is_a_divergence(
    cli: Cli, tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = imported(cli, tmp_path / "spans", json.dumps(golden("traceloop-chat")[1]).encode())
    monkeypatch.setattr(agent, "MODEL", "gpt-4o-mini")
    with (
        pytest.warns(escapement.EscapementWarning, match="rebuilt"),
        pytest.raises(escapement.ReplayDivergenceError) as told,
        escapement.replay(row.trace_id, strict_replay=True),
    ):
        agent.run("chat", provider.base_url)
    assert (told.value.kind, told.value.field) == ("changed_model", "model")
    assert provider.count == 0


def test_an_original_is_matched_by_its_bytes(client: openai.OpenAI, reader: SpanStore) -> None:
    """What costs nothing for ordinary traces: nothing of it is reached."""
    with escapement.init("agent") as trace:
        ask(client)
    assert conversation.kept(reader.load(trace.trace_id).steps) == frozenset()


def test_an_error_with_a_known_status_is_answered(cli: Cli, tmp_path: Path, client: openai.OpenAI) -> None:
    span = one_call(error=True)
    row = imported(cli, tmp_path / "spans", json.dumps(span).encode())
    assert [(step.attributes[semconv.STATUS], step.answered) for step in row.steps] == [(429, True)]
    with (
        pytest.warns(escapement.EscapementWarning, match="rebuilt"),
        escapement.replay(row.trace_id),
        pytest.raises(openai.RateLimitError, match="slow down"),
    ):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])


def test_a_span_without_content_has_no_answer(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "spans"
    path.write_text(json.dumps(one_call(content=False)))
    done = cli("import", str(path))
    trace_id = done.out.strip()
    assert done.err == f"{path}: {trace_id} has 1 of 1 step without an answer: their spans do not hold it\n"
    (step,) = SpanStore(".escapement").load(trace_id).steps
    assert not step.answered
    assert step.attributes[semconv.REBUILT] == ["request.body", "request.messages", "request.parameters", "response"]


def test_secrets_are_scrubbed_as_they_are_when_we_record(cli: Cli, tmp_path: Path) -> None:
    key = "sk-proj-" + "a1B2" * 12
    text = json.dumps(one_call()).replace("Hello", f"My key is {key}").replace("Hi.", f"So it is {key}.")
    row = imported(cli, tmp_path / "spans", text.encode())
    (step,) = row.steps
    assert b"My key is [REDACTED" in row.request_body(step)
    assert key not in cli("export", row.trace_id).out


def test_old_traceloop(cli: Cli, tmp_path: Path, client: openai.OpenAI) -> None:
    """An attribute for each field of each message, as older versions wrote."""
    old = {
        "llm.request.type": "chat",
        "gen_ai.system": "OpenAI",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "Hello",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.finish_reason": "tool_calls",
        "gen_ai.completion.0.tool_calls.0.id": "call_1",
        "gen_ai.completion.0.tool_calls.0.name": "look",
        "gen_ai.completion.0.tool_calls.0.arguments": '{"at": 1}',
        "gen_ai.usage.prompt_tokens": 3,
        "gen_ai.usage.completion_tokens": 4,
    }
    row = imported(cli, tmp_path / "spans", json.dumps(document(span(old))).encode())
    with pytest.warns(escapement.EscapementWarning, match="rebuilt"), escapement.replay(row.trace_id):
        answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.model_dump() == {
        "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'},
    }  # fmt: skip
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)


def test_spans_without_one_around_them_are_one_trace_where_that_is_said(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    lines = [one_call(number=number) for number in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    apart = cli("import", str(path)).out.split()
    assert len(apart) == 3
    cli("delete", *apart, "--yes")
    trace_id = cli("import", str(path), "--together").out.strip()
    assert len(SpanStore(".escapement").load(trace_id).steps) == 3
    assert cli("import", str(path), "--together").err == f"{path}: {trace_id} is already in the store\n"


def test_our_own_spans_with_content_are_the_trace_again(
    cli: Cli, client: openai.OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: Provider
) -> None:
    with escapement.init("agent"):
        said = ask(client)
    cli("export", "@last", "--format", "otlp", "--content", "-o", "with.json")
    cli("export", "@last", "--format", "otlp", "-o", "without.json")
    monkeypatch.setenv("ESCAPEMENT_STORAGE_DIR", str(tmp_path / "other"))
    trace_id = cli("import", "with.json").out.strip()
    with escapement.replay(trace_id):
        assert ask(client) == said
    assert provider.count == 1
    monkeypatch.setenv("ESCAPEMENT_STORAGE_DIR", str(tmp_path / "third"))
    (step,) = SpanStore(tmp_path / "third").load(cli("import", "without.json").out.strip()).steps
    assert not step.answered
    assert step.attributes[semconv.REBUILT] == ["request.body", "response"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"resourceSpans": 7}', "the document.resourceSpans should be a list, not 7"),
        (b'{"resourceSpans": []}', "holds no spans"),
        (b'{"resourceSpans": [', "its JSON breaks off or is wrong"),
        (b'{"resourceSpans": []}\n{"resou', "line 2 is no JSON"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}', "traceId should be 32 hex digits"),
        (b"\n\xff\xff", "it is neither OTLP/JSON nor OTLP in protobuf"),
        (b"\x00\x00\x00\x09abc", "it breaks off in the message at byte 0"),
    ],
)
def test_what_is_no_otlp_is_refused(data: bytes, told: str, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "spans"
    path.write_bytes(data)
    done = cli("import", str(path))
    assert (done.code, done.out) == (1, "")
    assert told in done.err
    assert done.err.endswith("Nothing was changed\n")
    assert not (tmp_path / ".escapement").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "gen_ai.operation.name", "gen_ai.request.model", "gen_ai.input.messages", "gen_ai.output.messages",
        "gen_ai.system_instructions", "gen_ai.tool.definitions", "gen_ai.response.finish_reasons", "gen_ai.response.id",
        "gen_ai.usage.input_tokens", "gen_ai.is_streaming", "gen_ai.prompt.0.content", "gen_ai.completion.0.tool_calls",
        "openinference.span.kind", "input.value", "output.value", "llm.input_messages.0.message.role", "llm.tools.0",
        "gen_ai.response.time_to_first_chunk", "gen_ai.provider.name", "server.port",
    ]
)  # fmt: skip
TEXTS = st.sampled_from(["chat", "LLM", "gpt-4o", "anthropic", "embeddings"])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": VALUES, "parts": VALUES | st.lists(st.dictionaries(st.sampled_from(
        ["type", "content", "id", "name", "arguments", "response"]), VALUES | st.sampled_from(
            ["text", "tool_call", "tool_call_response", "blob"]), max_size=5), max_size=3)}), max_size=3
).map(lambda found: json.dumps(found))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, TEXTS | MESSAGES | VALUES | VALUES.map(lambda value: json.dumps(value))))
def test_whatever_attributes_say_a_trace_is_made(attributes: dict[str, Any]) -> None:
    made = decoding.Span("1" * 32, "2" * 16, "", "chat", "CLIENT", 1, 2, attributes)
    row = rebuilding.trace_of([made])
    again = documents.read_document(exchange.dump(exchange.export_document(row)))
    assert len(again.steps) + len(again.spans) + (again.span_id != "") == 1


def span(attributes: dict[str, Any], number: int = 1, **more: Any) -> dict[str, Any]:
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue"}
    pairs = [{"key": name, "value": {kinds[type(value)]: value}} for name, value in attributes.items()]
    identity = {"traceId": f"{number + 1:02x}" * 16, "spanId": f"{number + 1:016x}", "name": "chat", "kind": 3}
    return {**identity, "startTimeUnixNano": "1000", "endTimeUnixNano": "2000", "attributes": pairs, **more}


def document(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"scope": {"name": "theirs"}, "spans": list(spans)}]}]}


def one_call(*, content: bool = True, error: bool = False, number: int = 1) -> dict[str, Any]:
    attributes = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
    }  # fmt: skip
    if content:
        attributes["gen_ai.input.messages"] = '[{"role": "user", "parts": [{"type": "text", "content": "Hello"}]}]'
    if error:
        message = {"key": "exception.message", "value": {"stringValue": "Error code: 429 - slow down"}}
        event = {"name": "exception", "timeUnixNano": "1500", "attributes": [message]}
        return document(span(attributes, number, status={"code": 2}, events=[event]))
    if content:
        said = '[{"role": "assistant", "parts": [{"type": "text", "content": "Hi."}]}]'
        attributes["gen_ai.output.messages"] = said
    return document(span(attributes, number))
