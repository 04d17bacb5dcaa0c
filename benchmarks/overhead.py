"""What recording and replaying cost: `python -m benchmarks.overhead`.

Ratios of CPU time, measured in pairs within one process. Base is the OpenAI SDK against a local HTTP server, floor
the OpenAI SDK over a transport in memory that only hands back bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import openai
from rich.console import Console
from rich.table import Table

import escapement
from benchmarks import work
from benchmarks.paired import Ratio, compare, cpu

_CALLS = {"small": 200, "grown": 24, "grow": 50, "long": 10}
_WARM = {"small": 20, "grown": 2, "grow": 0, "long": 2}
"""Calls before the clock starts, on both sides: CPython forgets what it learned of a class when hooks are put on it."""


def _workload(kind: str, client: openai.OpenAI) -> Any:
    """small: short messages; grown: a conversation from 200 KB on; grow: 50 calls that take one there from nothing;
    long: one at its 1,000th step, of 2,000 messages and 1.2 MB."""
    if kind == "small":
        return work.Small(client)
    start, size = {"grown": (100, 2000), "grow": (0, 2000), "long": (2000, 600)}[kind]
    return work.Conversation(client, start, size)


def record(kind: str, url: str, store: Path, rounds: int) -> Ratio:
    client = work.live_client(url)
    plain, recorded = _workload(kind, client), _workload(kind, client)

    def base(calls: int) -> float:
        _restart(plain, kind)
        return cpu(plain, calls)

    def candidate(calls: int) -> float:
        with escapement.init("benchmark", storage_dir=store, sealing="manual"):
            _restart(recorded, kind)
            return cpu(recorded, calls)

    return compare(base, candidate, calls=_CALLS[kind], rounds=rounds)


def replay(kind: str, url: str, store: Path, rounds: int) -> Ratio:
    calls = _CALLS[kind]
    with escapement.init("benchmark", storage_dir=store, sealing="manual") as trace:
        program = _workload(kind, work.live_client(url))
        for _ in range(_WARM[kind] + calls):
            program()
    floor = work.floor_client()
    plain, replayed = _workload(kind, floor), _workload(kind, floor)

    def base(calls: int) -> float:
        _restart(plain, kind)
        return cpu(plain, calls)

    def candidate(calls: int) -> float:
        with escapement.replay(trace.trace_id, storage_dir=store, strict_replay=True):
            _restart(replayed, kind)
            return cpu(replayed, calls)

    return compare(base, candidate, calls=calls, rounds=rounds)


def by_length(url: str, store: Path, lengths: tuple[int, int], rounds: int) -> Ratio:
    """Replaying a call of a long trace against one of a short trace."""
    floor = work.floor_client()
    traces = {}
    for length in lengths:
        with escapement.init("benchmark", storage_dir=store, sealing="manual", loop_detection_enabled=False) as trace:
            program = work.Small(work.floor_client())
            for _ in range(length):
                program()
        traces[length] = trace.trace_id

    def measured(length: int) -> Any:
        program = work.Small(floor)

        def run(calls: int) -> float:
            # Spread over the trace: its first calls cost what its last ones do, or it is not constant.
            with escapement.replay(traces[length], storage_dir=store, strict_replay=True):
                spent = 0.0
                step = max(1, length // calls)
                for number in range(calls):
                    program.number = (number * step) % length
                    spent += cpu(program, 1)
                return spent

        return run

    return compare(measured(lengths[0]), measured(lengths[1]), calls=lengths[0], rounds=rounds)


def _restart(program: Any, kind: str) -> None:
    """Back to the first call, and the calls that do not count."""
    if isinstance(program, work.Conversation):
        program.restart()
    else:
        program.number = 0
    for _ in range(_WARM[kind]):
        program()


def importing(rounds: int) -> Ratio:
    """`import escapement` against `import asyncio`, as whole processes (children's CPU time)."""

    def run(statement: str) -> Any:
        def measured(calls: int) -> float:
            import resource

            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            for _ in range(calls):
                subprocess.run([sys.executable, "-c", statement], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        return measured

    return compare(run("import asyncio"), run("import escapement"), calls=4, rounds=rounds)


def main() -> int:
    quick = "--quick" in sys.argv
    rounds = 4 if quick else 16
    console = Console(width=110)
    table = Table(title=f"Overhead, ratios of CPU time in pairs (openai {openai.__version__})", title_justify="left")
    for column in ("", "ratio", "quartiles", "noise", "base µs", "here µs", "bar"):
        table.add_column(column, justify="left" if not column else "right")
    missed = []

    def row(title: str, ratio: Ratio, bar: float) -> None:
        mark = "" if ratio.value <= bar else " missed"
        if mark:
            missed.append(title)
        table.add_row(
            title,
            f"{ratio.value:.3f}",
            f"{ratio.low:.2f}-{ratio.high:.2f}",
            f"{ratio.noise:.3f}",
            f"{ratio.base:.0f}",
            f"{ratio.candidate:.0f}",
            f"≤ {bar:.2f}{mark}",
        )

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, work.server() as url:
        store = Path(folder)
        row("record, small calls", record("small", url, store, rounds), 1.15)
        row("record, conversation at 200 KB", record("grown", url, store, rounds), 1.05)
        row("record, 50 calls growing to 200 KB", record("grow", url, store, max(4, rounds // 3)), 1.15)
        row("replay, small calls", replay("small", url, store, rounds), 1.0)
        row("replay, conversation at 200 KB", replay("grown", url, store, rounds), 1.05)
        row("replay, 50 calls growing to 200 KB", replay("grow", url, store, max(4, rounds // 3)), 1.05)
        row("replay, call of 10,000 steps / of 50", by_length(url, store, (50, 10_000), rounds), 1.1)
        row("import escapement / import asyncio", importing(max(4, rounds // 3)), 2.0)
    console.print(table)
    console.print(f"{rounds} rounds, {time.perf_counter() - start:.0f} s")
    if missed:
        console.print(f"missed: {', '.join(missed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
