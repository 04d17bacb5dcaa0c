"""Streams of JSON objects, one a line: https://github.com/ndjson/ndjson-spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson


def events(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The object of each line, without a name; a line that was cut off does not count."""
    for line in body.split(b"\n"):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(document, dict):
            yield "", document
