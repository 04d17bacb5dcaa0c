"""Google's `generateContent`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from escapement.providers.answers import arguments_of, pieces, without
from escapement.providers.operation import Document, Event, Message


def rewrite(document: Document, message: Message) -> Document:
    """What was thought stays; texts and calls of functions are those of `message`."""
    first, *others = document.get("candidates") or [{"index": 0}]
    content = first.get("content") or {}
    parts: list[dict[str, Any]] = [part for part in content.get("parts") or () if part.get("thought")]
    if message.text or not message.tool_calls:
        parts.append({"text": message.text})
    for call in message.tool_calls:
        named = {"id": call.id} if call.id else {}
        parts.append({"functionCall": {**named, "name": call.name, "args": arguments_of(call)}})
    candidate = without(first, "avgLogprobs", "logprobsResult", "citationMetadata")
    candidate |= {"content": {"role": "model", **content, "parts": parts}, "finishReason": "STOP"}
    return {**document, "candidates": [candidate, *others]}


def split(document: Document, recorded: Sequence[Event]) -> list[Event]:
    """A chunk for each piece of each candidate; the last one has what is said of the whole."""
    chunks: list[dict[str, Any]] = []
    frame = without(document, "candidates")
    for candidate in document.get("candidates") or ():
        content = candidate.get("content") or {}
        cut = [[piece] for part in content.get("parts") or () for piece in _cut(part)] or [[]]
        for number, parts in enumerate(cut, 1):
            rest = () if number == len(cut) else ("finishReason", "safetyRatings", "groundingMetadata")
            said = {**without(candidate, *rest), "content": {**content, "parts": parts}}
            chunks.append({"candidates": [said], **without(frame, "usageMetadata")})
    if not chunks:
        return [("", dict(document))]
    chunks[-1] |= frame
    return [("", chunk) for chunk in chunks]


def _cut(part: Document) -> list[dict[str, Any]]:
    if not part.get("text"):
        return [dict(part)]
    cut = [{**without(part, "thoughtSignature"), "text": piece} for piece in pieces(part["text"])]
    if "thoughtSignature" in part:
        cut[-1]["thoughtSignature"] = part["thoughtSignature"]
    return cut
