"""A request as the conversation that it is: what can be compared where the request itself was not kept.

A span of somebody else's instrumentation tells what was said, not the bytes that said it. So requests are compared by
who said what, which tools were called with what, and which model was asked: as much of that as every step holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from escapement.providers import recognise
from escapement.providers.operation import Message
from escapement.store.rows import StepRow
from escapement.words import semconv

PARTS = ("messages", "model")
_MEDIA = re.compile(r"^\[(?:image_url|input_image|image|blob|uri|input_file|file|document|input_audio|part)\]$", re.M)
_ROLES = {"developer": "system", "function": "tool"}
_OF_ANTHROPIC = ("tool_use", "tool_result")


def kept(steps: Sequence[StepRow]) -> frozenset[str]:
    """The parts of requests that can be compared; empty where the requests themselves can."""
    lost = {name for step in steps for name in step.attributes.get(semconv.REBUILT, ())}
    if "request.body" not in lost:
        return frozenset()
    return frozenset(part for part in PARTS if f"request.{part}" not in lost)


def reduced(document: Any, parts: frozenset[str]) -> Any:
    """What of a request is compared. What is no conversation stays as it is."""
    if not isinstance(document, dict):
        return document
    try:
        asked = _asked(document)
    except (TypeError, ValueError, AttributeError, KeyError):
        return document
    if not asked:
        return document
    left: dict[str, Any] = {"model": document.get("model")} if "model" in parts else {}
    return left | ({"messages": _joined(asked)} if "messages" in parts else {})


def _asked(document: Mapping[str, Any]) -> Sequence[Message]:
    path = "responses" if "input" in document and "messages" not in document else "chat/completions"
    if "system" in document or _has_blocks(document.get("messages")):
        path = "messages"
    operation = recognise("POST", f"/v1/{path}", "-")
    return operation.asked(document) if operation is not None else ()


def _has_blocks(messages: object) -> bool:
    """Whether there are content blocks that only Anthropic has."""
    contents = [message.get("content") for message in messages or ()] if isinstance(messages, list) else []
    return any(
        isinstance(block, dict) and block.get("type") in _OF_ANTHROPIC
        for content in contents
        if isinstance(content, list)
        for block in content
    )


def _joined(asked: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages of one speaker that follow each other are one: protocols cut them differently."""
    joined: list[dict[str, Any]] = []
    for message in asked:
        role = _ROLES.get(message.role, message.role)
        text = _MEDIA.sub("[media]", message.text).strip()
        if text.startswith(("[reasoning]", "[thinking]")) or text == "[thinking]":
            text = ""
        calls = [[call.name, _canonical(call.arguments)] for call in message.tool_calls]
        if not joined or joined[-1]["role"] != role:
            joined.append({"role": role, "text": "", "calls": []})
        last = joined[-1]
        last["text"] = "\n".join(part for part in (last["text"], text) if part)
        last["calls"] += calls
    return [message for message in joined if message["text"] or message["calls"]]


def _canonical(arguments: str) -> str:
    try:
        return orjson.dumps(orjson.loads(arguments or "{}"), option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONDecodeError:
        return arguments
