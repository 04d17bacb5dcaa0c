"""Which step of one trace is which of another: aligned by what they ask, not by their numbers.

Steps that are known to be the same (by one key, then by a weaker one) are anchors; in the gaps between anchors, steps
are paired by how alike they are, so that the sum of likeness is the greatest. Order is kept on both sides. Everything
is symmetrical: exchanging the traces exchanges the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise

Keys = Sequence[str]
Pair = tuple[int | None, int | None]
Likeness = Callable[[int, int], float]

_PAIRED = 0.3
"""From this likeness on two steps are one that was changed."""
_LARGE = 10_000_000
_BAND = 32  # how far from the diagonal of a large gap pairs are looked for


def align(left: Sequence[Keys], right: Sequence[Keys], likeness: Likeness) -> list[Pair]:
    """Pairs of indices, None where a step has no counterpart. Every step is in one pair, in order on both sides.

    `left` and `right` hold the keys of each step, the strongest first, as many of each; an empty key is like no other.
    `likeness(i, j)` is from 0 (never a pair) to 1.
    """
    if list(left) == list(right):
        return [(at, at) for at in range(len(left))]
    if list(right) < list(left):
        mirrored = align(right, left, lambda i, j: likeness(j, i))
        return _merged([(j, i) for i, j in mirrored if i is not None and j is not None], len(left), len(right))
    anchors = [(-1, -1), (len(left), len(right))]
    for level in range(len(left[0]) if left else 0):
        mine, theirs = [keys[level] for keys in left], [keys[level] for keys in right]
        anchors = [pair for gap in _gaps(anchors) for pair in _same(mine, theirs, *gap)] + anchors[-1:]
    pairs = [pair for gap in _gaps(anchors) for pair in _alike(likeness, *gap)]
    return _merged(pairs[1:], len(left), len(right))


def _gaps(anchors: Sequence[tuple[int, int]]) -> Sequence[tuple[tuple[int, int], tuple[int, int]]]:
    """Each anchor and the one after it: the gap lies between."""
    return list(pairwise(anchors))


def _same(mine: Keys, theirs: Keys, before: tuple[int, int], after: tuple[int, int]) -> list[tuple[int, int]]:
    """The anchor before a gap, and those that equal keys are in it."""
    one = [key or f"-{at}" for at, key in enumerate(mine[before[0] + 1 : after[0]])]
    other = [key or f"+{at}" for at, key in enumerate(theirs[before[1] + 1 : after[1]])]
    found = [before]
    for block in SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks():
        found += [(before[0] + 1 + block.a + at, before[1] + 1 + block.b + at) for at in range(block.size)]
    return found


def _alike(likeness: Likeness, before: tuple[int, int], after: tuple[int, int]) -> list[tuple[int, int]]:
    """The anchor before a gap, and the pairs in it whose likeness is the greatest in sum."""
    top, start = before[0] + 1, before[1] + 1
    height, width = after[0] - top, after[1] - start
    if not height or not width:
        return [before]
    if height * width > _LARGE:  # the table would be too large
        middle = (top + height // 2, start + width // 2)
        first = _alike(likeness, before, middle)
        return [*first, *_alike(likeness, (middle[0] - 1, middle[1] - 1), after)[1:]]
    least = 0.0 if height == width else _PAIRED  # as many steps in the same place
    best = [[0.0] * (width + 1)]
    score: dict[tuple[int, int], float] = {}
    for i in range(height):
        middle_of_row, above = i * width // height, best[i]
        reach = range(max(0, middle_of_row - _BAND), min(width, middle_of_row + _BAND + 1))
        row = above[: reach.start + 1]
        for j in reach:
            value = max(row[j], above[j + 1])
            alike = likeness(top + i, start + j)
            if alike > 0 and alike >= least:
                score[i, j] = alike
                value = max(value, above[j] + alike)
            row.append(value)
        row += [max(row[-1], above[-1])] * (width - reach.stop)
        best.append(row)
    pairs = []
    i, j = height, width
    while i and j:
        if (i - 1, j - 1) in score and best[i][j] == best[i - 1][j - 1] + score[i - 1, j - 1]:
            i, j = i - 1, j - 1
            pairs.append((top + i, start + j))
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return [before, *reversed(pairs)]


def _merged(pairs: Sequence[tuple[int, int]], left: int, right: int) -> list[Pair]:
    """The pairs, with the steps that are in none where they belong."""
    found: list[Pair] = []
    at = to = 0
    for i, j in [*pairs, (left, right)]:
        found += [(alone, None) for alone in range(at, i)]
        found += [(None, alone) for alone in range(to, j)]
        found.append((i, j))
        at, to = i + 1, j + 1
    return found[:-1]
