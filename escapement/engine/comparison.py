"""Two traces compared: which step is which, and what is different in each pair.

What is compared of a pair is what each step adds: a conversation that differs once differs in every later request, and
that is one difference. Tokens, cost and time are told, and make no difference by themselves; nor do the ids of calls
and answers, which are new in every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from escapement.engine import kinds
from escapement.engine.alignment import align
from escapement.engine.differences import Difference, first_difference
from escapement.engine.readings import Reading, likeness, readings
from escapement.store.rows import TraceRow
from escapement.words.errors import StoreError

PARTS = ("model", "parameters", "tools", "prompt", "answer", "tool calls", "error")
"""What two steps may differ in, those of the request first."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two steps that are one another's counterpart, or one that has none. `changes` are of `PARTS`."""

    left: Reading | None
    right: Reading | None
    changes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return self.left is not None and self.right is not None and not self.changes


@dataclass(frozen=True, slots=True)
class First:
    """The first pair that differs, where its requests do (None where they do not), and what kind that is."""

    pair: Pair
    difference: Difference | None
    kind: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two traces, step by step."""

    left: TraceRow
    right: TraceRow
    pairs: Sequence[Pair]

    @property
    def same(self) -> bool:
        return all(pair.same for pair in self.pairs)

    def counts(self) -> Mapping[str, int]:
        """How many pairs are `same`, `changed`, `only left`, `only right`, and changed in each of `PARTS`."""
        found: Counter[str] = Counter()
        for pair in self.pairs:
            alone = "only left" if pair.right is None else "only right" if pair.left is None else ""
            found[alone or ("same" if pair.same else "changed")] += 1
            found.update(pair.changes)
        return found

    def first(self) -> First | None:
        """The first difference; None where there is none."""
        pair = next((pair for pair in self.pairs if not pair.same), None)
        if pair is None:
            return None
        if pair.left is None or pair.right is None:
            return First(pair, None, "extra_call" if pair.left is None else "dropped_call")
        try:
            mine, theirs = (
                orjson.loads(trace.request_body(reading.row))
                for trace, reading in ((self.left, pair.left), (self.right, pair.right))
            )
        except (StoreError, orjson.JSONDecodeError):
            return First(pair, None, "")
        difference = first_difference(mine, theirs)
        return First(pair, difference, kinds.kind_of(difference, theirs) if difference is not None else "")


def compare(left: TraceRow, right: TraceRow) -> Comparison:
    """Two traces compared."""
    mine, theirs = list(readings(left)), list(readings(right))
    pairs = align(
        [reading.keys for reading in mine],
        [reading.keys for reading in theirs],
        lambda i, j: likeness(mine[i], theirs[j]),
    )
    found = []
    for i, j in pairs:
        one, other = mine[i] if i is not None else None, theirs[j] if j is not None else None
        found.append(Pair(one, other, _changes(one, other) if one is not None and other is not None else ()))
    return Comparison(left, right, found)


def _changes(mine: Reading, theirs: Reading) -> tuple[str, ...]:
    values = (
        (mine.model, theirs.model),
        (mine.fields, theirs.fields),
        (mine.tools, theirs.tools),
        (mine.prompt, theirs.prompt),
        ((mine.answer, mine.raw), (theirs.answer, theirs.raw)),
        (mine.calls, theirs.calls),
        (mine.error, theirs.error),
    )
    return tuple(part for part, (one, other) in zip(PARTS, values, strict=True) if one != other)
