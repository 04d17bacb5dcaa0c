"""What the demo shows on stdout: the live runs side by side, the checks of the replay, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from escapement.demo.comparison import Check, Run, differing

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from escapement.demo.agent import Step

_WIDE = 100  # from this many columns on, two transcripts fit side by side
_WIDEST = 140
_DONE = ("stop", "end_turn", "stop_sequence")


def show_runs(console: Console, first: Run, second: Run) -> None:
    """Both live transcripts, and in how many answers they differ."""
    differ, calls = len(differing(first.transcript, second.transcript)), len(first.transcript.steps)
    table = _side_by_side(first, second) if console.width >= _WIDE else _stacked(first, second)
    console.print(table, width=min(console.width, _WIDEST))
    console.print(f"Same program, same topic: {differ} of {calls} answers differ.", highlight=False)


def show_checks(console: Console, checks: Sequence[Check], identical: bool) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "Run 1, live", "Replay, offline", ""):
        table.add_column(title)
    for check in checks:
        verdict = Text(check.verdict, "green" if check.passed else "bold red")
        table.add_row(check.what, check.live, check.replay, verdict)
    console.print(table)
    if identical:
        console.print("The replay is identical to the recording.", style="bold green", highlight=False)
    else:
        console.print("The replay is NOT identical to the recording.", style="bold red", highlight=False)


def show_next(console: Console, commands: Sequence[tuple[str, str]]) -> None:
    """Commands, each with what it does (or ""); never cut or wrapped, so that they can be copied."""
    from rich.text import Text

    width = max(len(command) for command, does in commands if does)
    console.print("\nGo on with", style="bold")
    for command, does in commands:
        line = f"{command:<{width}}" if does else command
        console.print(Text.assemble("  ", (line, "cyan"), f"  {does}" if does else ""), soft_wrap=True)


def _side_by_side(first: Run, second: Run) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 1, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column(_heading(1, first), ratio=1)
    table.add_column(_heading(2, second), ratio=1)
    for ours, theirs in zip_longest(first.transcript.steps, second.transcript.steps):
        table.add_row(_label(ours or theirs, "\n"), _text(ours), _text(theirs))
    return table


def _stacked(first: Run, second: Run) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(),
        Text(_heading(1, first), "bold"),
        Text(_heading(2, second), "bold"),
    ]
    for ours, theirs in zip_longest(first.transcript.steps, second.transcript.steps):
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        table.add_row("  run 1", _text(ours))
        table.add_row("  run 2", _text(theirs))
        parts += [Text(), _label(ours or theirs, "  "), table]
    return Group(*parts, Text())


def _heading(number: int, run: Run) -> str:
    return f"Run {number}, live, {run.seconds:.1f} s, {run.trace_id}"


def _label(step: Step, between: str) -> Text:
    from rich.text import Text

    way = f"{step.sdk}, stream" if step.chunks else step.sdk
    return Text.assemble((step.label, "bold cyan"), between, (way, "dim"))


def _text(step: Step | None) -> Text:
    """A step's text on one line, safe to print; an ellipsis where the model was cut off."""
    from rich.text import Text

    if step is None:
        return Text("-")
    line = " ".join(step.text.split())
    return Text("".join(c for c in line if c.isprintable()) + ("" if step.stop in _DONE else " ..."))
