"""What the pretended model says: text, structured text, or calls of the caller's tools."""

from __future__ import annotations

import json
from typing import Any

from . import words
from .exchange import Json, Question
from .schema import sample


def said(question: Question, asked: str, schema: Json | None) -> str:
    """The text of an answer; `asked` is the last thing the user said, which the model `echo` repeats."""
    if question.model == "echo":
        return asked
    if schema is not None:
        return json.dumps(sample(schema), ensure_ascii=words.chance(0.5))
    return words.text()


def calls(question: Question, tools: dict[str, Json], answered: bool) -> list[tuple[str, Json]]:
    """One or two calls of the tools (parameter schemas by name), none once they have been answered."""
    if not tools or answered or question.model == "echo":
        return []
    return [_call(tools, words.pick(list(tools))) for _ in range(words.integer(1, 2))]


def _call(tools: dict[str, Json], name: str) -> tuple[str, Json]:
    return name, sample({"type": "object", **tools[name]})


def plain(content: Any) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def last_user_text(messages: list[Json]) -> str:
    """The text of the last message of the user."""
    spoken = [message for message in messages if message.get("role") == "user"]
    return plain(spoken[-1].get("content")) if spoken else ""
