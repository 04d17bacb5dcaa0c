"""Measuring pairs: two ways of doing the same work, in turn, by CPU time.

The machine's speed drifts; the ratio of neighbours does not. Every result comes with its noise: the first way against
itself, measured the same way.

Where one way puts hooks on classes, each is a process of its own (a `Side`): CPython forgets what it learned of a class
when it is changed, and takes 53 misses (3.11) at each place to learn it anew. A program puts hooks on once; measured in
one process, in turn, they would go on and off all the time.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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


class Side:
    """A process that does its work when it is called, and gives the seconds that it took; `serve` is its end.

    `under`: a command that runs it, as Valgrind does.
    """

    def __init__(self, command: Sequence[object], under: Sequence[str] = ()) -> None:
        line = [*under, sys.executable, "-m", *map(str, command)]
        self.process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": "0"},  # dicts collide alike in all of them
        )
        if self._read() != "ready":
            raise RuntimeError(f"{' '.join(line)} ended before it was ready")

    def __call__(self, calls: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """The process ends as programs do: its input is over."""
        self.process.communicate()

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def serve(measured: Callable[[int], float]) -> None:
    """Be the other end of a `Side`: `measured` takes a number of calls and gives seconds."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(measured(int(line)), flush=True)


@contextmanager
def sides(*commands: Sequence[object]) -> Iterator[list[Side]]:
    with ExitStack() as stack:
        started = []
        for command in commands:
            started.append(Side(command))
            stack.callback(started[-1].close)
        yield started


def compare(
    base: Callable[[int], float], candidate: Callable[[int], float], *, calls: int, rounds: int, warm: int = 1
) -> Ratio:
    """`base` and `candidate` take a number of calls and give seconds. The order within a round alternates; `warm`
    rounds come first and do not count."""
    for _ in range(warm):
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
