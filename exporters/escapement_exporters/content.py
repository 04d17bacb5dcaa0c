"""What was said, where telemetry may hold it: `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says whether.

Messages have the form of the GenAI conventions: `gen_ai.input.messages` and `gen_ai.output.messages`, as JSON text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from escapement.providers import Message
from escapement.store.messages import Messages, answered, operation_of
from escapement.store.rows import StepRow
from escapement.words import semconv

VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_ON_SPANS: Final = ("true", "span_only", "span_and_event")


def wanted() -> bool:
    """Whether spans may hold content. `event_only` is no: we make no events."""
    return os.environ.get(VARIABLE, "").strip().lower() in _ON_SPANS


class Content:
    """What the steps of a run said, in order; `pieces` are those of their requests."""

    def __init__(self, pieces: Mapping[str, bytes]) -> None:
        self._messages = Messages(pieces)

    def of(self, step: StepRow) -> dict[str, Any]:
        """The attributes of a step that hold messages; none of what nobody knows how to read."""
        operation = operation_of(step)
        if operation is None:
            return {}
        found = {
            semconv.INPUT_MESSAGES: self._messages.asked(step, operation).messages,
            semconv.OUTPUT_MESSAGES: answered(step, operation),
        }
        reasons = step.attributes.get(semconv.RESPONSE_FINISH_REASONS) or ()
        return {
            name: orjson.dumps(_documents(messages, reasons if name == semconv.OUTPUT_MESSAGES else None)).decode()
            for name, messages in found.items()
            if messages
        }


def _documents(messages: Sequence[Message], reasons: Sequence[str] | None) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        parts: list[dict[str, Any]] = []
        if message.thought:
            parts.append({"type": "reasoning", "content": message.thought})
        if message.answers:
            parts.append({"type": "tool_call_response", "id": message.answers, "response": message.text})
        elif message.text:
            parts.append({"type": "text", "content": message.text})
        parts += [
            {"type": "tool_call", "id": call.id or None, "name": call.name, "arguments": _arguments(call.arguments)}
            for call in message.tool_calls
        ]
        document: dict[str, Any] = {"role": message.role, "parts": parts}
        if reasons is not None:
            document["finish_reason"] = reasons[number] if number < len(reasons) else ""
        documents.append(document)
    return documents


def _arguments(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text  # as the model wrote it
