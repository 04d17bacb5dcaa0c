"""pydantic-ai: a typed answer from OpenAI, a streamed one from Anthropic."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel
from pydantic_ai import Agent


class Report(BaseModel):
    city: str
    days: list[int]
    sunny: bool


def weather(city: str, day: int) -> str:
    """The weather in a city, some days from now."""
    return f"sunny in {city} on day {day}"


reporter = Agent("openai:gpt-4o", output_type=Report, tools=[weather], instructions="Report on the weather.")
poet = Agent("anthropic:claude-sonnet-4-5", tools=[weather], instructions="Sing of the weather.")

report = reporter.run_sync("Where is it sunny?")
print(report.output, report.usage)


async def sing() -> None:
    async with poet.run_stream(f"What rhymes with {report.output.city}?") as song:
        async for text in song.stream_text(delta=True, debounce_by=None):
            print("delta", text)
    print(song.usage)
    for message in song.all_messages():
        print(message.kind, [(part.part_kind, getattr(part, "content", part)) for part in message.parts])


asyncio.run(sing())
