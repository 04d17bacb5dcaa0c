"""Bodies of requests and answers, as a provider has them, from what a span tells of a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

import orjson

from escapement.providers import Operation, recognise
from escapement.providers.operation import Message as Said
from escapement.providers.operation import ToolCall
from escapement_exporters.foreign.dialects.told import CHAT, EMBEDDINGS, MESSAGES, RESPONSES, Message, Told

Document = dict[str, Any]

_FINISHES: Final = {
    CHAT: {"tool_call": "tool_calls", "tool_use": "tool_calls", "end_turn": "stop", "max_tokens": "length"},
    MESSAGES: {
        "tool_call": "tool_use",
        "tool_calls": "tool_use",
        "stop": "end_turn",
        "length": "max_tokens",
        "content_filter": "refusal",
    },
}
_MEDIA: Final = ("blob", "uri", "file")


def operation_of(told: Told) -> Operation:
    """The operation of a call."""
    found = recognise("POST", f"/v1/{told.path}", "-")
    assert found is not None
    return found


# -- requests --------------------------------------------------------------------------------------------------------


def request(told: Told) -> Document:
    """The body of the request, as far as it is known."""
    if told.request is not None:
        return told.request if "model" in told.request else {"model": told.model, **told.request}
    body: Document = {"model": told.model}
    asked = told.asked or []
    if told.path == CHAT:
        body["messages"] = [one for message in asked for one in _chat(message)]
    elif told.path == RESPONSES:
        system, rest = _apart(asked)
        body |= {"instructions": system} if system else {}
        body["input"] = [item for message in rest for item in _items(message)]
    elif told.path == MESSAGES:
        system, rest = _apart(asked)
        body |= {"system": system} if system else {}
        body["messages"] = [
            {"role": "user" if message.get("role") == "tool" else message.get("role"), "content": _blocks(message)}
            for message in rest
        ]
    else:
        body["input"] = [_text(message) for message in asked]
    if told.tools:
        body["tools"] = [_tool(told.path, tool) for tool in told.tools if isinstance(tool, dict)]
    body |= told.parameters
    if told.stream:
        body["stream"] = True
    return body


def _parts(message: Message) -> Iterator[Mapping[str, Any]]:
    parts = message.get("parts")
    if isinstance(parts, str):
        parts = [{"type": "text", "content": parts}]
    return (part for part in parts if isinstance(part, dict)) if isinstance(parts, list) else iter(())


def _text(message: Message) -> str:
    return "\n".join(str(part["content"]) for part in _parts(message) if _is_text(part))


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("content"), str)


def _apart(asked: list[Message]) -> tuple[str, list[Message]]:
    """What is said before the conversation, and that."""
    system = [message for message in asked if message.get("role") == "system"]
    rest = [message for message in asked if message.get("role") != "system"]
    return "\n".join(_text(message) for message in system), rest


def _arguments(part: Mapping[str, Any]) -> str:
    value = part.get("arguments")
    return value if isinstance(value, str) else orjson.dumps({} if value is None else value).decode()


def _result(part: Mapping[str, Any]) -> str:
    """What a tool gave, as text."""
    value = part.get("response", part.get("result", part.get("content")))
    if isinstance(value, list) and all(isinstance(item, dict) and isinstance(item.get("text"), str) for item in value):
        return "\n".join(item["text"] for item in value)
    return value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode()


def _chat(message: Message) -> Iterator[Document]:
    content: list[Document] = []
    calls: list[Document] = []
    results = 0
    for part in _parts(message):
        kind = part.get("type")
        if _is_text(part) and message.get("role") == "tool":
            results += 1
            yield {"role": "tool", "tool_call_id": message.get("tool_call_id") or "", "content": part["content"]}
        elif _is_text(part):
            content.append({"type": "text", "text": part["content"]})
        elif kind == "tool_call":
            function = {"name": str(part.get("name") or ""), "arguments": _arguments(part)}
            calls.append({"id": str(part.get("id") or ""), "type": "function", "function": function})
        elif kind == "tool_call_response":
            results += 1
            yield {"role": "tool", "tool_call_id": str(part.get("id") or ""), "content": _result(part)}
        elif kind not in ("reasoning", "thinking"):
            content.append({"type": "image_url", "image_url": {"url": _url(part)}})
    if content or calls or not results:
        plain = len(content) == 1 and content[0]["type"] == "text"
        said = content[0]["text"] if plain else content or None
        yield {"role": message.get("role"), "content": said} | ({"tool_calls": calls} if calls else {})


def _url(part: Mapping[str, Any]) -> str:
    image = part.get("image_url")
    if isinstance(image, dict):
        image = image.get("url")
    if isinstance(image, str):
        return image
    if part.get("uri"):
        return str(part["uri"])
    return f"data:{part.get('mime_type') or ''};base64,{part.get('content') or ''}"


def _items(message: Message) -> Iterator[Document]:
    for part in _parts(message):
        kind = part.get("type")
        if kind == "tool_call":
            name = str(part.get("id") or "")
            yield {
                "type": "function_call",
                "call_id": name,
                "name": str(part.get("name") or ""),
                "arguments": _arguments(part),
            }
        elif kind == "tool_call_response":
            yield {"type": "function_call_output", "call_id": str(part.get("id") or ""), "output": _result(part)}
        elif _is_text(part):
            yield {"role": message.get("role"), "content": part["content"]}
        elif kind not in ("reasoning", "thinking"):
            yield {"role": message.get("role"), "content": [{"type": "input_image", "image_url": _url(part)}]}


def _blocks(message: Message) -> list[Document]:
    blocks: list[Document] = []
    for part in _parts(message):
        kind = part.get("type")
        if _is_text(part):
            blocks.append({"type": "text", "text": part["content"]})
        elif kind == "tool_call":
            name, given = str(part.get("id") or ""), part.get("arguments")
            call = {"type": "tool_use", "id": name, "name": str(part.get("name") or "")}
            blocks.append(call | {"input": given if isinstance(given, dict) else _object(given)})
        elif kind == "tool_call_response":
            result = {"type": "tool_result", "tool_use_id": str(part.get("id") or "")}
            blocks.append(result | {"content": _result(part)})
        elif kind not in ("reasoning", "thinking"):
            blocks.append({"type": "image" if kind in _MEDIA else str(kind)})
    return blocks


def _object(text: object) -> Any:
    try:
        return orjson.loads(text) if isinstance(text, str) else {}
    except orjson.JSONDecodeError:
        return {}


def _tool(path: str, tool: Document) -> Document:
    """A tool as its protocol has it."""
    inner = tool["function"] if isinstance(tool.get("function"), dict) else tool
    if not isinstance(inner.get("name"), str):
        return tool  # one of the provider's own
    named = {name: inner[name] for name in ("name", "description") if inner.get(name) is not None}
    schema = inner.get("parameters") or inner.get("input_schema") or {"type": "object"}
    if path == MESSAGES:
        return {**named, "input_schema": schema}
    if path == RESPONSES:
        return {"type": "function", **named, "parameters": schema}
    return {"type": "function", "function": {**named, "parameters": schema}}


# -- answers ---------------------------------------------------------------------------------------------------------


def answer(told: Told, ended: int) -> Document | None:
    """The body of the answer (one that came in events: what they come to); None where the span has none.

    `ended` is when, in nanoseconds since the epoch. Raises ValueError for what its protocol cannot say.
    """
    frame = _frame(told, ended // 1_000_000_000)
    if told.answer is not None:
        return {**{name: value for name, value in frame.items() if name not in ("choices", "output")}, **told.answer}
    if not told.said or told.path == EMBEDDINGS:
        return None
    operation = operation_of(told)
    assert operation.rewrite is not None
    written = [dict(operation.rewrite(frame, _said(message))) for message in told.said]
    body = written[0]
    if told.path == CHAT:
        body["choices"] = [{**one["choices"][0], "index": index} for index, one in enumerate(written)]
    finish = _FINISHES.get(told.path, {}).get(told.finish, told.finish)
    if finish and told.path == CHAT:
        body["choices"][0]["finish_reason"] = finish
    elif finish and told.path == MESSAGES:
        body["stop_reason"] = finish
    elif told.path == RESPONSES and told.finish in ("length", "max_output_tokens", "content_filter"):
        reason = "max_output_tokens" if told.finish == "length" else told.finish
        body |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
    return body


def _said(message: Message) -> Said:
    calls = [
        ToolCall(str(part.get("name") or ""), _arguments(part), str(part.get("id") or ""))
        for part in _parts(message)
        if part.get("type") == "tool_call"
    ]
    return Said("assistant", _text(message), tuple(calls))


def _frame(told: Told, seconds: int) -> Document:
    """An answer that says nothing yet."""
    model = told.answered_by or told.model
    used = told.usage
    if told.path == MESSAGES:
        read, written = used.get("cache_read", 0), used.get("cache_write", 0)
        usage = {
            # The convention counts cached tokens as input; Anthropic reports them beside it.
            "input_tokens": max(0, used.get("input", 0) - read - written),
            "output_tokens": used.get("output", 0),
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
        }
        name = told.id or _invented(told, "msg_")
        return {"id": name, "type": "message", "role": "assistant", "model": model, "content": [], "usage": usage}
    asked, said = ("prompt", "completion") if told.path in (CHAT, EMBEDDINGS) else ("input", "output")
    usage = {f"{asked}_tokens": used.get("input", 0), f"{said}_tokens": used.get("output", 0)}
    usage["total_tokens"] = sum(usage.values())
    details: Document = {
        f"{asked}_tokens_details": {"cached_tokens": used.get("cache_read", 0)},
        f"{said}_tokens_details": {"reasoning_tokens": used.get("reasoning", 0)},
    }
    counted: Document = {"usage": {**usage, **details}} if used else {}
    if told.path == RESPONSES:
        output = [{"type": "message", "id": _invented(told, "msg_")}]
        frame: Document = {"id": told.id or _invented(told, "resp_"), "object": "response", "created_at": seconds}
        frame |= {"status": "completed", "model": model, "output": output, "parallel_tool_calls": True}
        return frame | {"tool_choice": "auto", "tools": [], **counted}
    if told.path == EMBEDDINGS:
        return {"object": "list", "model": model, **counted}
    choice = {"index": 0, "message": {"role": "assistant", "content": None, "refusal": None}, "logprobs": None}
    frame = {"id": told.id or _invented(told, "chatcmpl-"), "object": "chat.completion", "created": seconds}
    return frame | {"model": model, "choices": [choice], **counted}


def _invented(told: Told, prefix: str) -> str:
    """An id that is the same every time."""
    said = orjson.dumps([told.asked, told.said, told.model], default=str)
    return prefix + blake2b(said, digest_size=12).hexdigest()


def example(told: Told, document: Document) -> list[tuple[str, Document]]:
    """Events in whose manner the document is to be split."""
    if told.path != CHAT:
        return []
    frame: Document = {name: document[name] for name in ("id", "created", "model") if name in document}
    return [("", {"object": "chat.completion.chunk", **frame, "choices": []})]


def missing(told: Told, document: Document | None) -> list[str]:
    """What the span does not hold of the call, by name."""
    found = ["request.body", *told.never]
    if told.request is None:
        found += ["request.messages"] if told.asked is None else []
        found += ["request.parameters"]
    if document is None:
        return [*found, "response"]
    found += ["response.headers"]
    found += ["response.events"] if told.stream else []
    if told.answer is None:
        found += ["response.body"]
        found += ["response.id"] if not told.id else []
        found += ["response.usage"] if not told.usage else []
        found += ["response.finish_reason"] if not told.finish else []
        thought = any(part.get("type") in ("reasoning", "thinking") for one in told.said or () for part in _parts(one))
        found += ["response.reasoning"] if thought else []
        # Responses has two ids for a call; it is the other one that its result is sent back with.
        calls = [str(part.get("id") or "") for one in told.said or () for part in _parts(one) if "name" in part]
        found += ["response.tool_call.id"] if any(not name or name.startswith("fc_") for name in calls) else []
    return found
