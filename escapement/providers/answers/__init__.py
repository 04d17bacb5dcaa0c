"""How answers are written: with another text and other tool calls, and as the events of a stream.

Reading is the business of the modules beside this folder. These here are for an answer that somebody edited, so that
an SDK reads it as if the model had given it: `rewrite` puts a message in the place of what a document says, and
`split` is the inverse of an operation's `gather`, after the example of the events that were recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import orjson

from escapement.providers.operation import ToolCall

_PIECE = re.compile(r"\s*\S+|\s+")


def pieces(text: str) -> Iterator[str]:
    """A text as models send it: a word at a time. Joined they are the text."""
    return (found.group() for found in _PIECE.finditer(text))


def arguments_of(call: ToolCall) -> Any:
    """The arguments of a call, for protocols that have them as an object. Raises ValueError if they are not JSON."""
    return orjson.loads(call.arguments or "{}")


def id_of(call: ToolCall, number: int, prefix: str) -> str:
    """The id of a call: its own, or one that is the same every time."""
    digest = blake2b(f"{number} {call}".encode(), digest_size=12).hexdigest()
    return call.id or f"{prefix}{digest}"


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A copy that lacks some fields."""
    return {name: value for name, value in document.items() if name not in names}
