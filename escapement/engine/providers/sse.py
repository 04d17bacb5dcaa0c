"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson


def events(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each event whose data is a JSON object; `[DONE]`, comments and cut-off events are passed over."""
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


_ENDS = (b"data: [DONE]", b"data:[DONE]", b"event: message_stop", b"event: response.completed", b"event: response.failed")


def is_finished(body: bytes) -> bool:
    """Whether a stream says in its last events that nothing follows."""
    last = body[-65536:]
    return any(mark in last for mark in (*_ENDS, b'"response.completed"', b'"response.incomplete"', b"event: error"))


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
