"""What makes the same thing look new: ids, times and counters; and what a failed tool looks like.

Two texts are alike when they are the same once these are masked. Masking costs about 0.1 µs a character, so `alike`
looks first at where two texts part: most part at a word, and then nothing is masked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import orjson

_TIMES = (
    r"(?:19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?"
    r"(?: ?Z| ?UTC|[+-][0-9]{2}:?[0-9]{2})?)"
    r"|[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?(?: ?[AP]M)?"
    r"|1[5-9][0-9]{8}(?:[0-9]{3}){0,3}(?:\.[0-9]+)?"
    r"|[0-9]+(?:\.[0-9]+)? ?(?:ns|[µm]s|s|secs?|seconds|milliseconds)"
)
_TRANSPORT = r"(?:call|toolu|req|resp|msg|run|chatcmpl|fc|rs)[_-](?=[A-Za-z]*[0-9])[0-9A-Za-z_-]{6,}"
_IDS = (
    r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
    r"|(?=[A-Fa-f]*[0-9])[0-9a-fA-F]{16,128}"
)
_COUNTERS = (
    r"(?:attempts?|retry|retries|tries|iteration|round|turn|request|try)(?:[ _-](?:number|count|no|id))?"
    r"[\"']?[ :=#(]{0,3}[0-9]+(?:(?: of |/)[0-9]+)?"
)


def _pattern(*parts: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![0-9A-Za-z])(?:{'|'.join(parts)})(?![0-9A-Za-z])", re.IGNORECASE)


_ALL: Final = _pattern(_IDS, _TRANSPORT, _TIMES, _COUNTERS)
_PASSING: Final = _pattern(_TRANSPORT, _TIMES, _COUNTERS)
_DIGIT: Final = re.compile("[0-9]").search
_LETTERS: Final = str.maketrans("-0123456789", "abcdefghijk")
_MARK: Final = "⟨⟩"
_MOST: Final = 4096  # characters of a text that are masked, half from its start, half from its end
_NEAR: Final = 48  # characters around a difference that say what it is
_STRAY: Final = 64  # characters by which texts that are alike may differ in length

_NOISE: Final = frozenset(
    {
        "request_id", "trace_id", "span_id", "correlation_id", "idempotency_key", "nonce", "timestamp", "ts", "now",
        "current_time", "attempt", "attempts", "retry", "retries", "retry_count", "iteration",
    }
)  # fmt: skip
"""Arguments that say when or how often a tool is called, not what it is to do."""


def clipped(text: str) -> str:
    """A text as it is kept to be compared: a long one by its ends and a hash of what is between them."""
    if len(text) <= _MOST:
        return text
    half = _MOST // 2
    between = str(hash(text[half:-half])).translate(_LETTERS)  # no number: it must not be masked
    return f"{text[:half]}\n{between}\n{text[-half:]}"


def masked(text: str, *, ids: bool = True) -> str:
    """A text without times, counters and the ids of requests; with `ids` without any uuid or long hex number, too."""
    if _DIGIT(text) is None:
        return text
    return (_ALL if ids else _PASSING).sub(_MARK, text)


def alike(one: str, other: str, *, ids: bool = True) -> bool:
    """Whether two clipped texts are the same once they are masked."""
    if one == other:
        return True
    if not one or not other or abs(len(one) - len(other)) > _STRAY:
        return False
    # Only what lies between a common beginning and a common end has to be masked, with what gives it its meaning.
    most = min(len(one), len(other))
    start = _common(lambda size: one[:size] == other[:size], most)
    if not (_is_masked_at(one, start, ids) and _is_masked_at(other, start, ids)):
        return False
    end = _common(lambda size: one[len(one) - size :] == other[len(other) - size :], most - start)
    start, end = max(0, start - _NEAR), max(0, end - _NEAR)
    one, other = one[start : len(one) - end], other[start : len(other) - end]
    return masked(one, ids=ids) == masked(other, ids=ids)


def _is_masked_at(text: str, place: int, ids: bool) -> bool:
    """Whether something at a place of a text (or up to it) is masked."""
    before = max(0, place - _NEAR)
    near, place = text[before : place + _NEAR], place - before
    if _DIGIT(near) is None:
        return False
    return any(found.start() <= place <= found.end() for found in (_ALL if ids else _PASSING).finditer(near))


def _common(same: Callable[[int], bool], most: int) -> int:
    """The greatest size up to `most` for which two texts are the same."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if same(middle):
            low = middle
        else:
            high = middle - 1
    return low


def arguments(text: str) -> str:
    """Arguments of a tool in canonical form, without those that only say when or how often."""
    try:
        document: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.strip()
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if key.lower() not in _NOISE}
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()


_FAILED: Final = re.compile(
    r"\s*(?:<(?:tool_use_)?error|[\[(*# ]{0,3}error\b|(?:[a-z_]+\.)*[a-z_]*(?:error|exception)\b\s*[:(]"
    r"|traceback \(most recent|an error (?:occurred|while)|.{0,20}encountered an error|failed to |fatal:"
    r'|\{[^{}\[\]]{0,80}?"(?:(?:error|errors|exception)"\s*:(?!\s*(?:null|false|""|\[\]|\{\}))'
    r'|is_?error"\s*:\s*true|(?:success|ok)"\s*:\s*false|status"\s*:\s*"(?:error|failed|failure)"))',
    re.IGNORECASE,
).match


def failed(result: str) -> bool:
    """Whether the result of a tool reads like an error; protocols other than Anthropic's have no field that says it."""
    return _FAILED(result, 0, 300) is not None
