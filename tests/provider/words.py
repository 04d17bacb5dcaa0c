"""Random words, ids and numbers, so that no two answers are ever alike."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from typing import TypeVar

# Not the module-level generator: a test that seeds `random` must not make the provider repeat itself.
_random = secrets.SystemRandom()

_CONSONANTS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiou"

# What text handling gets wrong most easily; every text carries one of each.
FOREIGN = (
    "naïve café",
    "Grüße, Øyvind",
    "日本語テスト",
    "Привет",
    "שלום",
    "🙂",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "e\u0301 (combining)",
    "line\u2028separator",
)
ESCAPED = (
    '"quoted"',
    "back\\slash \\n \\u00e9",
    "tab\there",
    "line\n\nbreak\r\nbreak",
    "</script><b>&amp;",
    "data: [DONE]",
    "bell\u0007",
    "two  spaces",
)
TRAILING = ("", " ", "  ", "\n", "\n\n", "\t", "…")

_Item = TypeVar("_Item")


def integer(low: int, high: int) -> int:
    """A random integer, both ends included."""
    return _random.randint(low, high)


def number(low: float, high: float) -> float:
    """A random float."""
    return _random.uniform(low, high)


def chance(probability: float) -> bool:
    """True that often."""
    return _random.random() < probability


def pick(items: Sequence[_Item]) -> _Item:
    """One of the items."""
    return _random.choice(items)


def word() -> str:
    """A made-up word of two to four syllables."""
    return "".join(pick(_CONSONANTS) + pick(_VOWELS) for _ in range(integer(2, 4)))


def words(count: int) -> str:
    """That many made-up words, in plain ASCII."""
    return " ".join(word() for _ in range(count))


def text() -> str:
    """A paragraph as a model would write it, with characters that are easy to lose."""
    parts = [words(integer(2, 6)), words(integer(2, 6)), pick(FOREIGN), pick(ESCAPED)]
    _random.shuffle(parts)
    return ", ".join(parts) + "." + pick(TRAILING)


def pieces(whole: str) -> list[str]:
    """The string cut into small deltas, which joined give it back."""
    cut: list[str] = []
    at = 0
    while at < len(whole):
        size = integer(1, 9)
        cut.append(whole[at : at + size])
        at += size
    return cut


def identifier(prefix: str, length: int = 24) -> str:
    """A random id such as `call_9fKq…`."""
    return prefix + "".join(_random.choices(string.ascii_letters + string.digits, k=length))


def hexadecimal(length: int) -> str:
    """That many random hex digits."""
    return "".join(_random.choices("0123456789abcdef", k=length))


def extra() -> dict[str, object]:
    """The value of a field no SDK knows, to see whether unknown fields survive."""
    return {"note": text(), "score": number(0, 1), "trace": [hexadecimal(8), None, integer(-9, 9)]}
