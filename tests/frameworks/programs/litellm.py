"""litellm: an agent of its own, sync on OpenAI, then async and streamed on Anthropic."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city, some days from now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "day": {"type": "integer"}},
            "required": ["city", "day"],
        },
    },
}


def weather(city: str, day: int) -> str:
    return f"sunny in {city} on day {day}"


def use(message: Any, messages: list[Any]) -> bool:
    """Do what the model asks for; whether it asked for anything."""
    messages.append(message.model_dump())
    for call in message.tool_calls or ():
        found = weather(**json.loads(call.function.arguments))
        print(call.id, call.function.arguments, found)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": found})
    return bool(message.tool_calls)


def plain(model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "Where is it sunny?"}]
    while True:
        response = litellm.completion(model, messages, tools=[TOOL])
        print(response.usage)  # its id is made up by litellm, for Anthropic
        if not use(response.choices[0].message, messages):
            print(messages[-1]["content"])
            return


async def streamed(model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "And tomorrow?"}]
    while True:
        chunks = []
        async for chunk in await litellm.acompletion(model, messages, tools=[TOOL], stream=True):
            print("delta", chunk.choices[0].delta.content)
            chunks.append(chunk)
        response = litellm.stream_chunk_builder(chunks)
        if not use(response.choices[0].message, messages):
            print(messages[-1]["content"])
            return


for model in ("openai/gpt-4o", "anthropic/claude-sonnet-4-5"):
    plain(model)
    asyncio.run(streamed(model))
