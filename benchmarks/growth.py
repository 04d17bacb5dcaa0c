"""What a conversation costs that grows by 1.25 KB a step: `python -m benchmarks.growth [--quick]`.

Disk: a run of 200 and one of 1,000 steps, sealed, every byte of the store counted and every request rebuilt. Time: the
OpenAI SDK at the end of such a run, where a body is 1.2 MB, recorded against plain.
"""

from __future__ import annotations

import json
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

import escapement
from benchmarks import overhead, work
from escapement.store import layout, sealing
from escapement.store.traces import SpanStore

STEPS = (200, 1000)
_BYTES, _LINEAR, _TIME = 1_000_000, 6.0, 1.10
_URL = "https://api.openai.com/v1/chat/completions"
_HEADERS = {"content-type": "application/json", "authorization": "Bearer not-needed"}


class Reading:
    """What an agent reads that works on code: the sources and descriptions of the packages that are installed."""

    def __init__(self) -> None:
        packages = Path(sysconfig.get_path("purelib"))
        files = sorted([*packages.glob("*/*.py"), *packages.glob("*.dist-info/METADATA")])
        self._text = "".join(file.read_text(errors="ignore") for file in files[::3])
        self.random = random.Random(3)
        self.words = self._text[:400_000].split()
        self._at = 0

    def take(self, length: int) -> str:
        """The next characters."""
        if self._at + length > len(self._text):
            self._at = 0
        self._at += length
        return self._text[self._at - length : self._at]

    def hex(self, bits: int) -> str:
        return f"{self.random.getrandbits(bits):0{bits // 4}x}"


