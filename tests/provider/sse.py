"""Server-sent events, as bytes on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from . import words

DONE = b"data: [DONE]\n\n"


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One event; without a name just its data, as the chat completions API sends it."""
    # Providers differ in whether they escape non-ASCII text, so both forms are sent.
    line = json.dumps(data, ensure_ascii=words.chance(0.3), separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + b"data: " + line.encode() + b"\n\n"


def chunks(events: Iterable[bytes]) -> Iterator[bytes]:
    """The events as the network hands them over: now and then one is cut, even inside a character."""
    for whole in events:
        if len(whole) > 1 and words.chance(0.1):
            middle = words.integer(1, len(whole) - 1)
            yield whole[:middle]
            yield whole[middle:]
        else:
            yield whole
