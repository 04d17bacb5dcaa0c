"""The demo on its real model. Only ESCAPEMENT_TEST_MODEL=off leaves it out, and says so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from escapement.store.traces import SpanStore

pytestmark = pytest.mark.skipif(
    os.environ.get("ESCAPEMENT_TEST_MODEL", "").lower() == "off", reason="switched off by ESCAPEMENT_TEST_MODEL=off"
)

COMMAND = [sys.executable, "-m", "escapement", "demo"]


def test_the_demo_replays_a_real_model(store: Path) -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The replay is identical to the recording." in done.stdout
    assert "stopped; a request to it now: connection refused" in done.stderr
    second, first = SpanStore(store).traces()
    assert [(row.name, row.status, len(row.steps)) for row in (first, second)] == [("demo", "completed", 4)] * 2
    bodies = [[step.body() for step in row.steps] for row in (first, second)]
    assert all(one != other for one, other in zip(*bodies, strict=True)), "a real model never answers twice the same"
    assert re.search(rf"escapement show {first.trace_id} --content", done.stdout)
    assert left_over() == []


@pytest.mark.parametrize("moment", ["server", "run 1"])
def test_ctrl_c_leaves_nothing_running(moment: str) -> None:
    process = subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith(moment):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said += process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 130, said
    assert "nothing is left running" in said
    assert "Traceback" not in said
    assert left_over() == []


def left_over() -> list[str]:
    """Model servers of this user that are still there."""
    until = time.monotonic() + 5
    while True:
        done = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
        found = [line for line in done.stdout.splitlines() if "server_process" in line and "SmolLM2" in line]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.1)
