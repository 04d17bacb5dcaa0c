"""Measuring pairs: two ways of doing the same work, in turn, in one process, by CPU time.

The machine's speed drifts; the ratio of neighbours does not. Every result comes with its noise: the first way against
itself, measured the same way.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Ratio:
    """`value` is candidate over base (median of pairs), `noise` base over base, the last two microseconds a call."""

    value: float
    low: float
    high: float
    noise: float
    base: float
    candidate: float


def cpu(work: Work, calls: int) -> float:
    """CPU seconds of this process for `calls` calls."""
    start = time.process_time()
    for _ in range(calls):
        work()
    return time.process_time() - start


def compare(base: Callable[[int], float], candidate: Callable[[int], float], *, calls: int, rounds: int) -> Ratio:
    """`base` and `candidate` take a number of calls and give CPU seconds. The order within a round alternates."""
    base(calls), candidate(calls)
    pairs, noise, bases, candidates = [], [], [], []
    for number in range(rounds):
        gc.collect()
        if number % 2:
            middle, first = candidate(calls), base(calls)
            again = base(calls)
        else:
            first = base(calls)
            middle = candidate(calls)
            again = base(calls)
        pairs.append(2 * middle / (first + again))
        noise.append(again / first)
        bases += [first, again]
        candidates.append(middle)
    pairs.sort()
    spread = max(1, len(pairs) // 4)
    return Ratio(
        value=statistics.median(pairs),
        low=pairs[spread - 1],
        high=pairs[-spread],
        noise=statistics.median(noise),
        base=statistics.median(bases) / calls * 1e6,
        candidate=statistics.median(candidates) / calls * 1e6,
    )