class Agent:
    """A conversation of tool calls and their results. Bodies are put together from their elements: the SDK would need
    a tenth of a second for each."""

    def __init__(self) -> None:
        self._reading = reading = Reading()
        self._head = b'{"model":"gpt-5","temperature":0.2,"tools":' + _json([self._tool(n) for n in range(8)])
        self._messages = [
            _json({"role": "system", "content": reading.take(3500)}),
            _json({"role": "user", "content": reading.take(600)}),
        ]

    def _tool(self, number: int) -> dict[str, Any]:
        take = self._reading.take
        properties = {name: {"type": "string", "description": take(60)} for name in ("path", "query", "limit")}
        parameters = {"type": "object", "properties": properties, "required": ["path"]}
        return {
            "type": "function",
            "function": {"name": f"tool_{number}", "description": take(300), "parameters": parameters},
        }

    def steps(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        """The body of each request, and of its answer."""
        reading = self._reading
        for step in range(count):
            body = self._head + b',"messages":[' + b",".join(self._messages) + b"]}"
            call = f"call_{reading.hex(96)}"
            arguments = {"path": f"/src/{reading.random.choice(reading.words)[:12]}.py", "limit": step % 99}
            function = {"name": f"tool_{step % 8}", "arguments": json.dumps(arguments)}
            said = {
                "role": "assistant",
                "content": reading.take(250),
                "tool_calls": [{"id": call, "type": "function", "function": function}],
            }
            rows = [{"id": reading.random.randrange(10**6), "score": reading.random.random()} for _ in range(4)]
            result = reading.take(450) + json.dumps({"rows": rows, "status": "ok"})
            yield (
                body,
                _json(
                    {
                        "id": f"chatcmpl-{reading.hex(96)}",
                        "object": "chat.completion",
                        "created": int(time.time()),
                        "model": "gpt-5",
                        "choices": [{"index": 0, "message": said, "finish_reason": "tool_calls"}],
                        "usage": {"prompt_tokens": len(body) // 4, "completion_tokens": 90, "total_tokens": 1},
                    }
                ),
            )
            self._messages += [_json(said), _json({"role": "tool", "tool_call_id": call, "content": result})]


@dataclass(slots=True)
class Grown:
    """One run, and what became of it. Sizes in bytes, times in seconds."""

    steps: int
    sent: int = 0
    last: int = 0
    """Of the last request: all that there was to be kept."""
    journal: int = 0
    stored: int = 0
    recording: float = 0.0
    sealing: float = 0.0
    loading: float = 0.0
    exact: int = 0


def grow(steps: int, root: Path) -> Grown:
    """Record a run of so many steps, seal it, and rebuild every request and answer."""
    done = Grown(steps)
    asked: list[bytes] = []
    answer = b""

    def model(request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "application/json", "x-request-id": f"req_{len(asked):016x}"}
        return httpx2.Response(200, headers=headers, content=answer)

    with (
        httpx2.Client(transport=httpx2.MockTransport(model), headers=_HEADERS) as client,
        escapement.init("growing", storage_dir=root, sealing="manual") as trace,
    ):
        for body, answer in Agent().steps(steps):
            began = time.perf_counter()
            client.post(_URL, content=body)
            done.recording += time.perf_counter() - began
            asked.append(_sum(body, answer))  # bodies come to 600 MB together
            done.sent += len(body)
        done.last = len(body)
    done.journal = _bytes(root / "journal")

    place = layout.open_existing(root)
    began = time.perf_counter()
    with sealing.upkeep(place):
        sealing.seal(place, grace=0)
    done.sealing = time.perf_counter() - began
    done.stored = _bytes(root)

    began = time.perf_counter()
    row = SpanStore(root).load(trace.trace_id)
    done.loading = time.perf_counter() - began
    rebuilt = [_sum(row.request_body(step), step.body()) for step in row.steps]
    done.exact = sum(one == other for one, other in zip(asked, rebuilt, strict=False)) if row.complete else 0
    return done


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _sum(*bodies: bytes) -> bytes:
    return b"".join(blake2b(body, digest_size=16).digest() for body in bodies)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> int:
    quick = "--quick" in sys.argv
    console = Console(width=110)
    missed = 0

    def verdict(what: str, found: float, bar: float, form: str, *, timed: bool = False) -> None:
        nonlocal missed
        missed += found > bar and not timed  # a busy machine is no defect: times are for people to judge
        console.print(f"{what}: {found:{form}} (bar {bar:{form}}) {'MISSED' if found > bar else 'ok'}")

    table = Table(title="A growing conversation on disk", title_justify="left")
    for title in ("steps", "sent MB", "last KB", "journal KB", "sealed KB", "ms/record", "seal s", "load s", "exact"):
        table.add_column(title, justify="right")
    runs = []
    for steps in STEPS:
        with tempfile.TemporaryDirectory(prefix="escapement-growth-") as folder:
            run = grow(steps, Path(folder, "store"))
        runs.append(run)
        missed += run.exact != steps
        table.add_row(
            f"{steps:,}", f"{run.sent / 1e6:.1f}", f"{run.last / 1e3:.0f}", f"{run.journal / 1e3:.0f}",
            f"{run.stored / 1e3:.1f}", f"{run.recording / steps * 1e3:.1f}", f"{run.sealing:.2f}", f"{run.loading:.2f}",
            f"{run.exact:,} of {steps:,}{'' if run.exact == steps else ' MISSED'}",
        )  # fmt: skip
    console.print(table)
    short, long = runs
    verdict("bytes at 1,000 steps", long.stored, _BYTES, ",.0f")
    verdict("bytes at 1,000 steps / at 200", long.stored / short.stored, _LINEAR, ".2f")

    with tempfile.TemporaryDirectory(prefix="escapement-growth-") as folder, work.server() as url:
        ratio = overhead.paired("record", "long", url, Path(folder), quick)
    verdict("CPU time of a call of 1.2 MB, recorded / plain", ratio.value, _TIME, ".3f", timed=True)
    console.print(
        f"  quartiles {ratio.low:.2f}-{ratio.high:.2f}, noise {ratio.noise:.3f}, plain {ratio.base / 1e3:.1f} ms, "
        f"recorded {ratio.candidate / 1e3:.1f} ms"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
