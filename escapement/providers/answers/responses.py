"""OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses-streaming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from escapement.providers.answers import id_of, pieces, without
from escapement.providers.operation import Document, Event, Message

_SAID = ("message", "function_call")


def rewrite(document: Document, message: Message) -> Document:
    """What was thought and searched stays; messages and calls of functions are those of `message`."""
    output = document.get("output") or []
    kept = [item for item in output if item.get("type") not in _SAID]
    written: list[dict[str, Any]] = []
    if message.text or not message.tool_calls:
        before = next((item for item in output if item.get("type") == "message"), {"id": "msg_edited"})
        text = {"type": "output_text", "text": message.text, "annotations": [], "logprobs": []}
        written.append({**before, "type": "message", "role": "assistant", "status": "completed", "content": [text]})
    for number, call in enumerate(message.tool_calls):
        written.append(
            {
                "type": "function_call",
                "id": id_of(call, number, "fc_"),
                "call_id": id_of(call, number, "call_"),
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
        )
    return {**document, "status": "completed", "incomplete_details": None, "output": [*kept, *written]}


def split(document: Document, recorded: Sequence[Event]) -> list[Event]:
    """Each item of the output with its beginning, parts and end, between the events of the response."""
    numbers = count()
    begun = next((data["response"] for _, data in recorded if isinstance(data.get("response"), dict)), None)
    begun = begun or {**without(document, "usage"), "status": "in_progress", "output": []}
    events = [{"type": kind, "response": begun} for kind in ("response.created", "response.in_progress")]
    for index, item in enumerate(document.get("output") or ()):
        at = {"output_index": index}
        events.append({"type": "response.output_item.added", **at, "item": _opened(item)})
        events += [{**event, **at, "item_id": item.get("id", "")} for event in _inside(item)]
        events.append({"type": "response.output_item.done", **at, "item": item})
    events.append({"type": f"response.{document.get('status') or 'completed'}", "response": document})
    return [(str(event["type"]), {**event, "sequence_number": next(numbers)}) for event in events]


def _opened(item: Document) -> Document:
    """An item of which nothing has come yet."""
    opened = {**item, "status": "in_progress"} if "status" in item else dict(item)
    if item.get("type") == "message":
        opened["content"] = []
    elif item.get("type") == "function_call":
        opened["arguments"] = ""
    return opened


def _inside(item: Document) -> Iterator[dict[str, Any]]:
    if item.get("type") == "function_call":
        for piece in pieces(item.get("arguments") or ""):
            yield {"type": "response.function_call_arguments.delta", "delta": piece}
        yield {
            "type": "response.function_call_arguments.done",
            "name": item.get("name", ""),
            "arguments": item.get("arguments") or "",
        }
    for index, part in enumerate(item.get("content") or () if item.get("type") == "message" else ()):
        at = {"content_index": index}
        kind, field = ("refusal", "refusal") if part.get("type") == "refusal" else ("output_text", "text")
        text = part.get(field) or ""
        yield {"type": "response.content_part.added", **at, "part": {**part, field: ""}}
        extra: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        for piece in pieces(text):
            yield {"type": f"response.{kind}.delta", **at, "delta": piece, **extra}
        yield {"type": f"response.{kind}.done", **at, field: text, **extra}
        yield {"type": "response.content_part.done", **at, "part": part}
