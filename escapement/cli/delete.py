"""`escapement delete`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from escapement.cli import output
from escapement.cli.store import writable
from escapement.store import sealing, summaries, upkeep
from escapement.store.prices import Prices
from escapement.store.summaries import Summary
from escapement.store.traces import SpanStore
from escapement.words.config import resolve
from escapement.words.errors import StoreError, TraceNotFoundError


def delete(
    traces: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, unique starts of some, @last, @-2.")],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and leave it.")] = False,
) -> None:
    """Delete traces from the disk, journals included. Shows what goes and asks first."""
    settings = resolve()
    store = SpanStore(settings.storage_dir, prices=Prices.of(settings))
    chosen = list(dict.fromkeys(store.resolve(reference) for reference in traces))
    found = summaries.page(store, trace_ids=chosen)
    running = [summary.trace_id for summary in found if summary.status == "running"]
    if running:
        raise StoreError(f"{', '.join(running)}: still being recorded. Stop the program first, then delete.")
    if not found:
        raise TraceNotFoundError(f"{', '.join(chosen)}: deleted meanwhile")
    console = output.console()
    console.print(_table(found, console.width))
    for heir in _heirs(store, chosen):
        typer.echo(f"{heir} was forked from these: the steps that it took over will read as gone.", err=True)
    if dry_run:
        typer.echo("Nothing was deleted (--dry-run).", err=True)
        return
    if not yes:
        _ask(len(found))
    layout = writable(settings)
    with sealing.upkeep(layout), output.progress("Deleting"):
        upkeep.delete(layout, chosen)
    print(f"Deleted {output.amount(len(found), 'trace')}.")


def _ask(count: int) -> None:
    if not sys.stdin.isatty():
        typer.echo("escapement: nobody is there to ask: --yes deletes without. Nothing was deleted.", err=True)
        raise typer.Exit(2)
    try:
        agreed = typer.confirm(f"Delete {'this trace' if count == 1 else f'these {count} traces'}?", err=True)
    except typer.Abort:
        typer.echo("\nNothing was deleted.", err=True)
        raise typer.Exit(130) from None
    if not agreed:
        typer.echo("Nothing was deleted.", err=True)
        raise typer.Exit(1)


def _heirs(store: SpanStore, chosen: Sequence[str]) -> list[str]:
    """Traces that stay, and have steps of those that go."""
    found = store.sql(
        "SELECT DISTINCT trace_id FROM spans WHERE kind = 'served' AND list_contains(?, source_trace_id) "
        "AND NOT list_contains(?, trace_id) ORDER BY trace_id",
        [list(chosen), list(chosen)],
    )
    return [trace_id for (trace_id,) in found.rows]


def _table(found: Sequence[Summary], width: int) -> Table:
    rows = [
        [
            Text(summary.trace_id),
            output.name(summary.name),
            Text(str(summary.steps)),
            Text(output.moment(summary.created)),
        ]
        for summary in found
    ]
    return output.grid(("ID", "NAME", "STEPS", "CREATED"), rows, width, flexible=1, numbers=range(2, 3))
