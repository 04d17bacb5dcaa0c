"""Amazon Bedrock: Converse, and `invoke` of single models. The model stands in the path.

Bodies of `invoke` are the model's own; they are read as Anthropic's, and those of other models have fewer attributes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from escapement.providers import anthropic
from escapement.providers.operation import Attributes, Document, Event, Message, Operation, ToolCall, named
from escapement.words import semconv

_CONFIGURED = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "topP": semconv.REQUEST_TOP_P,
    "maxTokens": semconv.REQUEST_MAX_TOKENS,
}
_ANTHROPIC = anthropic.OPERATIONS["messages"]


def _streaming(operation: Operation) -> Operation:
    """The same where the path asks for a stream, not the body. Its frames are not written anew for an edit."""

    def request(fields: Document) -> Attributes:
        return operation.request(fields) | {semconv.REQUEST_STREAM: True}

    return replace(operation, request=request, split=None)


def _converse_request(fields: Document) -> Attributes:
    configured = fields.get("inferenceConfig") or {}
    attributes = named(configured, _CONFIGURED)
    if configured.get("stopSequences"):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(configured["stopSequences"])
    return attributes


def _converse_answer(document: Document) -> Attributes:
    usage = document.get("usage") or {}
    plain, read, written = (
        usage.get(name) or 0 for name in ("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    )
    return {
        semconv.RESPONSE_FINISH_REASONS: [document["stopReason"]] if document.get("stopReason") else None,
        # The convention counts cached tokens as input; Bedrock reports them beside it.
        semconv.USAGE_INPUT_TOKENS: plain + read + written if "inputTokens" in usage else None,
        semconv.USAGE_OUTPUT_TOKENS: usage.get("outputTokens"),
        semconv.USAGE_CACHE_READ: usage.get("cacheReadInputTokens"),
        semconv.USAGE_CACHE_WRITE: usage.get("cacheWriteInputTokens"),
    }


def _gather_converse(stream: Iterable[Event]) -> Document:
    """The events of a Converse stream put together."""
    whole: dict[str, Any] = {}
    role = "assistant"
    blocks: dict[int, dict[str, Any]] = {}
    for name, event in stream:
        block = blocks.setdefault(event["contentBlockIndex"], {}) if "contentBlockIndex" in event else {}
        if name == "messageStart":
            role = event.get("role", role)
        elif name == "contentBlockStart" and "toolUse" in event.get("start", {}):
            block["toolUse"] = {**event["start"]["toolUse"], "input": ""}
        elif name == "contentBlockDelta":
            delta = event.get("delta", {})
            if "text" in delta:
                block["text"] = block.get("text", "") + delta["text"]
            elif "toolUse" in delta:
                block.setdefault("toolUse", {"input": ""})["input"] += delta["toolUse"].get("input", "")
        elif name == "messageStop":
            whole["stopReason"] = event.get("stopReason")
        elif name == "metadata":
            whole["usage"] = event.get("usage", {})
    content = [blocks[index] for index in sorted(blocks)]
    return {**whole, "output": {"message": {"role": role, "content": content}}}


def _gather_invoked(stream: Iterable[Event]) -> Document:
    """The model's own events, which travel as base64 inside of Bedrock's."""
    inner = (orjson.loads(base64.b64decode(event["bytes"])) for _, event in stream if "bytes" in event)
    return _ANTHROPIC.gather((str(event.get("type", "")), event) for event in inner)


def _message(message: Document) -> Message:
    texts: list[str] = []
    calls: list[ToolCall] = []
    answers = ""
    for block in message.get("content") or ():
        if "text" in block:
            texts.append(str(block["text"]))
        elif "toolUse" in block:
            use = block["toolUse"]
            given = use.get("input", "")
            arguments = given if isinstance(given, str) else orjson.dumps(given).decode()
            calls.append(ToolCall(str(use.get("name", "")), arguments, str(use.get("toolUseId", ""))))
        elif "toolResult" in block:
            result = block["toolResult"]
            answers = str(result.get("toolUseId", ""))
            texts += [str(part["text"]) if "text" in part else "[json]" for part in result.get("content") or ()]
        else:
            texts += [f"[{kind}]" for kind in block]
    role = "tool" if answers else str(message.get("role", ""))
    return Message(role, "\n".join(texts), tuple(calls), answers)


def _asked(document: Document) -> list[Message]:
    system = [Message("system", str(part["text"])) for part in document.get("system") or () if "text" in part]
    return system + [_message(message) for message in document.get("messages") or ()]


def _said(document: Document) -> list[Message]:
    message = (document.get("output") or {}).get("message")
    return [_message(message)] if message else []


_CONVERSE = Operation("chat", "aws.bedrock", _converse_request, _converse_answer, _gather_converse, _asked, _said)
_INVOKE = replace(_ANTHROPIC, provider="aws.bedrock", gather=_gather_invoked)

OPERATIONS = {
    "model/{model}/converse": _CONVERSE,
    "model/{model}/converse-stream": _streaming(_CONVERSE),
    "model/{model}/invoke": _INVOKE,
    "model/{model}/invoke-with-response-stream": _streaming(_INVOKE),
}
"""By the path."""
