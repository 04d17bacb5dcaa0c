"""OpenTelemetry's own conventions: the official genai instrumentors, Anthropic's SDK, and Traceloop's newer ones."""

from __future__ import annotations

from typing import Any, Final

from escapement.words import semconv
from escapement_exporters.foreign.decoding import Span
from escapement_exporters.foreign.dialects.told import (
    CHAT,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    Message,
    Told,
    as_json,
    counts,
    objects,
    text_of,
)

_USAGE: Final = {
    "input": (semconv.USAGE_INPUT_TOKENS, "gen_ai.usage.prompt_tokens"),
    "output": (semconv.USAGE_OUTPUT_TOKENS, "gen_ai.usage.completion_tokens"),
    "cache_read": (semconv.USAGE_CACHE_READ, "gen_ai.usage.cache_read_input_tokens"),
    "cache_write": (
        semconv.USAGE_CACHE_WRITE,
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
    ),
    "reasoning": (semconv.USAGE_REASONING, "gen_ai.usage.reasoning_tokens"),
}
_PARAMETERS: Final = {
    semconv.REQUEST_TEMPERATURE: "temperature",
    semconv.REQUEST_TOP_P: "top_p",
    semconv.REQUEST_TOP_K: "top_k",
    semconv.REQUEST_MAX_TOKENS: "max_tokens",
    semconv.REQUEST_SEED: "seed",
    semconv.REQUEST_FREQUENCY_PENALTY: "frequency_penalty",
    semconv.REQUEST_PRESENCE_PENALTY: "presence_penalty",
    semconv.REQUEST_PREVIOUS_RESPONSE_ID: "previous_response_id",
}
_STREAMS: Final = (semconv.REQUEST_STREAM, "gen_ai.is_streaming", "llm.is_streaming")
_OPERATIONS: Final = ("chat", "text_completion", "generate_content", "embeddings", "completion")
_ANTHROPIC: Final = "com.anthropic.sdk"


def read(span: Span) -> Told | None:
    """What a span by the conventions tells; None for one that is of no call of a model."""
    attributes = span.attributes
    operation = text_of(span, semconv.OPERATION_NAME)
    if operation not in _OPERATIONS or not text_of(span, semconv.REQUEST_MODEL):
        return None
    path = _path(span, operation)
    asked = objects(attributes.get("gen_ai.input.messages"))
    said = objects(attributes.get("gen_ai.output.messages"))
    instructions = objects(attributes.get("gen_ai.system_instructions"))
    before: list[Message] = [{"role": "system", "parts": instructions}] if instructions else []
    reasons = attributes.get(semconv.RESPONSE_FINISH_REASONS)
    finish = text_of(span, "anthropic.message.stop_reason")
    if not finish and isinstance(reasons, list) and reasons:
        finish = str(reasons[0])
    return Told(
        path=path,
        model=text_of(span, semconv.REQUEST_MODEL),
        asked=None if asked is None else [*before, *asked],
        said=[message for message in said if message.get("parts")] or None if said is not None else None,
        tools=_tools(attributes.get("gen_ai.tool.definitions")),
        parameters={name: attributes[key] for key, name in _PARAMETERS.items() if _is_plain(attributes.get(key))},
        stream=any(attributes.get(name) is True for name in _STREAMS)
        or semconv.RESPONSE_TIME_TO_FIRST_CHUNK in attributes,
        id=text_of(span, semconv.RESPONSE_ID),
        answered_by=text_of(span, semconv.RESPONSE_MODEL),
        finish=finish,
        usage=counts(span, _USAGE),
        never=("request.tools",) if span.scope.startswith(_ANTHROPIC) else (),
    )


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float)


def _path(span: Span, operation: str) -> str:
    """Which of its provider's operations it was."""
    if operation == "embeddings":
        return EMBEDDINGS
    route = text_of(span, "http.route", "url.path")
    if "anthropic" in text_of(span, semconv.PROVIDER_NAME, "gen_ai.system").lower() or route.endswith("/messages"):
        return MESSAGES
    api = text_of(span, "openai.api.type")
    if api == "responses" or span.name == "openai.response" or text_of(span, semconv.RESPONSE_ID).startswith("resp_"):
        return RESPONSES
    return CHAT


def _tools(value: object) -> list[Any] | None:
    found = as_json(value)
    return found if isinstance(found, list) else None
