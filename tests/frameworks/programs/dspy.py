"""DSPy: ReAct with a tool, then a chain of thought about what it found; on DSPy's own engine, sync and async, and on
litellm, which it takes where a gateway is named in the environment."""

from __future__ import annotations

import asyncio
import os

import dspy


def weather(city: str, day: int) -> str:
    """The weather in a city, some days from now."""
    return f"sunny in {city} on day {day}"


own = dspy.LM("openai/gpt-4o", engine="lm15", api_base=os.environ["OPENAI_BASE_URL"])
litellm = dspy.LM("openai/gpt-4o")
find = dspy.ReAct("question -> places", tools=[weather])
tell = dspy.ChainOfThought("places -> verse")

for lm, day in ((own, "Monday"), (litellm, "Tuesday")):
    with dspy.context(lm=lm, track_usage=True):
        found = find(question=f"Where is it sunny on {day}?")
        print(found.places, found.trajectory, found.get_lm_usage())
        told = asyncio.run(tell.acall(places=found.places))
        print(told.verse, told.reasoning, told.get_lm_usage())
