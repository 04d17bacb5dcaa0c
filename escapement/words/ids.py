"""Trace ids: `tr_` and twelve lower-case hex digits, the first 48 bits of the OpenTelemetry trace id of the run."""

from __future__ import annotations

import re
import secrets

PREFIX = "tr_"
LENGTH = len(PREFIX) + 12
_PARTIAL = re.compile(r"(?:tr_)?[0-9a-f]{0,12}")


def new_otel_trace_id() -> int:
    """A random 128-bit OpenTelemetry trace id that is never zero in its first 48 bits."""
    return (secrets.randbits(48) or 1) << 80 | (secrets.randbits(80) or 1)


def trace_id_of(otel_trace_id: int) -> str:
    """The short id, `tr_` + 12 hex digits, that belongs to a 128-bit OpenTelemetry trace id."""
    return f"{PREFIX}{otel_trace_id >> 80:012x}"


def as_prefix(text: str) -> str | None:
    """`text` as the start of a trace id, or None where it cannot be one (so it never reaches a path)."""
    if not _PARTIAL.fullmatch(text):
        return None
    return text if text.startswith(PREFIX) else PREFIX + text
