"""The OpenAI responses endpoint, with its typed stream events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from . import content, openai, sse, words
from .exchange import Json, Question, Reply


def answer(question: Question) -> Reply:
    response = _response(question, words.identifier("resp_", 48))
    return _stream(response) if question.streaming else response


def stored(question: Question) -> Reply:
    """The response of an id, which is of course none that was ever given."""
    response = _response(replace(question, name=""), question.name)
    return _stream(response) if question.streaming else response


def interruption() -> bytes:
    event = {"type": "error", "sequence_number": words.integer(2, 99)}
    return sse.event({**event, **openai.failure(500)}, "error")


DIALECT = replace(openai.DIALECT, interruption=interruption)


def _response(question: Question, name: str) -> Json:
    data = question.data
    created = int(time.time()) - words.integer(0, 10**6)
    return {
        "id": name,
        "object": "response",
        "created_at": created,
        "status": "completed",
        "background": False,
        "completed_at": created + words.integer(1, 60),
        "error": None,
        "incomplete_details": None,
        "instructions": data.get("instructions"),
        "max_output_tokens": data.get("max_output_tokens"),
        "max_tool_calls": None,
        "model": question.model or "gpt-4o",
        "output": _output(question),
        "parallel_tool_calls": True,
        "previous_response_id": data.get("previous_response_id"),
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": data.get("store", True),
        "temperature": data.get("temperature", 1.0),
        "text": {"verbosity": "medium", **(data.get("text") or {"format": {"type": "text"}})},
        "tool_choice": data.get("tool_choice", "auto"),
        "tools": [{"strict": True, "description": None, **tool} for tool in data.get("tools") or ()],
        "top_logprobs": 0,
        "top_p": data.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": _usage(),
        "user": None,
        "metadata": data.get("metadata") or {},
        "x_provider_extra": words.extra(),
    }


def _usage() -> Json:
    into, out = words.integer(20, 4000), words.integer(20, 4000)
    return {
        "input_tokens": into,
        "input_tokens_details": {"cached_tokens": words.integer(0, into), "cache_write_tokens": 0},
        "output_tokens": out,
        "output_tokens_details": {"reasoning_tokens": words.integer(0, out)},
        "total_tokens": into + out,
    }


def _output(question: Question) -> list[Json]:
    items = _input(question)
    answered = items[-1].get("type") == "function_call_output"
    if calls := content.calls(question, _tools(question), answered):
        return [
            {
                "id": words.identifier("fc_", 48),
                "type": "function_call",
                "status": "completed",
                "arguments": json.dumps(arguments),
                "call_id": words.identifier("call_"),
                "name": name,
            }
            for name, arguments in calls
        ]
    text = content.said(question, content.last_user_text(items), _schema(question))
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    return [
        {
            "id": words.identifier("msg_", 48),
            "type": "message",
            "status": "completed",
            "content": [part],
            "role": "assistant",
            "x_provider_extra": words.extra(),
        }
    ]


def _input(question: Question) -> list[Json]:
    given = question.data.get("input") or ""
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given)


def _tools(question: Question) -> dict[str, Json]:
    choice = question.data.get("tool_choice")
    named = choice.get("name") if isinstance(choice, dict) else None
    return {
        tool["name"]: tool.get("parameters") or {}
        for tool in question.data.get("tools") or ()
        if tool.get("type") == "function" and choice != "none" and named in (None, tool["name"])
    }


def _schema(question: Question) -> Json | None:
    wanted = (question.data.get("text") or {}).get("format") or {}
    schema: Json | None = {"type": "object"} if wanted.get("type") == "json_object" else wanted.get("schema")
    return schema


def _stream(response: Json) -> list[bytes]:
    numbers = count()
    begun = {**response, "status": "in_progress", "completed_at": None, "output": [], "usage": None}
    told: list[Json] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(response["output"]):
        empty: Json = {"content": []} if item["type"] == "message" else {"arguments": ""}
        added = {**item, "status": "in_progress", **empty}
        told.append({"type": "response.output_item.added", "output_index": index, "item": added})
        parts = _message_parts(item) if item["type"] == "message" else _call_parts(item)
        told += [{**part, "item_id": item["id"], "output_index": index} for part in parts]
        told.append({"type": "response.output_item.done", "output_index": index, "item": item})
    told.append({"type": "response.completed", "response": response})
    return [sse.event({**event, "sequence_number": next(numbers)}, event["type"]) for event in told]


def _message_parts(item: Json) -> Iterator[Json]:
    for index, part in enumerate(item["content"]):
        place = {"content_index": index}
        yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
        for piece in words.pieces(part["text"]):
            padding = words.identifier("", 9)
            yield {
                "type": "response.output_text.delta",
                **place,
                "delta": piece,
                "logprobs": [],
                "obfuscation": padding,
            }
        yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **place, "part": part}


def _call_parts(item: Json) -> Iterator[Json]:
    for piece in words.pieces(item["arguments"]):
        padding = words.identifier("", 9)
        yield {"type": "response.function_call_arguments.delta", "delta": piece, "obfuscation": padding}
    yield {
        "type": "response.function_call_arguments.done",
        "arguments": item["arguments"],
        "name": item["name"],
    }


def input_tokens(question: Question) -> Json:
    return {"object": "response.input_tokens", "input_tokens": words.integer(1, 9999)}
