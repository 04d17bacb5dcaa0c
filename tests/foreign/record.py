"""Runs a program under an instrumentor of others, with Escapement off: what it said, and the spans as OTLP.

python -m tests.foreign.record traceloop chat out.json out.pb
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

INSTRUMENTORS = {
    "traceloop": {
        "openai": "opentelemetry.instrumentation.openai:OpenAIInstrumentor",
        "anthropic": "opentelemetry.instrumentation.anthropic:AnthropicInstrumentor",
    },
    "genai": {
        "openai": "opentelemetry.instrumentation.genai.openai:OpenAIInstrumentor",
        "anthropic": "opentelemetry.instrumentation.genai.anthropic:AnthropicInstrumentor",
    },
    "openinference": {
        "openai": "openinference.instrumentation.openai:OpenAIInstrumentor",
        "anthropic": "openinference.instrumentation.anthropic:AnthropicInstrumentor",
    },
    "anthropic-sdk": {},
}
_CONTENT = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY",
    "ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content",
    "OTEL_SERVICE_NAME": "weather",
}


def record(dialect: str, program: str) -> tuple[list[dict[str, Any]], bytes]:
    """What the program said, and an `ExportTraceServiceRequest` of its spans."""
    os.environ.update(_CONTENT)
    from opentelemetry import trace as otel
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from tests.foreign import agent
    from tests.provider import Provider

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    otel.set_tracer_provider(provider)
    for name in INSTRUMENTORS[dialect].values():
        module, _, kind = name.partition(":")
        getattr(importlib.import_module(module), kind)().instrument()
    with Provider() as running, otel.get_tracer("app").start_as_current_span("weather agent"):
        said = agent.run(program, running.base_url)
    return said, encode_spans(exporter.get_finished_spans()).SerializeToString()


def as_json(data: bytes) -> dict[str, Any]:
    """The message as OTLP/JSON: ids in hex, where protobuf's own JSON has base64."""
    from google.protobuf import json_format
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    def converted(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: base64.b64decode(item).hex() if key in ("traceId", "spanId", "parentSpanId") else converted(item)
                for key, item in value.items()
            }
        return [converted(item) for item in value] if isinstance(value, list) else value

    found = json_format.MessageToDict(ExportTraceServiceRequest.FromString(data), use_integers_for_enums=True)
    document: dict[str, Any] = converted(found)
    return document


def main() -> None:
    dialect, program, to, raw = sys.argv[1:]
    said, data = record(dialect, program)
    document = {"said": said, "otlp": as_json(data)}
    Path(to).write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    Path(raw).write_bytes(data)


if __name__ == "__main__":
    main()
