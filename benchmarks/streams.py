"""What recording does to a live stream, how closely a replay keeps its pace: `python -m benchmarks.streams [--quick]`.

Time to the first chunk: the OpenAI SDK against a local server, recorded against plain, in pairs, by the clock and by
CPU time of the process; the server takes 20 ms to its first chunk, a tenth of what a model API does. Pace: a stream
with gaps of 5 to 40 ms, replayed with `timing="recorded"`, each gap against the recorded one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count, pairwise
from pathlib import Path

import openai
from openai.types.chat import ChatCompletionChunk
from rich.console import Console
from rich.table import Table

import escapement
from benchmarks import work
from benchmarks.paired import Ratio, compare, serve, sides
from escapement.store.traces import SpanStore

_BAR = 1.05
_GAP_SHARE, _GAP_MS = 0.05, 5.0
_CALLS, _WARM = 10, 8

_SERVER = """
import http.server, json, sys, time
FIRST, GAPS = json.loads(sys.argv[1])
def event(text):
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795000000, "model": "gpt-4o",
             "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return b"data: " + json.dumps(chunk).encode() + b"\\n\\n"
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def log_message(self, *arguments): pass
    def send(self, data):
        self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(data), data))
        self.wfile.flush()
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        time.sleep(FIRST)
        self.send(event("word "))
        for gap in GAPS:
            time.sleep(gap)
            self.send(event("word "))
        self.send(b"data: [DONE]\\n\\n")
        self.wfile.write(b"0\\r\\n\\r\\n")
class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, address): pass  # a client that is done
server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def streaming(first: float, gaps: list[float]) -> Iterator[str]:
    """The URL of a server, in a process of its own, whose chunks come after these seconds."""
    command = [sys.executable, "-c", _SERVER, json.dumps([first, gaps])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def _ask(client: openai.OpenAI, number: int) -> openai.Stream[ChatCompletionChunk]:
    asked = f"Question {number}: is all well?"
    return client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": asked}], stream=True)


def first_chunk(url: str, clock: str, store: Path, rounds: int) -> Ratio:
    """Seconds to the first chunk, recorded against plain, by a clock of `time`."""
    common = ["benchmarks.streams", url, clock, store]
    with sides([*common, "plain"], [*common, "escapement"]) as (base, candidate):
        return compare(base, candidate, calls=_CALLS, rounds=rounds, warm=_WARM)


def side(url: str, clock: str, folder: str, way: str) -> None:
    """One of the two, in a process of its own."""
    client, now, numbers = work.live_client(url), getattr(time, clock), count()

    def measured(calls: int) -> float:
        spent = 0.0
        for _ in range(calls):
            began = now()
            iterator = iter(_ask(client, next(numbers)))
            next(iterator)
            spent += now() - began
            for _ in iterator:
                pass
        return spent

    with escapement.init("benchmark", storage_dir=folder, sealing="manual") if way == "escapement" else nullcontext():
        serve(measured)


def gaps(client: openai.OpenAI, store: Path, times: int) -> list[tuple[float, float]]:
    """Milliseconds between chunks: recorded, and replayed at the recorded pace."""
    with escapement.init("pace", storage_dir=store, sealing="manual") as trace:
        for _ in _ask(client, 0):
            pass
    (step,) = SpanStore(store).load(trace.trace_id).steps
    response = step.response()
    assert response is not None
    recorded = [chunk.at / 1e6 for chunk in response.chunks]
    pairs = []
    for _ in range(times):
        with escapement.replay(trace.trace_id, storage_dir=store, strict_replay=True, timing="recorded"):
            came = []
            began = time.perf_counter()
            with client.chat.completions.with_streaming_response.create(
                model="gpt-4o",
                messages=[{"role": "user", "content": "Question 0: is all well?"}],
                stream=True,
            ) as raw:
                for _ in raw.http_response.iter_raw():
                    came.append((time.perf_counter() - began) * 1e3)
        assert len(came) == len(recorded)
        pairs += list(zip(_gaps(recorded), _gaps(came), strict=True))
    return pairs


def _gaps(moments: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(moments)]


def main() -> int:
    if len(sys.argv) > 2:
        side(*sys.argv[1:])
        return 0
    rounds = 3 if "--quick" in sys.argv else 10
    console = Console(width=110)
    table = Table(title=f"Time to the first chunk (openai {openai.__version__})", title_justify="left")
    for column in ("", "ratio", "quartiles", "noise", "plain µs", "recorded µs", "bar"):
        table.add_column(column, justify="left" if not column else "right")
    with tempfile.TemporaryDirectory() as folder, streaming(0.02, [0.001] * 4) as url:
        for title, clock in (("by the clock", "perf_counter"), ("CPU time", "process_time")):
            ratio = first_chunk(url, clock, Path(folder), 4 * rounds)
            table.add_row(
                title, f"{ratio.value:.3f}", f"{ratio.low:.2f}-{ratio.high:.2f}", f"{ratio.noise:.3f}",
                f"{ratio.base:.0f}", f"{ratio.candidate:.0f}", f"≤ {_BAR} {'ok' if ratio.value <= _BAR else 'missed'}",
            )  # fmt: skip
    console.print(table)
    wanted = [0.005 + 0.035 * (number % 8) / 7 for number in range(40)]
    with tempfile.TemporaryDirectory() as folder, streaming(0.02, wanted) as url, work.live_client(url) as client:
        pairs = gaps(client, Path(folder), rounds)
    apart = [abs(replayed - recorded) for recorded, replayed in pairs]
    kept = sum(off <= max(_GAP_MS, _GAP_SHARE * recorded) for off, (recorded, _) in zip(apart, pairs, strict=True))
    off, most = statistics.median(apart), max(apart)
    console.print(
        f"pace: {kept:,} of {len(pairs):,} gaps within 5% or 5 ms of the recorded ones; off by {off:.2f} ms in the "
        f"median, {most:.2f} ms at most {'ok' if kept == len(pairs) else 'missed'}"
    )
    return 0  # a busy machine is no defect: times are for people to judge


if __name__ == "__main__":
    sys.exit(main())
