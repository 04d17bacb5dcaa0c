"""`escapement guards`: what the guards say of a recorded trace."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from escapement.cli import output
from escapement.engine.guards import Verdict, review
from escapement.store.prices import Prices
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words.config import resolve

_KILLED = 4
"""The exit code for a run that a guard stops."""


def guards(
    trace: Annotated[
        str, typer.Argument(help="Id, a unique start of one, @last, or @-2 for the one before.")
    ] = "@last",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what the guards find in a trace, with the settings as they are now: loops, and budgets that are spent.

    Exits with 4 if they would have stopped the run, or did when it was recorded.
    """
    settings = resolve()
    prices = Prices.of(settings)
    store = SpanStore(settings.storage_dir, prices=prices)
    row = store.load(store.resolve(trace))
    found = review(row, settings, prices)
    if as_json:
        output.print_json(_document(row, found))
    else:
        _print(row, found)
    if row.status == "killed" or any(action == "kill" for _, action in found):
        raise typer.Exit(_KILLED)


def _print(row: TraceRow, found: list[tuple[Verdict, str]]) -> None:
    console = output.console()
    if row.status == "killed":
        console.print(Text.assemble(("was killed: ", "red"), output.plain(row.error or "")))
    if not found:
        steps = output.amount(len(row.steps), "step")
        console.print(f"No rule finds anything in the {steps} of {row.trace_id}.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("RULE", "DOES", "STEPS", "TOKENS", "COST"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("TOKENS", "COST") else "left")
    table.add_column("WHAT", overflow="fold")
    for verdict, action in found:
        table.add_row(
            verdict.rule,
            Text(action, "red" if action == "kill" else "yellow"),
            verdict.where.removeprefix("steps ").removeprefix("step "),
            output.tokens(verdict.tokens),
            output.cost(verdict.cost),
            Text(output.plain(verdict.what)),
        )
    console.print(table)


def _document(row: TraceRow, found: list[tuple[Verdict, str]]) -> dict[str, Any]:
    return {
        "trace": row.trace_id,
        "status": row.status,
        "error": row.error,
        "found": [
            {
                "rule": verdict.rule,
                "level": verdict.level,
                "action": action,
                "what": verdict.what,
                "count": verdict.count,
                "limit": verdict.limit,
                "steps": list(verdict.steps),
                "calls": verdict.calls,
                "tokens": verdict.tokens,
                "cost_usd": verdict.cost,
            }
            for verdict, action in found
        ],
    }
