"""How long `escapement diff` takes for two long conversations: `python -m benchmarks.comparing [--quick]`.

Two runs of 1,000 steps that grow by 1.25 KB a step, sealed, each compared by the command as a user runs it, its start
included. Twice: with a run that goes another way from its middle on, and with one that has nothing in common with it,
where no step tells which it is.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
from rich.console import Console
from rich.table import Table

import escapement
from benchmarks.growth import Agent
from escapement.store import layout, sealing
from escapement.words.config import variable

_STEPS, _SECONDS, _RUNS = 1000, 2.0, 5
_URL = "https://api.openai.com/v1/chat/completions"


class _Turning(Agent):
    """An agent that reads something else from one of its steps on, and does not make another."""

    def __init__(self, turn: int, left_out: int = -1) -> None:
        super().__init__()
        self._turn, self._left_out = turn, left_out

    def steps(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        for number, step in enumerate(super().steps(count)):
            if number == self._turn:
                self._reading.take(50_000)
            if number != self._left_out:
                yield step


def _record(root: Path, agent: Agent, steps: int) -> str:
    answer = b""
    transport = httpx2.MockTransport(
        lambda request: httpx2.Response(200, content=answer, headers={"content-type": "application/json"})
    )
    with (
        httpx2.Client(transport=transport) as client,
        escapement.init("growing", storage_dir=root, sealing="manual") as trace,
    ):
        for body, answer in agent.steps(steps):  # noqa: B007
            client.post(_URL, content=body, headers={"content-type": "application/json"})
    sealing.seal(layout.open_existing(root))
    return trace.trace_id


def _time(root: Path, one: str, other: str) -> float:
    environment = {**os.environ, variable("storage_dir"): str(root)}
    began = time.perf_counter()
    command = [sys.executable, "-m", "escapement", "diff", one, other]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    assert done.returncode == 3, done.stderr
    return took


def main() -> None:
    """Print the table. A busy machine is no defect: times are for people to judge."""
    quick = "--quick" in sys.argv
    steps, runs = (200, 2) if quick else (_STEPS, _RUNS)
    table = Table("compared with", "median", "worst", "at most", title=f"escapement diff, {steps} steps each")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = _record(root, Agent(), steps)
        others = {
            "one that turns off in the middle": _Turning(steps // 2, steps // 4),
            "one that has nothing in common with it": _Turning(0),
        }
        for name, agent in others.items():
            if name.startswith("one that has"):
                agent._messages[1] = agent._messages[1].replace(b"a", b"e")
            other = _record(root, agent, steps)
            times = [_time(root, first, other) for _ in range(runs)]
            median = statistics.median(times)
            bar = f"{_SECONDS:.1f} s{' missed' if median > _SECONDS else ''}"
            table.add_row(name, f"{median:.2f} s", f"{max(times):.2f} s", bar)
    Console().print(table)


if __name__ == "__main__":
    main()
