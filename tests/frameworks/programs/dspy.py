"""DSPy: ReAct with a tool, then a chain of thought about what it found."""

from __future__ import annotations

import dspy


def weather(city: str, day: int) -> str:
    """The weather in a city, some days from now."""
    return f"sunny in {city} on day {day}"


dspy.configure(lm=dspy.LM("openai/gpt-4o"), track_usage=True)

found = dspy.ReAct("question -> places", tools=[weather])(question="Where is it sunny?")
print(found.places, found.trajectory, found.get_lm_usage())
told = dspy.ChainOfThought("places -> verse")(places=found.places)
print(told.verse, told.reasoning, told.get_lm_usage())
