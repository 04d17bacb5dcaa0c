"""What export over OTLP costs the agent: `python -m benchmarks.otlp`.

A call of the OpenAI SDK against a local HTTP server that answers at once, plain, recorded, and recorded and exported,
in pairs within one process. By the clock it is what the agent waits: with pauses, which do not count, as agents have
them whenever they wait for a model, or without any, faster than any model is. CPU time has the work of the threads
that export in it. The collector is another process: one that is there, one that takes a second for each
request, and one that is not there at all.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from rich.console import Console
from rich.table import Table

import escapement
from benchmarks import work
from benchmarks.paired import Ratio, Work, compare, cpu

_CALLS = 200
_WARM = 20
_BAR = 1.15

_COLLECTOR = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(float(sys.argv[1]))
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def collector(delay: float) -> Iterator[str]:
    """The URL of a collector in another process, which takes so many seconds for each request."""
    process = subprocess.Popen([sys.executable, "-c", _COLLECTOR, str(delay)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


def wall(program: Work, calls: int) -> float:
    """Seconds by the clock for so many calls."""
    start = time.perf_counter()
    for _ in range(calls):
        program()
    return time.perf_counter() - start


def paused(program: Work, calls: int) -> float:
    """Seconds by the clock for so many calls, with a pause after each that does not count."""
    spent = 0.0
    for _ in range(calls):
        spent += wall(program, 1)
        time.sleep(0.003)
    return spent


def measured(
    url: str,
    store: Path,
    clock: Callable[[Work, int], float],
    rounds: int,
    base: dict[str, Any] | None,
    **settings: Any,
) -> Ratio:
    """A run with `settings` against one with those of `base`, or against no run at all."""
    client = work.live_client(url)

    def run(given: dict[str, Any] | None) -> Callable[[int], float]:
        program = work.Small(client)

        def once(calls: int) -> float:
            def timed() -> float:
                for _ in range(_WARM):
                    program()
                return clock(program, calls)

            if given is None:
                return timed()
            with escapement.init("benchmark", storage_dir=store, sealing="manual", **given):
                return timed()

        return once

    return compare(run(base), run(settings), calls=_CALLS, rounds=rounds)


def main() -> int:
    logging.getLogger("escapement").setLevel(logging.ERROR)  # a collector that is not there is meant
    rounds = 3 if "--quick" in sys.argv else 8
    console = Console(width=110)
    table = Table(title=f"Export over OTLP, small calls (openai {openai.__version__})", title_justify="left")
    for column in ("", "ratio", "quartiles", "noise", "base µs", "here µs", "bar"):
        table.add_column(column, justify="left" if not column else "right")
    missed = []

    def row(title: str, ratio: Ratio, bar: float | None = None) -> None:
        is_missed = bar is not None and ratio.value > bar
        if is_missed:
            missed.append(title)
        shown = "" if bar is None else f"≤ {bar:.2f}{' missed' if is_missed else ''}"
        low_high = f"{ratio.low:.2f}-{ratio.high:.2f}"
        numbers = (f"{ratio.value:.3f}", low_high, f"{ratio.noise:.3f}", f"{ratio.base:.0f}", f"{ratio.candidate:.0f}")
        table.add_row(title, *numbers, shown)

    with tempfile.TemporaryDirectory() as folder, work.server() as url:
        store = Path(folder)
        for name, clock in (("with pauses", paused), ("without", wall), ("CPU", cpu)):
            bar = None if clock is cpu else _BAR
            row(f"recorded / plain, {name}", measured(url, store, clock, rounds, None))
            with collector(0) as there:
                row(f"exported / recorded, {name}", measured(url, store, clock, rounds, {}, otlp_endpoint=there), bar)
            with collector(1) as slow:
                title = f"… to a slow collector / recorded, {name}"
                row(title, measured(url, store, clock, rounds, {}, otlp_endpoint=slow), bar)
            title = f"… to one that is away / recorded, {name}"
            row(title, measured(url, store, clock, rounds, {}, otlp_endpoint="http://127.0.0.1:9"), bar)
    console.print(table)
    console.print(f"{rounds} rounds of {_CALLS} calls")
    if missed:
        console.print(f"missed: {', '.join(missed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
