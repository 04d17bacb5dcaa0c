"""autogen: a researcher with a tool and a writer, taking turns, with streamed tokens."""

from __future__ import annotations

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import TaskResult
from autogen_agentchat.conditions import SourceMatchTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient


async def weather(city: str, day: int) -> str:
    """The weather in a city, some days from now."""
    return f"sunny in {city} on day {day}"


async def main() -> None:
    client = OpenAIChatCompletionClient(model="gpt-4o")
    researcher = AssistantAgent("researcher", client, tools=[weather], max_tool_iterations=5)
    writer = AssistantAgent("writer", client, model_client_stream=True, system_message="Put it well.")
    team = RoundRobinGroupChat([researcher, writer], termination_condition=SourceMatchTermination(["writer"]))
    async for message in team.run_stream(task="Where is it sunny?"):
        if isinstance(message, TaskResult):
            print(message.stop_reason, client.total_usage())
        else:
            print(message.source, message.type, message.content, message.models_usage)
    await client.close()


asyncio.run(main())
