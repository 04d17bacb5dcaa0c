"""What recording and replaying cost in instructions, and in memory that a call touches: `python -m benchmarks.counts`.

The sides of `overhead` and of `streams`, counted by Valgrind's callgrind (Debian: `apt install valgrind`): a busy
machine does not change a count. Memory is cache lines of 64 bytes that one call reads or writes, code included. Where
that is more than the cache holds, a call takes longer than its instructions say: as much of it as does not fit is
fetched anew for every call.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.overhead import SHAPES
from benchmarks.paired import Side
from benchmarks.streams import streaming

_WARM = 150
_CALLS = 50
_LINE = 64
_CACHES = ("--I1=32768,8,64", "--D1=49152,12,64", "--LL=67108864,16,64")
"""The last one is larger than all that is touched: what is not in it is seen for the first time."""


class Count(NamedTuple):
    """Of one call: instructions, and bytes that it touches."""

    instructions: float
    touched: int


def counted(command: Sequence[object]) -> Count:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        under = [
            "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", "--cache-sim=yes", *_CACHES,
            f"--callgrind-out-file={out}",
        ]  # fmt: skip
        side = Side(command, under)

        def tell(order: str) -> None:
            subprocess.run(["callgrind_control", order, str(side.process.pid)], check=True, capture_output=True)

        side(_WARM)
        tell("--instr=on")  # the caches that it simulates are empty now
        side(1)
        tell("--dump")
        side(_CALLS)
        tell("--dump")
        side.close()
        first, many = (_totals(out.with_name(f"out.{number}")) for number in (1, 2))
        return Count(many["Ir"] / _CALLS, _LINE * sum(first[event] for event in ("ILmr", "DLmr", "DLmw")))


def _totals(dump: Path) -> dict[str, int]:
    lines = dict(line.split(": ", 1) for line in dump.read_text().splitlines() if line.startswith(("events", "totals")))
    return dict(zip(lines["events"].split(), map(int, lines["totals"].split()), strict=True))


def main() -> int:
    if missing := [tool for tool in ("valgrind", "callgrind_control") if shutil.which(tool) is None]:
        print(
            f"{' and '.join(missing)} cannot be found, and nothing was counted: apt install valgrind", file=sys.stderr
        )
        return 1
    console = Console(width=110)
    table = Table(title="One call, counted: instructions, and memory that it touches", title_justify="left")
    for column in ("", "base M", "here M", "ratio", "base KB", "here KB", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    with tempfile.TemporaryDirectory() as folder, work.server() as url, streaming(0.0, [0.0] * 4) as stream:
        blocks = -(-(_WARM + 1 + _CALLS) // SHAPES["small"].calls)  # that a replay asks for
        for title, command in (
            ("record, small call", ["benchmarks.overhead", "record", "small", url, folder, blocks]),
            ("replay, small call", ["benchmarks.overhead", "replay", "small", url, folder, blocks]),
            ("record, stream of 5 chunks", ["benchmarks.streams", stream, "process_time", folder]),
        ):
            base, here = counted([*command, "plain"]), counted([*command, "escapement"])
            table.add_row(
                title,
                f"{base.instructions / 1e6:.2f}", f"{here.instructions / 1e6:.2f}",
                f"{here.instructions / base.instructions:.3f}",
                f"{base.touched / 1024:,.0f}", f"{here.touched / 1024:,.0f}", f"{here.touched / base.touched:.3f}",
            )  # fmt: skip
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
