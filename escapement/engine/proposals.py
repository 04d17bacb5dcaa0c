"""Proposals: what should not count when requests are compared, by what two runs of the same agent differ in.

Only what looks unstable by its form is proposed, and only where that is all that differs. What the model itself said is
passed over: in a replay it says the same again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from escapement.engine import kinds
from escapement.engine.comparison import Pair, compare
from escapement.engine.differences import Difference, differences
from escapement.engine.looks import explained, look_of
from escapement.engine.normalising import Normalising
from escapement.store.rows import StepRow, TraceRow
from escapement.words.errors import StoreError
from escapement.words.normalisers import any_entry, parse, parse_field

_BYTES = 40_000_000  # of requests that are looked at
_SETTINGS = ("changed_model", "changed_parameter")
_GUESSES = ("number", "random_id")
"""Looks that a model's words may have as well: not believed once the runs were told different things."""


@dataclass(slots=True)
class Proposal:
    """One thing that should not count: a look in a field, or (`whole`) the field itself. `steps` are of the first
    trace, `examples` a value of each."""

    field: str
    look: str
    whole: bool
    examples: tuple[Any, Any]
    steps: list[int] = dataclasses.field(default_factory=list)

    @property
    def declaration(self) -> str:
        return self.field if self.whole else f"{self.field}: {self.look}"


@dataclass(slots=True)
class Proposals:
    """What two traces differ in: what is proposed, and what nothing is proposed for (field and kind, with the steps).

    Of `looked` steps of each, `before` are the same request as they are, and `after` with what is proposed.
    """

    found: list[Proposal] = dataclasses.field(default_factory=list)
    left_over: dict[tuple[str, str], list[int]] = dataclasses.field(default_factory=dict)
    looked: int = 0
    before: int = 0
    after: int = 0
    parted: bool = False
    """Whether the model answered otherwise, so that later requests differ by what it said."""

    @property
    def normalize(self) -> list[str]:
        return [proposal.declaration for proposal in self.found if not proposal.whole]

    @property
    def ignore(self) -> list[str]:
        return [proposal.declaration for proposal in self.found if proposal.whole]


def propose(left: TraceRow, right: TraceRow) -> Proposals:
    """What should not count when `right` is replayed from `left`."""
    proposals = Proposals()
    found: dict[str, Proposal] = {}
    documents: tuple[list[tuple[str, Any]], list[tuple[str, Any]]] = ([], [])
    told = ""  # what the model said so far, in both runs
    for pair, mine, theirs in _requests(left, right):
        assert pair.left is not None
        assert pair.right is not None
        proposals.looked += 1
        for side, reading, document in zip(documents, (pair.left, pair.right), (mine, theirs), strict=True):
            side.append((_operation(reading.row), document))
        for difference in differences(mine, theirs):
            kind = kinds.kind_of(difference, theirs)
            if kind == "changed_history" or _is_told(difference, told):
                continue
            looks = _looks(difference) if kind not in _SETTINGS else ()
            path = any_entry(difference.path)
            step = pair.left.row.step
            if not looks and not proposals.parted:
                steps = proposals.left_over.setdefault((path, kind), [])
                steps += [step] if step not in steps else []
            for look in looks:
                if proposals.parted and look in _GUESSES:
                    continue
                proposal = Proposal(path, look, _is_whole(difference), (difference.recorded, difference.requested))
                proposal = found.setdefault(proposal.declaration, proposal)
                proposal.steps += [step] if step not in proposal.steps else []
        told += pair.left.row.body().decode("utf-8", "replace") + pair.right.row.body().decode("utf-8", "replace")
        proposals.parted |= not {"answer", "tool calls", "error"}.isdisjoint(pair.changes)
    proposals.found = list(found.values())
    normalising = Normalising(
        tuple(parse(text) for text in proposals.normalize), tuple(parse_field(text) for text in proposals.ignore)
    )
    proposals.before, proposals.after = _matching(documents, Normalising()), _matching(documents, normalising)
    return proposals


def _requests(left: TraceRow, right: TraceRow) -> Iterator[tuple[Pair, Any, Any]]:
    """Pairs of steps with the documents that they sent, as many as may be looked at."""
    size = 0
    for pair in compare(left, right).pairs:
        if pair.left is None or pair.right is None or size > _BYTES:
            continue
        try:
            bodies = left.request_body(pair.left.row), right.request_body(pair.right.row)
            yield pair, orjson.loads(bodies[0]), orjson.loads(bodies[1])
        except (StoreError, orjson.JSONDecodeError):
            continue
        size += sum(map(len, bodies))


def _looks(difference: Difference) -> Sequence[str]:
    mine, theirs = difference.recorded, difference.requested
    if isinstance(mine, str) and isinstance(theirs, str):
        return explained(mine, theirs)
    look = look_of(mine, theirs)
    return (look,) if look else ()


def _is_told(difference: Difference, told: str) -> bool:
    """Whether the program has both values from the model."""
    values = (difference.recorded, difference.requested)
    return all(isinstance(value, str) and value != "" and value in told for value in values)


def _is_whole(difference: Difference) -> bool:
    """Whether a field holds nothing but what is unstable, and is no part of what is said."""
    values = (difference.recorded, difference.requested)
    return not kinds.is_spoken(difference) and not any(isinstance(value, str) and " " in value for value in values)


def _operation(row: StepRow) -> str:
    return row.name.partition(" ")[0]


def _matching(documents: tuple[Sequence[tuple[str, Any]], ...], normalising: Normalising) -> int:
    """How many requests of one trace are requests of the other."""
    counts = []
    for side in documents:
        count: Counter[bytes] = Counter()
        for operation, document in side:
            canonical = orjson.dumps(normalising.document(document), option=orjson.OPT_SORT_KEYS)
            count[blake2b(operation.encode() + canonical, digest_size=16).digest()] += 1
        counts.append(count)
    return (counts[0] & counts[1]).total()
