"""Runs a user's program in a recording or a replay: `driver.py record|replay PROGRAM REPORT`.

The program is not changed: one line is called before it. At the end of the process, when whatever the program or its
framework left for the end is done too, REPORT gets what was counted and what was connected to.
"""

from __future__ import annotations

import atexit
import json
import logging
import runpy
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import escapement

ON_STACK = {"aiohttp": "aiohttp", "lm15": "dspy._vendor.lm15"}

ways: set[str] = set()  # the HTTP clients that were used
reached: set[tuple[Any, ...]] = set()  # hosts and ports of what was connected to, and names that were looked up


def inside(module: str, frame: FrameType | None) -> bool:
    """Whether a function of `module` is on the stack."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(f"{module}."):
            return True
        frame = frame.f_back
    return False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Python tells an audit hook of connections; nobody else notices that there is one."""
    if event == "http.client.connect":
        ways.add("http.client")
    elif event == "socket.getaddrinfo":
        reached.add((str(arguments[0]),))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        reached.add(arguments[1][:2])
        ways.update(client for client, module in ON_STACK.items() if inside(module, sys._getframe(1)))


def listen(client: str) -> None:
    """httpx connects in tasks of their own, where it is not on the stack; but it logs each request that it made."""

    def info(*_: object, **__: object) -> None:
        ways.add(client)

    setattr(logging.getLogger(client), "info", info)  # noqa: B010 (whatever level a framework sets)


def main(mode: str, program: str, report: str) -> None:
    def write() -> None:
        counted = {"steps": trace.steps, "calls": trace.calls, "hits": trace.hits, "misses": trace.misses}
        found = {"counted": counted, "status": trace.status, "ways": sorted(ways), "reached": sorted(reached)}
        Path(report).write_text(json.dumps(found))

    atexit.register(write)  # the first to be registered is the last to be called
    sys.addaudithook(watch)
    for client in ("httpx", "httpx2"):
        listen(client)
    trace = escapement.init(Path(program).stem) if mode == "record" else escapement.replay("@last", strict_replay=True)
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
