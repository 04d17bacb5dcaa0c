"""Escapement beside its peers, each in an environment of its own: `python -m benchmarks.peers`."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
OPENAI = "openai==3.54.0"
PEERS = {"vcrpy": "vcrpy==9.4.2", "cassetter": "cassetter==0.16.1", "agent-rewind": "agent-rewind==0.8.0"}


def python_of(requirement: str) -> Path:
    """The interpreter of a peer's environment, made when it is missing."""
    folder = ROOT / f".venv-peer-{requirement.replace('==', '-')}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making {folder.name}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        subprocess.run([*pip, requirement, OPENAI], check=True)
        (folder / "ready").touch()
    return python


def main() -> int:
    rounds = "2" if "--quick" in sys.argv else "8"
    results: list[dict[str, Any]] = []
    for name, python in (("escapement", Path(sys.executable)), *((peer, python_of(PEERS[peer])) for peer in PEERS)):
        print(f"measuring {name}", file=sys.stderr)
        done = subprocess.run(
            [str(python), "-m", "benchmarks.peer", name, rounds], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            continue
        results.append(json.loads(done.stdout.splitlines()[-1]))
    table = Table(
        title="CPU time: recording over the SDK alone, replaying over an SDK that is only handed bytes",
        title_justify="left",
    )
    table.add_column("")
    for kind in ("200 calls", "grow"):
        for column in ("record ×", "replay ×", "noise", "KB"):
            table.add_column(f"{kind}\n{column}", justify="right")
    for result in results:
        cells = []
        for kind in ("200 calls", "grow"):
            figures = result[kind]
            cells += [
                f"{figures['record']:.2f}",
                f"{figures['replay']:.2f}",
                f"{figures['record_noise']:.2f} / {figures['replay_noise']:.2f}",
                f"{figures['kilobytes']:.0f}",
            ]
        table.add_row(result["tool"], *cells)
    console = Console(width=120)
    console.print(table)
    console.print(
        "grow: 50 calls of one conversation that reaches 100 messages, 200 KB. Opening and closing are included."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
