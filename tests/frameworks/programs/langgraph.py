"""LangGraph: a graph of its own, with tools, streamed tokens, and three branches that ask the same thing at once."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Send


@tool
async def weather(city: str, day: int) -> str:
    """The weather in a city, some days from now."""
    await asyncio.sleep(0)
    return f"sunny in {city} on day {day}"


class State(MessagesState):
    opinions: Annotated[list[str], operator.add]


model = ChatOpenAI(model="gpt-4o", stream_usage=True)


async def research(state: State) -> dict[str, Any]:
    return {"messages": [await model.bind_tools([weather]).ainvoke(state["messages"])]}


async def opine(state: dict[str, Any]) -> dict[str, Any]:
    answer = await model.ainvoke("Is it a good day for a walk?")
    return {"opinions": [f"{state['who']}: {answer.text} {answer.usage_metadata}"]}


def ask_around(state: State) -> list[Send] | str:
    if tools_condition(dict(state)) == "tools":
        return "tools"
    return [Send("opine", {"who": who}) for who in ("Ada", "Ben", "Cleo")]


graph = StateGraph(State)
graph.add_node("research", research)
graph.add_node("tools", ToolNode([weather]))
graph.add_node("opine", opine)
graph.add_edge(START, "research")
graph.add_conditional_edges("research", ask_around, ["tools", "opine"])
graph.add_edge("tools", "research")
graph.add_edge("opine", END)


async def main() -> None:
    question = {"messages": [HumanMessage("Where is it sunny?")], "opinions": []}
    app = graph.compile()
    final: dict[str, Any] = {}
    async for kind, what in app.astream(question, stream_mode=["messages", "values"]):
        if kind == "messages":
            if what[1]["langgraph_node"] == "research":
                print("token", repr(what[0].text), what[0].usage_metadata)
        else:
            final = what
    for message in final["messages"]:
        print(message.type, message.text, getattr(message, "tool_calls", []))
    print(final["opinions"])


asyncio.run(main())
