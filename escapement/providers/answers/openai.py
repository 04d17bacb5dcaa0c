"""Chat completions (and text completions) of OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from escapement.providers.answers import id_of, pieces, without
from escapement.providers.operation import Document, Event, Message

_THOUGHTS = ("reasoning", "reasoning_content")


def rewrite(document: Document, message: Message) -> Document:
    """The first choice says `message`; its log probabilities, which were of other words, are gone."""
    first, *others = document.get("choices") or [{"index": 0, "message": {"role": "assistant"}}]
    choice = without(first, "logprobs") | ({"logprobs": None} if "logprobs" in first else {})
    choice["finish_reason"] = "tool_calls" if message.tool_calls else "stop"
    if "message" not in choice:
        return {**document, "choices": [{**choice, "text": message.text}, *others]}
    said = without(choice["message"], "tool_calls", "function_call") | {"content": message.text}
    if message.tool_calls:
        said["content"] = message.text or None
        said["tool_calls"] = [
            {
                "id": id_of(call, number, "call_"),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(message.tool_calls)
        ]
    return {**document, "choices": [{**choice, "message": said}, *others]}


def split(document: Document, recorded: Sequence[Event]) -> list[Event]:
    """Chunks: those of each choice, then what was recorded about the use of tokens."""
    chunks = [data for _, data in recorded]
    frame = without(chunks[0], "choices", "usage") if chunks else {"object": "chat.completion.chunk"}
    frame |= {name: document[name] for name in ("id", "model") if name in document}
    deltas = [choice for chunk in chunks for choice in chunk.get("choices") or ()]
    as_text = any("text" in delta for delta in deltas)
    thought = next((name for name in _THOUGHTS for delta in deltas if name in (delta.get("delta") or {})), _THOUGHTS[0])
    split_up = [
        {**frame, "choices": [part]}
        for number, choice in enumerate(document.get("choices") or ())
        for part in (_texts if as_text else _deltas)(choice.get("index", number), choice, thought)
    ]
    if any("usage" in chunk for chunk in chunks):  # null, but in the last one
        split_up = [{**chunk, "usage": None} for chunk in split_up]
    if "usage" in document:
        if chunks and not chunks[-1].get("choices"):
            split_up.append({**frame, "choices": [], "usage": document["usage"]})
        elif split_up:
            of_groq = {"x_groq": chunks[-1]["x_groq"]} if chunks and "x_groq" in chunks[-1] else {}
            split_up[-1] = {**split_up[-1], **(of_groq or {"usage": document["usage"]})}
    return [("", chunk) for chunk in split_up]


def _deltas(index: int, choice: Document, thought: str) -> Iterator[dict[str, Any]]:
    message = choice.get("message") or {}

    def part(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    yield part({"role": message.get("role", "assistant"), "content": ""})
    for piece in pieces(message.get("reasoning") or message.get("reasoning_content") or ""):
        yield part({thought: piece})
    for piece in pieces(message.get("content") or ""):
        yield part({"content": piece})
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        start = {"name": function.get("name", ""), "arguments": ""}
        opening = {"index": number, "id": call.get("id"), "type": "function", "function": start}
        yield part({"tool_calls": [opening]})
        for piece in pieces(function.get("arguments") or ""):
            yield part({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
    yield part({}, choice.get("finish_reason") or "stop")


def _texts(index: int, choice: Document, _: str) -> Iterator[dict[str, Any]]:
    text = choice.get("text") or (choice.get("message") or {}).get("content") or ""
    for piece in pieces(text):
        yield {"index": index, "text": piece, "logprobs": None, "finish_reason": None}
    yield {"index": index, "text": "", "logprobs": None, "finish_reason": choice.get("finish_reason") or "stop"}
