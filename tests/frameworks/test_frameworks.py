"""Agents of the frameworks that people use: recorded, and replayed after their provider has gone.

The programs in `programs/` are what a user of each framework would write. `make frameworks` runs this.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.frameworks import environments
from tests.frameworks.environments import FRAMEWORKS
from tests.frameworks.provider import Provider

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """A program's run in a process of its own."""

    code: int
    output: str
    errors: str
    seconds: float
    report: dict[str, Any]


def run(mode: str, name: str, url: str, place: Path) -> Run:
    """Record, or replay what was recorded last in `place`; with an empty home, so that no cache answers instead."""
    home = place / f"home-{time.monotonic_ns()}"
    home.mkdir()
    program = HERE / "programs" / f"{name.replace('-', '_')}.py"
    command: list[str | Path] = [
        environments.python(name),
        "-P",
        HERE / "driver.py",
        mode,
        program,
        home / "report.json",
    ]
    surroundings = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "XDG_"))},
        **FRAMEWORKS[name].environment,
        "HOME": str(home),
        "OPENAI_API_KEY": "sk-test-0123456789abcdefghij",
        "OPENAI_BASE_URL": f"{url}/v1",
        "ANTHROPIC_API_KEY": "sk-ant-test-0123456789abcdefghij",
        "ANTHROPIC_BASE_URL": url,
    }
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=place,
        env=surroundings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    seconds = time.perf_counter() - began
    assert (home / "report.json").exists(), done.stderr
    return Run(done.returncode, done.stdout, done.stderr, seconds, json.loads((home / "report.json").read_text()))


@pytest.mark.framework
@pytest.mark.parametrize("name", os.environ.get("FRAMEWORKS", "").split() or FRAMEWORKS)
def test_an_agent_is_replayed_without_its_provider(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    assert name in FRAMEWORKS, f"FRAMEWORKS takes {' '.join(FRAMEWORKS)}"
    with Provider() as provider:
        other = run("record", name, provider.url, tmp_path)
        before = len(provider.requests())
        recorded = run("record", name, provider.url, tmp_path)
        calls = len(provider.requests()) - before
    with pytest.raises(ConnectionRefusedError), socket.create_connection(provider.address):
        pass
    replayed = run("replay", name, provider.url, tmp_path)

    ways, same = " ".join(recorded.report["ways"]), replayed.output == recorded.output
    row = (name, FRAMEWORKS[name].version, calls, ways, same, recorded.seconds, replayed.seconds)
    record_property("framework", row)
    for done in (other, recorded, replayed):
        assert (done.code, done.report["status"]) == (0, "completed"), done.errors
        assert "Escapement" not in done.errors
    assert calls > 1
    assert recorded.report["counted"] == {"steps": calls, "calls": calls, "hits": 0, "misses": 0}
    assert replayed.report["counted"] == {"steps": calls, "calls": 0, "hits": calls, "misses": 0}
    assert list(provider.address) in recorded.report["reached"]
    assert list(provider.address) not in replayed.report["reached"]
    assert "sunny in" in recorded.output  # the tool was used
    assert other.output != recorded.output  # the provider does not repeat itself
    assert replayed.output == recorded.output
