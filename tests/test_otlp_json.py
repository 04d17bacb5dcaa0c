"""OTLP/JSON: what a collector would read of it, by the protocol's own definitions."""

from __future__ import annotations

import base64
import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import openai
import pytest
from google.protobuf import json_format
from inline_snapshot import snapshot
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import escapement
from escapement.engine import usage
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement_exporters.otlp import documents
from escapement_exporters.spans import IN_FLIGHT
from tests.conftest import ask
from tests.provider import Provider
from tests.test_cli import Cli, cli

__all__ = ["cli"]  # a fixture


def parsed(document: Any) -> ExportTraceServiceRequest:
    """The message that OTLP/JSON stands for. Protobuf's own JSON has ids in base64, where OTLP's has hex."""

    def converted(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: base64.b64encode(bytes.fromhex(item)).decode()
                if key in ("traceId", "spanId", "parentSpanId")
                else converted(item)
                for key, item in value.items()
            }
        return [converted(item) for item in value] if isinstance(value, list) else value

    return json_format.ParseDict(converted(json.loads(json.dumps(document))), ExportTraceServiceRequest())


def plain(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return attributes(value.kvlist_value.values)
        case None:
            return None
        case kind:
            return getattr(value, kind)


def attributes(pairs: Any) -> dict[str, Any]:
    found = {pair.key: plain(pair.value) for pair in pairs}
    assert len(found) == len(pairs), "an attribute is there twice"
    return found


def spans(message: ExportTraceServiceRequest) -> list[Span]:
    return [span for of in message.resource_spans for scope in of.scope_spans for span in scope.spans]


def exported(store: Path, trace_id: str, content: bool = False) -> ExportTraceServiceRequest:
    return parsed(documents.export(SpanStore(store).load(trace_id), content=content, prices=Prices()))


def test_a_run(client: openai.OpenAI, provider: Provider, store: Path) -> None:
    from opentelemetry import trace as otel

    with escapement.init("agent", tags=["x"], metadata={"user": 7}) as trace:
        ask(client, "a secret question")
        with pytest.raises(openai.BadRequestError):
            ask(client, "bad", model="error-400")
        with otel.get_tracer("theirs").start_as_current_span("other", attributes={"n": 1}) as other:
            other.add_event("happened", {"k": "v"})
            ask(client, "inside")
    row = SpanStore(store).load(trace.trace_id)
    message = exported(store, trace.trace_id)
    (resource,) = message.resource_spans
    assert attributes(resource.resource.attributes) == {
        "service.name": "agent",
        "telemetry.sdk.name": "escapement",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": row.origin["escapement"],
        "host.name": row.origin["host"],
        "process.pid": row.origin["pid"],
        "process.runtime.version": row.origin["python"],
        "escapement.trace.id": trace.trace_id,
        "escapement.trace.name": "agent",
        "escapement.trace.status": "completed",
        "escapement.trace.tags": ["x"],
        "escapement.trace.metadata": '{"user":7}',
    }
    assert [(scope.scope.name, [span.name for span in scope.spans]) for scope in resource.scope_spans] == [
        ("escapement", ["agent", "chat gpt-4o", "chat error-400", "chat gpt-4o"]),
        ("theirs", ["other"]),
    ]
    root, first, bad, inside, other_span = spans(message)
    assert root.span_id.hex() == row.span_id
    assert not root.parent_span_id
    assert (root.kind, root.status.code) == (Span.SPAN_KIND_INTERNAL, Status.STATUS_CODE_UNSET)
    assert {span.trace_id.hex() for span in spans(message)} == {row.otel_trace_id}
    assert root.start_time_unix_nano == row.created
    assert root.end_time_unix_nano == row.ended
    for span, step in zip((first, bad, inside), row.steps, strict=True):
        assert (span.span_id.hex(), span.kind) == (step.span_id, Span.SPAN_KIND_CLIENT)
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (step.start, step.end)
    assert first.parent_span_id == bad.parent_span_id == root.span_id
    assert inside.parent_span_id == other_span.span_id
    assert (bad.status.code, first.status.code) == (Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET)
    body = row.steps[0].body()
    assert attributes(first.attributes) == {
        name: value
        for name, value in row.steps[0].attributes.items()
        if name not in semconv.PAYLOAD | {semconv.REQUEST_HEADERS, semconv.RESPONSE_HEADERS}
    } | {
        semconv.RESPONSE_BYTES: len(body),
        semconv.RESPONSE_HASH: blake2b(body, digest_size=16).hexdigest(),
        semconv.CALL_FAILED: 0,
        semconv.CALL_COST: usage.cost_of(row.steps[0].attributes, row.steps[0].start, Prices()),
    }
    assert attributes(other_span.attributes) == {"n": 1}
    (event,) = other_span.events
    assert (event.name, attributes(event.attributes)) == ("happened", {"k": "v"})
    assert "secret question" not in str(message)


def test_content_when_asked(client: openai.OpenAI, store: Path) -> None:
    with escapement.init() as trace:
        answer = ask(client, "a secret question")
    row = SpanStore(store).load(trace.trace_id)
    found = attributes(spans(exported(store, trace.trace_id, content=True))[1].attributes)
    assert found[semconv.REQUEST_BODY].encode() == row.request_body(row.steps[0])
    assert found[semconv.RESPONSE_BODY].encode() == row.steps[0].body()
    assert json.loads(found[semconv.RESPONSE_BODY])["choices"][0]["message"]["content"] == answer
    assert json.loads(found[semconv.RESPONSE_HEADERS]) == row.steps[0].attributes[semconv.RESPONSE_HEADERS]


def test_a_fork_points_to_what_it_was_served(client: openai.OpenAI, store: Path) -> None:
    with escapement.init() as parent:
        ask(client, "one")
    with escapement.replay(parent.trace_id) as fork:
        ask(client, "one")
        escapement.fork()
        ask(client, "two")
    original = SpanStore(store).load(parent.trace_id)
    row = SpanStore(store).load(fork.trace_id)
    root, served, live = spans(exported(store, fork.trace_id))
    assert {span.trace_id.hex() for span in (root, served, live)} == {row.otel_trace_id}
    assert served.parent_span_id == live.parent_span_id == root.span_id
    (link,) = served.links
    assert (link.trace_id.hex(), link.span_id.hex()) == (original.otel_trace_id, original.steps[0].span_id)
    assert served.span_id.hex() != original.steps[0].span_id
    found = attributes(served.attributes)
    assert (found[semconv.MODE], found[semconv.SERVED_FROM]) == ("replay", f"{parent.trace_id} step 1")
    assert not live.links
    # It was paid for once, and so it counts once.
    assert not [name for name in found if name.startswith("gen_ai.usage.")]
    assert attributes(live.attributes)["gen_ai.usage.input_tokens"] > 0


def row_of(*steps: StepRow, spans: Any = (), **values: Any) -> TraceRow:
    made: dict[str, Any] = {
        "trace_id": "tr_0123456789ab", "name": "agent", "tags": (), "metadata": {}, "mode": "record", "parent": None,
        "created": 1000, "status": "completed", "ended": 9000, "otel_trace_id": "0123456789ab" + "1" * 20,
        "span_id": "a" * 16, "origin": {"escapement": "1.2.3", "host": "h", "pid": 7, "python": "3.14.0"},
    }  # fmt: skip
    return TraceRow(**(made | values), steps=list(steps), spans=spans)


def step_of(number: int, end: int | None, **attributes: Any) -> StepRow:
    return StepRow(
        step=number, lane="main", fingerprint="1:ff", name="chat m", start=number * 1000, end=end,
        otel_trace_id="0123456789ab" + "1" * 20, span_id=f"{number:016x}", parent_span_id="a" * 16,
        attributes={semconv.STEP: number, semconv.LANE: "main"} | {key.replace("__", "."): value for key, value in attributes.items()},
        trace_id="tr_0123456789ab",
    )  # fmt: skip


def test_what_has_no_end_has_no_length() -> None:
    root, step = spans(parsed(documents.export(row_of(step_of(3, None), status="interrupted", ended=None))))
    assert (step.start_time_unix_nano, step.end_time_unix_nano) == (3000, 3000)
    assert attributes(step.attributes)[IN_FLIGHT] is True
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (1000, 3000)
    assert (root.status.code, root.status.message) == (Status.STATUS_CODE_ERROR, "interrupted")


def test_a_recording_that_lost_its_head() -> None:
    gone = StepRow(
        1, "main", "", "", 5, None, "", "", "", {semconv.MODE: "replay"}, "tr_0123456789ab", ("tr_" + "f" * 12, 2)
    )
    message = parsed(
        documents.export(row_of(gone, created=0, ended=None, otel_trace_id="", span_id="", origin={}, name=""))
    )
    root, step = spans(message)
    assert (root.name, step.name) == ("escapement", "(gone)")
    assert root.trace_id.hex() == step.trace_id.hex() == "0123456789ab" + "0" * 20
    assert len(root.span_id) == len(step.span_id) == 8
    assert step.parent_span_id == root.span_id


def test_clocks_that_went_back() -> None:
    _, step = spans(parsed(documents.export(row_of(step_of(3, 2999)))))
    assert step.end_time_unix_nano == step.start_time_unix_nano == 3000


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("gen_ai.prompt.0.content", "said", False),
        ("gen_ai.completion.0.content", "said", False),
        ("gen_ai.input.messages", "said", False),
        ("gen_ai.output.messages", ["said"], False),
        ("gen_ai.system_instructions", "said", False),
        ("gen_ai.tool.call.arguments", "said", False),
        ("llm.input_messages.0.message.content", "said", False),
        ("llm.prompts", "said", False),
        ("input.value", "said", False),
        ("output.value", "said", False),
        ("traceloop.entity.input", "said", False),
        ("retrieval.documents.0.document.content", "said", False),
        ("escapement.response.body", "said", False),
        ("whatever", "said" * 300, False),
        ("exception.stacktrace", "File" * 300, True),
        ("gen_ai.request.model", "gpt", True),
        ("gen_ai.usage.input_tokens", 7, True),
        ("llm.token_count.prompt", 7, True),
        ("llm.model_name", "gpt", True),
        ("tool.name", "search", True),
        ("traceloop.entity.name", "agent", True),
        ("http.request.method", "POST", True),
    ],
)
def test_what_others_say_was_said_is_left_out(name: str, value: Any, kept: bool) -> None:
    record = {
        "record": "span", "trace_id": "1" * 32, "span_id": "b" * 16, "name": "theirs", "start": 1, "end": 2,
        "attributes": {name: value}, "events": [{"name": "gen_ai.user.message", "time": 1, "attributes": {"content": "said"}}],
    }  # fmt: skip
    for content in (False, True):
        (*_, span) = spans(parsed(documents.export(row_of(spans=[record]), content=content)))
        assert (name in attributes(span.attributes)) == (kept or content)
        assert len(span.events[0].attributes) == content


