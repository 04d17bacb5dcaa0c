"""LangChain: an agent on OpenAI and one on Anthropic."""

from __future__ import annotations

import json

from langchain.agents import create_agent
from langchain_core.tools import tool


@tool
def weather(city: str, day: int) -> str:
    """The weather in a city, some days from now."""
    return f"sunny in {city} on day {day}"


for model in ("openai:gpt-4o", "anthropic:claude-sonnet-4-5"):
    agent = create_agent(model, tools=[weather], system_prompt="You are a meteorologist.")
    result = agent.invoke({"messages": [{"role": "user", "content": "Where is it sunny?"}]})
    for message in result["messages"]:
        print(message.type, message.text, json.dumps(getattr(message, "tool_calls", [])))
        print(getattr(message, "usage_metadata", None), message.response_metadata.get("id"))
