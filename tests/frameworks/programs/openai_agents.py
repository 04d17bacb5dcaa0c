"""openai-agents: a run with a handoff, then a streamed one, both on the Responses API; then one on chat completions."""

from __future__ import annotations

import asyncio

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI


@function_tool
def weather(city: str, day: int) -> str:
    """The weather in a city, some days from now."""
    return f"sunny in {city} on day {day}"


meteorologist = Agent(name="Meteorologist", instructions="You know the weather.", model="gpt-4o", tools=[weather])
desk = Agent(name="Desk", instructions="Hand over to who knows.", model="gpt-4o", handoffs=[meteorologist])


async def main() -> None:
    result = await Runner.run(desk, "Where is it sunny?")
    print(result.last_agent.name, result.final_output, result.context_wrapper.usage)
    print(result.to_input_list())

    streamed = Runner.run_streamed(meteorologist, "And tomorrow?")
    async for event in streamed.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            print("delta", event.data.delta)
    print(streamed.final_output, streamed.to_input_list())

    meteorologist.model = OpenAIChatCompletionsModel(model="gpt-4o", openai_client=AsyncOpenAI())
    again = await Runner.run(meteorologist, "And the day after?")
    print(again.final_output, again.to_input_list())


asyncio.run(main())
