"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson


def events(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each event whose data is a JSON object; `[DONE]`, comments and cut-off events do not count."""
    name = ""
    data: list[bytes] = []
    for line in body.splitlines():
        if not line:
            if data:
                document = _object(b"\n".join(data))
                if document is not None:
                    yield name, document
            name, data = "", []
        elif line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")


_LAST = ("message_stop", "message-end", "error", "response.completed", "response.failed", "response.incomplete")


def is_finished(body: bytes) -> bool:
    """Whether the last event of a stream says that nothing follows."""
    last = body.rstrip().rpartition(b"\n\n")[2]
    lines = last.splitlines()
    if any(line.startswith((b"data: [DONE]", b"data:[DONE]")) for line in lines):
        return True
    return any(name in _LAST or data.get("type") in _LAST for name, data in events(last + b"\n\n"))


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
