"""What recording and replaying cost: `python -m benchmarks.overhead`.

Ratios of CPU time, measured in pairs: two processes that work in turn. Base is the OpenAI SDK against a local HTTP
server, floor the OpenAI SDK over a transport in memory that only hands back bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import openai
from rich.console import Console
from rich.table import Table

import escapement
from benchmarks import work
from benchmarks.paired import Ratio, compare, cpu, serve, sides


class Shape(NamedTuple):
    """How a kind of work is measured: in blocks of `calls`, after `warm` of them that do not count. Nor do the first
    `lead` calls of each block: a conversation that is long when it begins is new once, and an agent's never is."""

    calls: int
    rounds: int
    warm: int
    lead: int = 0


SHAPES = {
    "small": Shape(40, 64, 4),
    "grown": Shape(10, 24, 6, lead=2),
    "grow": Shape(50, 8, 2),
    "long": Shape(4, 8, 1, lead=1),
}


def _workload(kind: str, client: openai.OpenAI) -> work.Small | work.Conversation:
    """small: short messages; grown: a conversation from 200 KB on; grow: 50 calls that take one there from nothing;
    long: one at its 1,000th step, of 2,000 messages and 1.2 MB."""
    if kind == "small":
        return work.Small(client)
    start, size = {"grown": (100, 2000), "grow": (0, 2000), "long": (2000, 600)}[kind]
    return work.Conversation(client, start, size)


def paired(what: str, kind: str, url: str, store: Path, quick: bool) -> Ratio:
    """Calls recorded against plain ones, or replayed ones (`what`) against the floor."""
    shape = SHAPES[kind]
    rounds = max(4, shape.rounds // 4) if quick else shape.rounds
    common = ["benchmarks.overhead", what, kind, url, store, shape.warm + rounds]
    with sides([*common, "plain"], [*common, "escapement"]) as (base, candidate):
        return compare(base, candidate, calls=shape.calls, rounds=rounds, warm=shape.warm)


def side(what: str, kind: str, url: str, folder: str, blocks: str, way: str) -> None:
    """One of the two, in a process of its own."""
    live = work.live_client(url)
    client = live if what == "record" else work.floor_client()
    settings: dict[str, Any] = {"storage_dir": Path(folder), "max_identical_calls": 1000}  # conversations begin alike

    def measured(program: work.Small | work.Conversation) -> Callable[[int], float]:
        def block(calls: int) -> float:
            program.restart()
            cpu(program, SHAPES[kind].lead)
            return cpu(program, calls)

        return block

    if way == "plain":
        serve(measured(_workload(kind, client)))
    elif what == "record":
        with escapement.init("benchmark", sealing="manual", **settings):
            serve(measured(_workload(kind, client)))
    else:
        with escapement.init("benchmark", sealing="manual", **settings) as trace:
            record = measured(_workload(kind, live))
            for _ in range(int(blocks)):
                record(SHAPES[kind].calls)
        with escapement.replay(trace.trace_id, strict_replay=True, **settings):
            serve(measured(_workload(kind, client)))


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
    if len(sys.argv) > 2:
        side(*sys.argv[1:])
        return 0
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
        row("record, small calls", paired("record", "small", url, store, quick), 1.15)
        row("record, conversation at 200 KB", paired("record", "grown", url, store, quick), 1.05)
        row("record, 50 calls growing to 200 KB", paired("record", "grow", url, store, quick), 1.15)
        row("replay, small calls", paired("replay", "small", url, store, quick), 1.0)
        row("replay, conversation at 200 KB", paired("replay", "grown", url, store, quick), 1.05)
        row("replay, 50 calls growing to 200 KB", paired("replay", "grow", url, store, quick), 1.05)
        row("replay, call of 10,000 steps / of 50", by_length(url, store, (50, 10_000), rounds), 1.1)
        row("import escapement / import asyncio", importing(max(4, rounds // 3)), 2.0)
    console.print(table)
    console.print(f"{time.perf_counter() - start:.0f} s")
    if missed:
        console.print(f"missed: {', '.join(missed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
