"""`escapement list`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from escapement.cli import output
from escapement.store import summaries
from escapement.store.prices import Prices
from escapement.store.summaries import Summary
from escapement.store.traces import SpanStore
from escapement.words.config import resolve
from escapement.words.errors import ConfigError

_WIDE = 112
"""Columns from which there is room for whole ids and times."""


def list_traces(
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many, newest first.")] = 20,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Ids only, one a line.")] = False,
    name: Annotated[str, typer.Option(help="Only traces whose name contains this.")] = "",
    tag: Annotated[
        list[str] | None, typer.Option(help="Only traces with this tag (again for more: all of them).")
    ] = None,
    status: Annotated[str, typer.Option(help="Only running, completed, failed, killed or interrupted traces.")] = "",
    model: Annotated[str, typer.Option(help="Only traces that called a model whose name contains this.")] = "",
    since: Annotated[
        str, typer.Option(help="Only traces since then: 2026-11-23, 2026-11-23T09:00, 90m, 12h, 7d.")
    ] = "",
    until: Annotated[str, typer.Option(help="Only traces from before then: as --since.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """List traces: id, name, status, steps, tokens, cost, when."""
    settings = resolve()
    store = SpanStore(settings.storage_dir, prices=Prices.of(settings))
    if status and status not in output.STATUS_STYLES:
        raise ConfigError(f"--status takes {', '.join(output.STATUS_STYLES)}, not {status!r}")
    found = summaries.page(
        store,
        limit=number,
        name=name,
        tags=tag or (),
        status=status,
        model=model,
        since=output.when(since, "--since"),
        until=output.when(until, "--until"),
    )
    if quiet:
        for summary in found:
            print(summary.trace_id)
    elif as_json:
        output.print_json_lines([document(summary) for summary in found])
    elif not found:
        like_that = " like that" if any((name, tag, status, model, since, until)) else ""
        typer.echo(f"No traces{like_that} in {settings.storage_dir}", err=True)
    else:
        console = output.console()
        console.print(_table(found, console.width))


def _table(found: list[Summary], width: int) -> Table:
    wide = width >= _WIDE
    rows = [
        [
            Text(summary.trace_id),
            output.name(summary.name),
            _status(summary, wide),
            Text(str(summary.steps)),
            Text(output.tokens(summary.tokens)),
            Text(output.cost(summary.cost)),
            Text(output.moment(summary.created, short=not wide)),
        ]
        for summary in found
    ]
    titles = ("ID", "NAME", "STATUS", "STEPS", "TOKENS", "COST", "CREATED")
    return output.grid(titles, rows, width, flexible=1, numbers=range(3, 6))


def _status(summary: Summary, wide: bool) -> Text:
    """The status with what there is to know about the trace: below it where there is little room."""
    notes = [] if summary.complete else ["(incomplete)" if wide else "incomplete"]
    if summary.parent:
        at = f" step {summary.forked_at}" if summary.forked_at and wide else ""
        notes.append(f"← {summary.parent if wide else summary.parent[:11]}{at}")
    if summary.imported:
        notes.append("(imported)" if wide else "imported")
    return Text((" " if wide else "\n").join([summary.status, *notes]), output.STATUS_STYLES.get(summary.status, ""))


def document(summary: Summary) -> dict[str, Any]:
    """A trace for programs."""
    return {
        "id": summary.trace_id,
        "name": summary.name,
        "status": summary.status,
        "complete": summary.complete,
        "mode": summary.mode,
        "parent": summary.parent,
        "forked_at": summary.forked_at,
        "tags": list(summary.tags),
        "metadata": dict(summary.metadata),
        "steps": summary.steps,
        "input_tokens": summary.input_tokens,
        "output_tokens": summary.output_tokens,
        "cost_usd": summary.cost,
        "models": list(summary.models),
        "created": output.iso(summary.created),
        "duration_s": summary.duration / 1e9 if summary.duration is not None else None,
        "error": summary.error,
        "steps_lost": summary.lost,
        "lines_damaged": summary.damaged,
        "imported": summary.imported,
    }
