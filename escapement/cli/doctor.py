"""`escapement doctor`: what of an agent's requests should not count, found by comparing two of its traces."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from escapement.cli import output
from escapement.engine import kinds
from escapement.engine.proposals import Proposals, propose
from escapement.store import summaries
from escapement.store.pieces import same_start
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words.config import resolve
from escapement.words.errors import TraceNotFoundError

_BEFORE, _SHOWN = 8, 28  # characters of an example


def doctor(
    left: Annotated[str, typer.Argument(metavar="A", help="Id, a unique start of one, @last, or @-2 …")] = "@last",
    right: Annotated[
        str, typer.Argument(metavar="B", help="Another of the same agent; by default the newest of the same name.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Compare two traces of one agent, and propose what should not count in its requests: lines to paste."""
    store = SpanStore(resolve().storage_dir)
    one = store.load(store.resolve(left))
    other = store.load(store.resolve(right) if right else _other(store, one))
    proposals = propose(one, other)
    if as_json:
        output.print_json(_document(one, other, proposals))
    else:
        _print(output.console(), one, other, proposals)


def _other(store: SpanStore, one: TraceRow) -> str:
    for summary in summaries.page(store, name=one.name):
        if summary.trace_id != one.trace_id and summary.name == one.name:
            return summary.trace_id
    raise TraceNotFoundError(
        f"there is no other trace named {one.name!r} to compare {one.trace_id} with: run the agent a second time, "
        "as it is, or name two traces"
    )


def _print(console: Console, one: TraceRow, other: TraceRow, proposals: Proposals) -> None:
    console.print(
        f"{output.amount(proposals.looked, 'step')} of {one.trace_id} and {other.trace_id} compared: "
        f"{proposals.before} are the same request",
        soft_wrap=True,
    )
    if proposals.found:
        console.print()
        table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", width=console.width)
        table.add_column("FIELD", overflow="fold", ratio=3)
        table.add_column("LOOKS LIKE", overflow="fold", ratio=2)
        table.add_column("STEPS", justify="right", no_wrap=True)
        table.add_column("FOR EXAMPLE", ratio=4, no_wrap=True, overflow="ellipsis")
        for proposal in proposals.found:
            at = max(0, same_start(str(proposal.examples[0]), str(proposal.examples[1])) - _BEFORE)
            example = " / ".join(output.plain(str(value)[at : at + _SHOWN]) for value in proposal.examples)
            look = kinds.PHRASES[proposal.look].removeprefix("looks like ")
            table.add_row(Text(proposal.field), look, str(len(proposal.steps)), Text(" ".join(example.split())))
        console.print(table)
        console.print("\nFor pyproject.toml:\n")
        console.print(Text(_lines(proposals)), soft_wrap=True)
        said = f"With that, {proposals.after} of {proposals.looked} are the same request"
        if proposals.parted and proposals.after < proposals.looked:
            said += "; others hold what the model said, which differs between these runs and not in a replay"
        console.print(f"\n{said}.", style="bold", soft_wrap=True)
    if proposals.left_over:
        console.print("\nNot by chance, it seems:")
        for (path, kind), steps in proposals.left_over.items():
            where = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps from {steps[0]} on"
            console.print(Text(f"  {where}, {path}: {kinds.phrase(kind, path)}"))
    if not proposals.found and not proposals.left_over:
        console.print("Nothing to propose.")


def _lines(proposals: Proposals) -> str:
    lines = ["[tool.escapement]"]
    for name, values in (("normalize", proposals.normalize), ("ignore", proposals.ignore)):
        if values:
            lines.append(f"{name} = {orjson.dumps(values).decode()}".replace('","', '", "'))
    return "\n".join(lines)


def _document(one: TraceRow, other: TraceRow, proposals: Proposals) -> dict[str, Any]:
    return {
        "left": one.trace_id,
        "right": other.trace_id,
        "steps": proposals.looked,
        "same_before": proposals.before,
        "same_after": proposals.after,
        "normalize": proposals.normalize,
        "ignore": proposals.ignore,
        "found": [
            {
                "field": proposal.field,
                "kind": proposal.look,
                "steps": proposal.steps,
                "examples": list(proposal.examples),
            }
            for proposal in proposals.found
        ],
        "left_over": [
            {"field": path, "kind": kind, "steps": steps} for (path, kind), steps in proposals.left_over.items()
        ],
    }
