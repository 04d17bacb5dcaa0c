"""Amazon Bedrock: Converse, and `invoke` of single models. The model stands in the path.

Streams come as binary frames (`application/vnd.amazon.eventstream`): lengths and a checksum, headers, a payload, and a
checksum again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote

import orjson

from escapement.providers import anthropic
from escapement.providers.operation import Attributes, Document, Event, Message, Operation, ToolCall, named
from escapement.words import semconv

EVENT_STREAM = "application/vnd.amazon.eventstream"

_PATH = re.compile(r"/model/([^/]+)/(converse|converse-stream|invoke|invoke-with-response-stream)/?$")
_CONFIGURED = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "topP": semconv.REQUEST_TOP_P,
    "maxTokens": semconv.REQUEST_MAX_TOKENS,
}


def operation(path: str) -> Operation | None:
    """The operation of a path; None for one that is not Bedrock's."""
    found = _PATH.search(path)
    if found is None:
        return None
    model, verb = unquote(found[1]), found[2]
    streams = "stream" in verb
    if verb.startswith("converse"):
        request = partial(_converse_request, model, streams)
        return Operation("chat", "aws.bedrock", request, _converse_answer, _gather_converse, _asked, _said)
    if "anthropic." in model:
        theirs = anthropic.OPERATIONS["messages"]
        request = partial(_invoke_request, model, streams, theirs)
        gather = partial(_gather_invoked, theirs)
        return Operation("chat", "aws.bedrock", request, theirs.answer, gather, theirs.asked, theirs.said)
    return Operation("chat", "aws.bedrock", partial(_invoke_request, model, streams, None))


def events(body: bytes) -> Iterator[Event]:
    """Name and data of each frame whose payload is a JSON object, as far as frames are whole."""
    at = 0
    while at + 16 <= len(body):
        size, headers = (int.from_bytes(body[start : start + 4], "big") for start in (at, at + 4))
        if size < headers + 16 or at + size > len(body):
            return
        name = _header(body[at + 12 : at + 12 + headers], ":event-type")
        payload = body[at + 12 + headers : at + size - 4]
        at += size
        try:
            document = orjson.loads(payload)
        except orjson.JSONDecodeError:
            continue
        if isinstance(document, dict):
            yield name, document


def _header(headers: bytes, wanted: str) -> str:
    """The value of a header that is a string (type 7); empty where there is none."""
    at = 0
    while at < len(headers):
        name = headers[at + 1 : at + 1 + headers[at]].decode("utf-8", "replace")
        at += 1 + headers[at]
        if headers[at : at + 1] != b"\x07":
            return ""  # of the other types none is used here
        size = int.from_bytes(headers[at + 1 : at + 3], "big")
        if name == wanted:
            return headers[at + 3 : at + 3 + size].decode("utf-8", "replace")
        at += 3 + size
    return ""


def _model(model: str, streams: bool) -> Attributes:
    return {semconv.REQUEST_MODEL: model} | ({semconv.REQUEST_STREAM: True} if streams else {})


def _converse_request(model: str, streams: bool, fields: Document) -> Attributes:
    configured = fields.get("inferenceConfig") or {}
    attributes = named(configured, _CONFIGURED)
    if configured.get("stopSequences"):
        attributes[semconv.REQUEST_STOP_SEQUENCES] = list(configured["stopSequences"])
    return attributes | _model(model, streams)


def _invoke_request(model: str, streams: bool, theirs: Operation | None, fields: Document) -> Attributes:
    return (theirs.request(fields) if theirs is not None else {}) | _model(model, streams)


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


def _gather_invoked(theirs: Operation, stream: Iterable[Event]) -> Document:
    """The model's own events, which travel as base64 inside of Bedrock's."""
    inner = (orjson.loads(base64.b64decode(event["bytes"])) for _, event in stream if "bytes" in event)
    return theirs.gather((str(event.get("type", "")), event) for event in inner)


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
