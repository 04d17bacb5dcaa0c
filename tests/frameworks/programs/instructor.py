"""instructor: a loop over typed answers, on OpenAI and on Anthropic, and one that comes in parts."""

from __future__ import annotations

import instructor
from pydantic import BaseModel


class Lookup(BaseModel):
    """What to look up."""

    city: str
    day: int


class Report(BaseModel):
    """What was found."""

    headline: str
    sunny: bool


def weather(city: str, day: int) -> str:
    return f"sunny in {city} on day {day}"


for provider in ("openai/gpt-4o", "anthropic/claude-sonnet-4-5"):
    client = instructor.from_provider(provider, max_tokens=1024)
    messages = [{"role": "user", "content": "Where is it sunny?"}]
    for _ in range(2):
        wanted = client.create(response_model=Lookup, messages=messages)
        found = weather(wanted.city, wanted.day)
        print(wanted, found)
        messages += [{"role": "assistant", "content": found}, {"role": "user", "content": "Go on."}]
    report, completion = client.create_with_completion(response_model=Report, messages=messages)
    print(report, completion.usage)

client = instructor.from_provider("openai/gpt-4o")
for part in client.create_partial(response_model=Report, messages=messages):
    print(part)
