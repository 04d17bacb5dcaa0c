"""An agent on two SDKs that calls tools, streams, and says what it was told. It knows nothing of who watches it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import anthropic
import openai

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}
MODEL, CLAUDE = "gpt-4o", "claude-haiku-4-5"

Said = dict[str, Any]


def on_chat(client: openai.OpenAI) -> list[Said]:
    """Chat: a tool is called until there is text, then a stream and a stream with tools."""
    tools: Any = [{"type": "function", "function": TOOL}]
    messages: list[Any] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is the weather in Paris?"},
    ]
    said = []
    for _ in range(4):
        answer = client.chat.completions.create(model=MODEL, messages=messages, tools=tools, temperature=0.5)
        message = answer.choices[0].message
        calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        said.append(_said(message.content, calls))
        if not calls:
            break
        messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
        messages += [{"role": "tool", "tool_call_id": name, "content": "Sunny."} for name, _, _ in calls]
    for question, more in (("Tell me more.", {}), ("And in Rome?", {"tools": tools})):
        text, parts = "", dict[int, list[str]]()
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": question}], stream=True, **more
        )
        for chunk in stream:
            delta = chunk.choices[0].delta if chunk.choices else None
            text += (delta.content if delta else "") or ""
            for piece in (delta.tool_calls if delta else ()) or ():
                part = parts.setdefault(piece.index, ["", "", ""])
                function = piece.function
                part[0] += piece.id or ""
                part[1] += (function.name if function else "") or ""
                part[2] += (function.arguments if function else "") or ""
        said.append(_said(text, [(part[0], part[1], part[2]) for part in parts.values()]))
    return said


def on_responses(client: openai.OpenAI) -> list[Said]:
    """Responses: a tool is called until there is text, then a stream."""
    tools: Any = [{"type": "function", **TOOL, "strict": False}]
    items: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    said = []
    for _ in range(4):
        answer = client.responses.create(model=MODEL, input=items, instructions="Be short.", tools=tools)
        calls = [item for item in answer.output if item.type == "function_call"]
        said.append(_said(answer.output_text, [(call.call_id, call.name, call.arguments) for call in calls]))
        if not calls:
            break
        for call in calls:
            items.append(call.model_dump(include={"type", "call_id", "name", "arguments"}))
        items += [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."} for call in calls]
    text = ""
    for event in client.responses.create(model=MODEL, input="Tell me more.", stream=True):
        text += event.delta if event.type == "response.output_text.delta" else ""
    return [*said, _said(text, [])]


def on_messages(client: anthropic.Anthropic) -> list[Said]:
    """Messages: a tool is called until there is text, then two streams."""
    tools: Any = [{"name": TOOL["name"], "description": TOOL["description"], "input_schema": SCHEMA}]
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Lima?"}]
    said = []
    for _ in range(4):
        answer = client.messages.create(
            model=CLAUDE, max_tokens=100, system="Be short.", messages=messages, tools=tools
        )
        calls = [block for block in answer.content if block.type == "tool_use"]
        text = "".join(block.text for block in answer.content if block.type == "text")
        said.append(_said(text, [(call.id, call.name, json.dumps(call.input)) for call in calls]))
        if not calls:
            break
        used = [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input} for call in calls]
        messages.append({"role": "assistant", "content": [*([{"type": "text", "text": text}] if text else []), *used]})
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "Fog."} for call in calls]
        messages.append({"role": "user", "content": results})
    with client.messages.stream(
        model=CLAUDE, max_tokens=100, messages=[{"role": "user", "content": "Tell me more."}]
    ) as stream:
        said.append(_said("".join(stream.text_stream), []))
    return said


def _said(text: str | None, calls: list[tuple[str, str, str]]) -> Said:
    called = [{"id": name, "name": tool, "arguments": json.loads(arguments)} for name, tool, arguments in calls]
    return {"text": text or "", "calls": called}


PROGRAMS: Mapping[str, Callable[[Any], list[Said]]] = {
    "chat": on_chat,
    "responses": on_responses,
    "messages": on_messages,
}


def run(name: str, base_url: str) -> list[Said]:
    """One of the programs, on clients of its own."""
    if name == "messages":
        with anthropic.Anthropic(api_key="sk-ant-test-0123456789", base_url=base_url, max_retries=0) as claude:
            return on_messages(claude)
    with openai.OpenAI(api_key="sk-test-0123456789", base_url=f"{base_url}/v1", max_retries=0) as client:
        return PROGRAMS[name](client)
