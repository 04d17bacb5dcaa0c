"""What a difference looks like: values that are new in every run, by their form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from escapement.store.pieces import same_start
from escapement.words.normalisers import LOOKS

_DAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_WEEKDAY = rf"(?:{_DAY}|Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_CLOCK = r"\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?[AaPp]\.?[Mm]\b\.?)?"
_ZONE = r"(?:\s?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?"

PATTERNS: dict[str, re.Pattern[str]] = {
    "uuid": re.compile(r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"),
    "timestamp": re.compile(
        rf"\b\d{{4}}[-/]\d\d[-/]\d\d(?:[T ,]\s?{_CLOCK}{_ZONE})?"
        rf"|\b(?:{_WEEKDAY},?\s+)?\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+\d{{4}})?(?:,?\s+{_CLOCK}{_ZONE})?"
        rf"|\b(?:{_WEEKDAY},?\s+)?{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s+{_CLOCK})?(?:,?\s+\d{{4}})?"
        rf"(?:,?\s+{_CLOCK}{_ZONE})?"
        rf"|\b\d{{1,2}}[./]\d{{1,2}}[./](?:\d{{4}}|\d\d)\b(?:,?\s+{_CLOCK})?|\b{_CLOCK}{_ZONE}|\b{_DAY}\b"
        r"|\b1[6-9]\d{8}(?:\.\d+|\d{3}|\d{6}|\d{9})?\b"
    ),
    "path": re.compile(r"(?<![\w:/.])(?:~|\.{1,2})?(?:/[\w.@+~-]+){2,}/?|\b[A-Za-z]:\\[^\s\"'<>|]+"),
    "random_id": re.compile(
        r"(?<![A-Za-z0-9])(?:[A-Za-z]+[_-])?(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{8,}(?![A-Za-z0-9])"
        r"|\b(?:call|toolu|msg|resp|chatcmpl|run|req)[_-][A-Za-z0-9]{8,}"
    ),
    "number": re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*(?![A-Za-z_])"),
}
"""In the order in which they are asked: a uuid holds numbers, and a path may hold anything."""

assert tuple(PATTERNS) == LOOKS


def look_of(recorded: Any, requested: Any) -> str:
    """What the first difference of two values looks like, a key of `PATTERNS`; empty for anything else."""
    if isinstance(recorded, bool) or isinstance(requested, bool):
        return ""
    if isinstance(recorded, int | float) and isinstance(requested, int | float):
        epochs = (PATTERNS["timestamp"].fullmatch(str(value)) for value in (recorded, requested))
        return "timestamp" if all(epochs) else "number"
    if not isinstance(recorded, str) or not isinstance(requested, str):
        return ""
    at = same_start(recorded, requested)
    for name, pattern in PATTERNS.items():
        mine, theirs = _around(pattern, recorded, at), _around(pattern, requested, at)
        if mine and theirs and mine != theirs:
            return name
    return ""


def _around(pattern: re.Pattern[str], text: str, at: int) -> str:
    """What a pattern finds at a place of a text; looked for in its neighbourhood only, for texts may be long."""
    for found in pattern.finditer(text, max(0, at - 200), at + 200):
        if found.start() <= at <= found.end():
            return found.group()
        if found.start() > at:
            break
    return ""


def explained(recorded: str, requested: str) -> tuple[str, ...]:
    """The looks that account for all that two texts differ in; none where something else differs, too."""
    looks: list[str] = []
    for look in _looks(recorded, requested):
        looks.append(look)
        recorded, requested = mask(recorded, look), mask(requested, look)
        if recorded == requested:
            return tuple(looks)
    return ()


def _looks(recorded: str, requested: str) -> Iterator[str]:
    for look, pattern in PATTERNS.items():
        if pattern.findall(recorded) != pattern.findall(requested):
            yield look


def mask(text: str, look: str) -> str:
    """A text with all that looks like this replaced by `<timestamp>`, `<uuid>` and so on."""
    return PATTERNS[look].sub(f"<{look}>", text)
