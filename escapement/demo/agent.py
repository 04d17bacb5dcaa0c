"""The demo's agent: four calls to a language model, each building on those before it.

An ordinary program. It uses the OpenAI and the Anthropic SDK, plain calls and streams, and knows nothing of
Escapement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anthropic import Anthropic
from openai import OpenAI

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Step:
    """One call: what came back, as the SDK gave it to the program."""

    label: str
    sdk: str
    text: str
    chunks: list[str]
    """The pieces in which a stream brought the text; empty if it came at once."""
    usage: dict[str, Any]
    model: str
    id: str
    stop: str | None
    """Why the model stopped: `stop` or `end_turn` when done, `length` or `max_tokens` when cut off."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One run of the agent."""

    steps: tuple[Step, ...]


def run_agent(base_url: str, topic: str, on_text: Callable[[str, str], None]) -> Transcript:
    """Put a soup of `topic` on the menu. `on_text` gets a step's label and its text, piece by piece."""
    with (
        OpenAI(base_url=f"{base_url}/v1", api_key="not-needed", max_retries=0) as openai,
        Anthropic(base_url=base_url, api_key="not-needed", max_retries=0) as anthropic,
    ):
        name = invent(openai, topic, on_text)
        recipe = explain(openai, name.text, on_text)
        menu = sum_up(anthropic, recipe.text, on_text)
        review = criticise(anthropic, recipe.text, on_text)
    return Transcript((name, recipe, menu, review))


def invent(client: OpenAI, topic: str, on_text: Callable[[str, str], None]) -> Step:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "user", "content": "Invent a soup of carrots and ginger. Say only its name."},
            {"role": "assistant", "content": "Golden Carrot and Ginger Soup"},
            {"role": "user", "content": f"Invent a soup of {topic}. Say only its name."},
        ],
        temperature=1,
        max_tokens=20,
        stop=["\n"],
    )
    choice = answer.choices[0]
    text = choice.message.content or ""
    on_text("name", text)
    usage = answer.usage.model_dump(exclude_none=True) if answer.usage else {}
    return Step("name", "OpenAI", text, [], usage, answer.model, answer.id, choice.finish_reason)


def explain(client: OpenAI, soup: str, on_text: Callable[[str, str], None]) -> Step:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"How do I cook {soup}? Answer in two short sentences."}],
        temperature=1,
        max_tokens=50,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks: list[str] = []
    usage: dict[str, Any] = {}
    model = response_id = ""
    stop: str | None = None
    for chunk in stream:
        model, response_id = chunk.model, chunk.id
        if chunk.usage:
            usage = chunk.usage.model_dump(exclude_none=True)
        for choice in chunk.choices:
            stop = choice.finish_reason or stop
            if piece := choice.delta.content:
                chunks.append(piece)
                on_text("recipe", piece)
    return Step("recipe", "OpenAI", "".join(chunks), chunks, usage, model, response_id, stop)


def sum_up(client: Anthropic, recipe: str, on_text: Callable[[str, str], None]) -> Step:
    message = client.messages.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"{recipe}\n\nSummarise this recipe in one short sentence."}],
        max_tokens=40,
    )
    text = "".join(block.text for block in message.content if block.type == "text")
    on_text("menu", text)
    usage = message.usage.model_dump(exclude_none=True)
    return Step("menu", "Anthropic", text, [], usage, message.model, message.id, message.stop_reason)


def criticise(client: Anthropic, recipe: str, on_text: Callable[[str, str], None]) -> Step:
    chunks: list[str] = []
    with client.messages.stream(
        model=MODEL,
        messages=[
            {
                "role": "user",
                "content": f"{recipe}\n\nWhat does a food critic say about it? Answer in one sentence.",
            }
        ],
        max_tokens=40,
    ) as stream:
        for piece in stream.text_stream:
            chunks.append(piece)
            on_text("review", piece)
        message = stream.get_final_message()
    text = "".join(chunks)
    usage = message.usage.model_dump(exclude_none=True)
    return Step("review", "Anthropic", text, chunks, usage, message.model, message.id, message.stop_reason)
