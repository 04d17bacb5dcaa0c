"""What a span tells of a call, whoever made it: in the form of OpenTelemetry's conventions for messages.

A message is `{"role": …, "parts": [{"type": "text", "content": …}, …]}`, with parts of the types `text`, `reasoning`,
`tool_call` (`id`, `name`, `arguments`), `tool_call_response` (`id`, `response`), `blob` and `uri`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from escapement_exporters.foreign.decoding import Span

Message = Mapping[str, Any]

CHAT: Final = "chat/completions"
RESPONSES: Final = "responses"
MESSAGES: Final = "messages"
EMBEDDINGS: Final = "embeddings"


@dataclass(slots=True)
class Told:
    """One call. What is None is not in the span; `request` and `answer` are there where it holds whole bodies."""

    path: str
    """The operation, as its path ends."""
    model: str = ""
    asked: list[Message] | None = None
    said: list[Message] | None = None
    tools: list[Any] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    """Of the request, by the names that its protocol has for them."""
    stream: bool = False
    request: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None
    id: str = ""
    answered_by: str = ""
    """The model that says it answered."""
    finish: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    """Of `input`, `output`, `cache_read`, `cache_write`, `reasoning`: tokens. Those that were cached are input, too."""
    never: tuple[str, ...] = ()
    """What this instrumentation never says."""


def as_json(value: object) -> Any:
    """A value that an attribute holds as JSON text, or (in newer ones) as it is; None where it is neither."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def objects(value: object) -> list[dict[str, Any]] | None:
    """A list of objects that an attribute holds; None where it does not."""
    found = as_json(value)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else None


def text_of(span: Span, *names: str) -> str:
    """The first of these attributes that is text."""
    return next((value for name in names if isinstance(value := span.attributes.get(name), str) and value), "")


def counts(span: Span, names: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Whole numbers, by what they count; the first attribute that has one."""
    found: dict[str, int] = {}
    for what, candidates in names.items():
        for name in candidates:
            value = span.attributes.get(name)
            if type(value) is int and value >= 0:
                found[what] = value
                break
    return found


def unflattened(attributes: Mapping[str, Any], prefix: str) -> Any:
    """What stands under `prefix` in attributes like `prefix.0.role`: lists by number, else objects; None for nothing.

    Numbers are an order, not places: a stranger may write 2147483647.
    """
    tree: dict[str, Any] = {}
    start = prefix + "."
    for name, value in attributes.items():
        if not name.startswith(start):
            continue
        at, *rest = name[len(start) :].split(".")
        if len(rest) > 16:
            continue
        node = tree
        for part in rest:
            inner = node.setdefault(at, {})
            if not isinstance(inner, dict):
                break
            node, at = inner, part
        else:
            node.setdefault(at, value)
    return _listed(tree) if tree else None


def _listed(tree: dict[str, Any]) -> Any:
    whole = {key: _listed(value) if isinstance(value, dict) else value for key, value in tree.items()}
    if whole and all(key.isdecimal() and len(key) < 10 for key in whole):
        return [whole[key] for key in sorted(whole, key=int)]
    return whole