def test_the_document_itself() -> None:
    """Ids are hex, kinds and codes numbers, 64-bit numbers text: what plain protobuf JSON would have otherwise."""
    step = step_of(
        2, 8000, gen_ai__request__model="m", gen_ai__usage__input_tokens=2**40, gen_ai__request__temperature=0.5,
        gen_ai__request__stop_sequences=["a", "b"], gen_ai__request__stream=True, error__type="ReadError",
        escapement__failure__message="cut", escapement__failure__causes=[["ssl.SSLError", "x"]], big=2**64 - 1,
        nested={"k": [None, 1]}, nothing=None, escapement__response__body="said",
    )  # fmt: skip
    assert documents.export(row_of(step)) == snapshot(
        {
            "resourceSpans": [
                {
                    "resource": {
                        "attributes": [
                            {"key": "service.name", "value": {"stringValue": "agent"}},
                            {"key": "telemetry.sdk.name", "value": {"stringValue": "escapement"}},
                            {"key": "telemetry.sdk.language", "value": {"stringValue": "python"}},
                            {"key": "telemetry.sdk.version", "value": {"stringValue": "1.2.3"}},
                            {"key": "host.name", "value": {"stringValue": "h"}},
                            {"key": "process.pid", "value": {"intValue": "7"}},
                            {"key": "process.runtime.version", "value": {"stringValue": "3.14.0"}},
                            {"key": "escapement.trace.id", "value": {"stringValue": "tr_0123456789ab"}},
                            {"key": "escapement.trace.name", "value": {"stringValue": "agent"}},
                            {"key": "escapement.trace.status", "value": {"stringValue": "completed"}},
                        ]
                    },
                    "scopeSpans": [
                        {
                            "scope": {"name": "escapement", "version": "1.2.3"},
                            "spans": [
                                {
                                    "traceId": "0123456789ab11111111111111111111",
                                    "spanId": "aaaaaaaaaaaaaaaa",
                                    "name": "agent",
                                    "kind": 1,
                                    "startTimeUnixNano": "1000",
                                    "endTimeUnixNano": "9000",
                                    "attributes": [
                                        {"key": "escapement.trace.id", "value": {"stringValue": "tr_0123456789ab"}},
                                        {"key": "escapement.trace.name", "value": {"stringValue": "agent"}},
                                        {"key": "escapement.mode", "value": {"stringValue": "record"}},
                                        {"key": "escapement.trace.status", "value": {"stringValue": "completed"}},
                                    ],
                                },
                                {
                                    "traceId": "0123456789ab11111111111111111111",
                                    "spanId": "0000000000000002",
                                    "parentSpanId": "aaaaaaaaaaaaaaaa",
                                    "name": "chat m",
                                    "kind": 3,
                                    "startTimeUnixNano": "2000",
                                    "endTimeUnixNano": "8000",
                                    "attributes": [
                                        {"key": "big", "value": {"stringValue": "18446744073709551615"}},
                                        {"key": "error.type", "value": {"stringValue": "ReadError"}},
                                        {
                                            "key": "escapement.failure.causes",
                                            "value": {"stringValue": '[["ssl.SSLError","x"]]'},
                                        },
                                        {"key": "escapement.failure.message", "value": {"stringValue": "cut"}},
                                        {"key": "escapement.lane", "value": {"stringValue": "main"}},
                                        {
                                            "key": "escapement.response.hash",
                                            "value": {"stringValue": "437de990bcc4d45dd563dc56768b61f6"},
                                        },
                                        {"key": "escapement.response.size", "value": {"intValue": "4"}},
                                        {"key": "escapement.step", "value": {"intValue": "2"}},
                                        {"key": "gen_ai.request.model", "value": {"stringValue": "m"}},
                                        {
                                            "key": "gen_ai.request.stop_sequences",
                                            "value": {
                                                "arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}
                                            },
                                        },
                                        {"key": "gen_ai.request.stream", "value": {"boolValue": True}},
                                        {"key": "gen_ai.request.temperature", "value": {"doubleValue": 0.5}},
                                        {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "1099511627776"}},
                                        {
                                            "key": "nested",
                                            "value": {
                                                "kvlistValue": {
                                                    "values": [
                                                        {
                                                            "key": "k",
                                                            "value": {
                                                                "arrayValue": {"values": [{}, {"intValue": "1"}]}
                                                            },
                                                        }
                                                    ]
                                                }
                                            },
                                        },
                                        {"key": "escapement.call.failed", "value": {"intValue": "1"}},
                                    ],
                                    "status": {"code": 2, "message": "cut"},
                                },
                            ],
                        }
                    ],
                }
            ]
        }
    )


def test_the_command(cli: Cli, client: openai.OpenAI, store: Path, tmp_path: Path) -> None:
    with escapement.init("agent") as trace:
        ask(client, "a secret question")
    done = cli("export", "@last", "--format", "otlp")
    assert (done.code, done.err) == (0, "")
    assert parsed(json.loads(done.out)) == exported(store, trace.trace_id)
    assert "secret" not in done.out
    assert cli("export", "@last", "--format", "otlp", "--no-content").out == done.out
    done = cli("export", "@last", "--format", "otlp", "--content", "-o", "spans.json")
    assert done.err.startswith(f"Wrote {trace.trace_id} (1 step) to spans.json, ")
    assert "secret question" in (tmp_path / "spans.json").read_text()
    done = cli("import", "spans.json")
    assert (done.code, done.out) == (1, "")
    assert f"holds trace {trace.trace_id}, and the store has another one of that id" in done.err
