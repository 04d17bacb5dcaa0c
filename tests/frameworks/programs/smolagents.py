"""smolagents: one agent that writes code, and one that calls tools."""

from __future__ import annotations

from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool


@tool
def weather(city: str, day: int) -> str:
    """The weather in a city, some days from now.

    Args:
        city: its name
        day: how many days from now
    """
    return f"sunny in {city} on day {day}"


for kind in (CodeAgent, ToolCallingAgent):
    agent = kind(tools=[weather], model=OpenAIModel("gpt-4o"), stream_outputs=kind is CodeAgent, verbosity_level=0)
    print(agent.run("Where is it sunny?"))
    print(agent.monitor.get_total_token_counts())
    for step in agent.memory.get_full_steps():
        print(step.get("tool_calls"), step.get("code_action"), step.get("observations"))
