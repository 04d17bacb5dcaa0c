r"""Normalisers: what of a request does not count when it is compared with a recorded one, as the user declares it.

    timestamp                           wherever something looks like one (`LOOKS`)
    messages[*].content                 whatever looks like any of them, in this field
    messages[*].content: timestamp      what looks like one, in this field
    /run-\d+/                           what a regular expression finds; in a field: `metadata.run: /\d+/`
    re.compile(r"run-\d+")              the same
    a function                          takes the body of a request (a mapping), returns what counts of it

A field is named as explanations name it; `[*]` is any entry of a list and `*` any key, and a path goes on into JSON
that stands in a string (`messages[*].tool_calls[*].function.arguments.query`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LOOKS = ("uuid", "timestamp", "path", "random_id", "number")
"""What can be told by its form (`engine/looks.py` has the patterns)."""

Key = str | int
Field = tuple[Key, ...]
"""A path as its keys and indices; `*` stands for any."""

_KEY = r"[^.\[\]:/\s]+"
_FIELD = re.compile(rf"{_KEY}(?:\.{_KEY}|\[(?:\*|\d+)\])*")
_PART = re.compile(rf"({_KEY})|\[(\*|\d+)\]")


@dataclass(frozen=True, slots=True)
class Normaliser:
    """One declaration. `field` is empty for the whole body; `what` are looks, a pattern, or a function of the body."""

    field: Field
    what: tuple[str, ...] | re.Pattern[str] | Callable[[Any], Any]

    def __str__(self) -> str:
        if isinstance(self.what, tuple):
            what = "" if self.field and self.what == LOOKS else ", ".join(self.what)
        elif isinstance(self.what, re.Pattern):
            what = f"/{self.what.pattern}/"
        else:
            what = getattr(self.what, "__qualname__", None) or repr(self.what)
        return ": ".join(part for part in (show_field(self.field), what) if part)


def parse_field(text: str) -> Field:
    """`messages[*].content` as its parts. Raises ValueError for what is none."""
    if not _FIELD.fullmatch(text):
        raise ValueError(f"{text!r} is not a field")
    return tuple(key or (int(index) if index.isdigit() else index) for key, index in _PART.findall(text))


def show_field(field: Field) -> str:
    """Parts as a path. A `*` within a list and one that is a key read alike, and mean the same."""
    shown = ""
    for number, part in enumerate(field):
        if isinstance(part, int) or (part == "*" and number):
            shown += f"[{part}]"
        else:
            shown += f".{part}" if shown else part
    return shown


def any_entry(path: str) -> str:
    """A path with every index replaced by any: `messages[3].content` → `messages[*].content`."""
    return re.sub(r"\[\d+\]", "[*]", path)


def parse(value: object) -> Normaliser:
    """A declaration. Raises ValueError for what is none."""
    if isinstance(value, Normaliser):
        return value
    if isinstance(value, re.Pattern):
        if not isinstance(value.pattern, str):
            raise ValueError("a pattern of bytes")
        return Normaliser((), value)
    if callable(value):
        return Normaliser((), value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a normaliser")
    text = value.strip()
    if text in LOOKS or _is_pattern(text):
        return Normaliser((), _what(text))
    field, colon, what = text.partition(":")
    return Normaliser(parse_field(field.strip()), _what(what.strip()) if colon else LOOKS)


def _is_pattern(text: str) -> bool:
    return len(text) > 2 and text[0] == text[-1] == "/"


def _what(text: str) -> tuple[str, ...] | re.Pattern[str]:
    if _is_pattern(text):
        try:
            return re.compile(text[1:-1])
        except re.error as error:
            raise ValueError(f"{text} is not a regular expression: {error}") from None
    if text not in LOOKS:
        raise ValueError(f"{text!r} is not one of {', '.join(LOOKS)}, nor a /pattern/")
    return (text,)
