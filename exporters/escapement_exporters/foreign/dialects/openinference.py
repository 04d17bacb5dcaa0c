"""OpenInference's instrumentors (Arize, Phoenix).

They keep whole bodies as JSON (`input.value`, `output.value`), those of a stream put together, and messages once more
field by field (`llm.input_messages.0.message.role`), which is what is left where bodies are hidden.
"""

from __future__ import annotations

from typing import Any, Final

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
    text_of,
    unflattened,
)

KIND: Final = "openinference.span.kind"
_HIDDEN: Final = "__REDACTED__"
_FIRST: Final = "First Token Stream Event"
_USAGE: Final = {
    "input": ("llm.token_count.prompt",),
    "output": ("llm.token_count.completion",),
    "cache_read": ("llm.token_count.prompt_details.cache_read",),
    "cache_write": ("llm.token_count.prompt_details.cache_write",),
    "reasoning": ("llm.token_count.completion_details.reasoning",),
}


def read(span: Span) -> Told | None:
    """What a span of OpenInference's tells; None for one that is of no call of a model."""
    kind = span.attributes.get(KIND)
    if kind not in ("LLM", "EMBEDDING"):
        return None
    request = _body(span, "input.value")
    answer = _body(span, "output.value")
    parameters = as_json(span.attributes.get("llm.invocation_parameters"))
    parameters = parameters if isinstance(parameters, dict) else {}
    path = EMBEDDINGS if kind == "EMBEDDING" else _path(span, request, answer)
    stream = (request or parameters).get("stream") is True or span.name.endswith(".stream")
    stream = stream or any(event["name"] == _FIRST for event in span.events)
    if request is not None:
        request = {name: value for name, value in request.items() if name not in ("extra_headers", "extra_query")}
        if stream:
            request["stream"] = True
    tools = unflattened(span.attributes, "llm.tools")
    return Told(
        path=path,
        model=text_of(span, "llm.request.model_name", "llm.model_name", "embedding.model_name"),
        asked=_messages(span, "llm.input_messages"),
        said=_messages(span, "llm.output_messages"),
        tools=[as_json((tool.get("tool") or {}).get("json_schema")) for tool in tools if isinstance(tool, dict)]
        if isinstance(tools, list)
        else None,
        parameters={name: value for name, value in parameters.items() if name not in ("model", "stream")},
        stream=stream,
        request=request,
        answer=answer if answer is None or _is_answer(path, answer) else None,
        id=str((answer or {}).get("id") or ""),
        answered_by=text_of(span, "llm.response.model_name", "llm.model_name", "embedding.model_name"),
        finish=text_of(span, "llm.finish_reason"),
        usage=counts(span, _USAGE),
    )


def _body(span: Span, name: str) -> dict[str, Any] | None:
    found = as_json(span.attributes.get(name)) if span.attributes.get(name) != _HIDDEN else None
    return found if isinstance(found, dict) and found else None


def _path(span: Span, request: dict[str, Any] | None, answer: dict[str, Any] | None) -> str:
    if text_of(span, "llm.system", "llm.provider") == "anthropic":
        return MESSAGES
    of_responses = "input" in (request or {}) or (answer or {}).get("object") == "response"
    return RESPONSES if of_responses or span.name.startswith("Response") else CHAT


def _is_answer(path: str, answer: dict[str, Any]) -> bool:
    field = {CHAT: "choices", RESPONSES: "output", MESSAGES: "content", EMBEDDINGS: "data"}[path]
    return isinstance(answer.get(field), list)


def _messages(span: Span, prefix: str) -> list[Message] | None:
    found = unflattened(span.attributes, prefix)
    if not isinstance(found, list):
        return None
    items = [item.get("message") for item in found if isinstance(item, dict)]
    return [_message(item) for item in items if isinstance(item, dict)]


def _message(item: dict[str, Any]) -> Message:
    role = str(item.get("role") or "assistant")
    content = item.get("content")
    parts: list[dict[str, Any]] = []
    if isinstance(content, str) and role == "tool":
        parts.append({"type": "tool_call_response", "id": item.get("tool_call_id"), "response": content})
    elif isinstance(content, str) and content:
        parts.append({"type": "text", "content": content})
    for one in _inner(item.get("contents"), "message_content"):
        if isinstance(one.get("text"), str):
            parts.append({"type": "text", "content": one["text"]})
        elif one.get("type") not in ("tool_use", None):
            parts.append({"type": str(one["type"])})
    for call in _inner(item.get("tool_calls"), "tool_call"):
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        parts.append({"type": "tool_call", "id": call.get("id"), **function})
    return {"role": role, "parts": parts}


def _inner(items: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(items, list):
        return []
    return [inner for item in items if isinstance(item, dict) and isinstance(inner := item.get(name), dict)]
