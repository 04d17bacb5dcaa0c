"""Where two JSON documents differ, in the order of the recorded one, and how like each other they are.

Elements of lists are told apart by what they are (a removed tool is one difference, not a change of all that follow),
and JSON inside strings (tool arguments) is looked into.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from escapement.store.pieces import same_start

ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "(nothing)", "__bool__": lambda self: False})()
"""What one document has at a place that only the other one has."""

ALIKE = 0.5
"""From this likeness on one thing is another that was changed, and not a thing of its own."""

_PAIRS = 16  # of the elements of a list that differ: how many are looked at to say how alike two lists are


class Difference(NamedTuple):
    """Where two documents part: a path such as `messages[3].content`, and what each has there.

    `change` is `changed`, `added`, `removed`, or `reordered` (a list or text with the same entries in another order).
    """

    path: str
    recorded: Any
    requested: Any
    change: str = "changed"


def first_difference(recorded: Any, requested: Any) -> Difference | None:
    """The first place where two documents differ; None if they are equal."""
    return next(differences(recorded, requested), None)


def differences(recorded: Any, requested: Any, path: str = "") -> Iterator[Difference]:
    """Every place where two JSON documents differ."""
    if isinstance(recorded, dict) and isinstance(requested, dict):
        for key in itertools.chain(recorded, (key for key in requested if key not in recorded)):
            below = f"{path}.{key}" if path else str(key)
            yield from differences(recorded.get(key, ABSENT), requested.get(key, ABSENT), below)
    elif isinstance(recorded, list) and isinstance(requested, list):
        yield from _of_lists(recorded, requested, path)
    elif not _equal(recorded, requested):
        if isinstance(recorded, str) and isinstance(requested, str):
            mine, theirs = embedded(recorded), embedded(requested)
            if mine is not None and theirs is not None:
                inner = list(differences(mine, theirs, path))
                yield from inner or [Difference(path, recorded, requested)]  # they differ in white space
                return
            change = "reordered" if _permuted(_entries(recorded), _entries(requested)) else "changed"
            yield Difference(path, recorded, requested, change)
            return
        change = "added" if recorded is ABSENT else "removed" if requested is ABSENT else "changed"
        yield Difference(path, recorded, requested, change)


def _equal(mine: Any, theirs: Any) -> bool:
    """Equal as JSON: 1 and true are not, nor are 1 and 1.0 inside what is equal otherwise."""
    return type(mine) is type(theirs) and bool(mine == theirs)


def embedded(text: str) -> Any:
    """The JSON object or array that a text is; None if it is none."""
    if text[:1] not in ("{", "["):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _of_lists(mine: Sequence[Any], theirs: Sequence[Any], path: str) -> Iterator[Difference]:
    start, mine, theirs = middles(mine, theirs)
    if not mine and not theirs:
        return
    if len(mine) > 1 and _permuted([_canonical(one) for one in mine], [_canonical(one) for one in theirs]):
        yield Difference(f"{path}[{start}]", mine[0], theirs[0], "reordered")
        return
    at = to = 0
    while at < len(mine) or to < len(theirs):
        left, other = len(mine) - at, len(theirs) - to
        if left and other and (left == other or _likeness_of_elements(mine[at], theirs[to]) >= ALIKE):
            yield from differences(mine[at], theirs[to], f"{path}[{start + to}]")
            at, to = at + 1, to + 1
        elif left > other:
            yield Difference(f"{path}[{start + at}]", mine[at], ABSENT, "removed")
            at += 1
        else:
            yield Difference(f"{path}[{start + to}]", ABSENT, theirs[to], "added")
            to += 1


def middles(mine: Sequence[Any], theirs: Sequence[Any]) -> tuple[int, Sequence[Any], Sequence[Any]]:
    """What is left of two lists (or texts) without the entries that both start with and both end with."""
    start = same_start(mine, theirs)
    mine, theirs = mine[start:], theirs[start:]
    end = same_start(mine[::-1], theirs[::-1])
    return start, mine[: len(mine) - end], theirs[: len(theirs) - end]


def _permuted(mine: Sequence[Any], theirs: Sequence[Any]) -> bool:
    return len(mine) > 1 and len(mine) == len(theirs) and Counter(mine) == Counter(theirs)


def _entries(text: str) -> list[str]:
    """A text as a list or set that somebody wrote into it: its lines, or what stands between its commas."""
    lines = text.splitlines()
    return lines if len(lines) > 1 else [entry.strip(" {}[]().") for entry in text.split(",")]


def _canonical(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


# -- likeness --------------------------------------------------------------------------------------------------------


def likeness(mine: Any, theirs: Any) -> float:
    """How much two documents have in common, from 0 to 1. Symmetrical; what is equal is not looked into."""
    if mine == theirs:
        return 1.0
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return _likeness_of_mappings(mine, theirs)
    if isinstance(mine, list) and isinstance(theirs, list):
        most = max(len(mine), len(theirs))
        _, left, right = middles(mine, theirs)
        same = most - max(len(left), len(right))
        pairs = itertools.islice(zip(left, right, strict=False), _PAIRS)
        return (same + sum(_likeness_of_elements(*pair) for pair in pairs)) / most
    if isinstance(mine, str) and isinstance(theirs, str):
        return _likeness_of_texts(mine, theirs)
    return 0.0


def _likeness_of_mappings(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    whole = found = 0.0
    for key in sorted(mine.keys() | theirs.keys()):
        one, other = mine.get(key, ABSENT), theirs.get(key, ABSENT)
        weight = max(len(value) if isinstance(value, list) else 1 for value in (one, other)) or 1
        whole += weight
        found += weight * likeness(one, other)
    return found / whole


def _likeness_of_elements(mine: Any, theirs: Any) -> float:
    """Of elements of lists: two tools of different names, or messages of different roles, have nothing in common."""
    return likeness(mine, theirs) if _label(mine) == _label(theirs) else 0.0


def _label(element: Any) -> Any:
    if not isinstance(element, dict):
        return None
    function = element.get("function")
    name = function.get("name") if isinstance(function, dict) else element.get("name")
    return element.get("role"), element.get("type"), name


def _likeness_of_texts(mine: str, theirs: str) -> float:
    most = max(len(mine), len(theirs))
    _, left, right = middles(mine, theirs)
    rest = max(len(left), len(right))
    one, other = Counter(str(left).split()), Counter(str(right).split())
    shared = 2 * (one & other).total() / ((one.total() + other.total()) or 1)
    return (most - rest + rest * shared) / most
