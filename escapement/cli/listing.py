"""`escapement list`."""

from __future__ import annotations

import datetime
import re
import time
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from escapement.cli import output
from escapement.cli.overview import Overview
from escapement.store.traces import SpanStore
from escapement.words.config import resolve
from escapement.words.errors import ConfigError


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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """List traces: id, name, status, steps, tokens, cost, when."""
    store = SpanStore(resolve().storage_dir)
    oldest = _since(since) if since else 0
    if status and status not in output.STATUS_STYLES:
        raise ConfigError(f"--status takes {', '.join(output.STATUS_STYLES)}, not {status!r}")
    found: list[Overview] = []
    for row in store.traces():
        if row.created < oldest or (status and row.status != status) or name.lower() not in row.name.lower():
            continue
        if not set(tag or ()) <= set(row.tags):
            continue
        overview = Overview.of(row)
        if model and not any(model.lower() in known.lower() for known in overview.models):
            continue
        found.append(overview)
        if len(found) == number:
            break
    if quiet:
        for overview in found:
            print(overview.row.trace_id)
    elif as_json:
        output.print_json_lines([overview.as_json() for overview in found])
    elif not found:
        typer.echo(
            f"No traces{' like that' if any((name, tag, status, model, since)) else ''} in {store.root}", err=True
        )
    else:
        output.console().print(_table(found))


def _table(found: list[Overview]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ID", no_wrap=True)
    table.add_column("NAME", overflow="ellipsis", no_wrap=True, max_width=40)
    table.add_column("STATUS", no_wrap=True)
    for title in ("STEPS", "TOKENS", "COST"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("CREATED", no_wrap=True)
    for overview in found:
        row = overview.row
        style = output.STATUS_STYLES.get(row.status, "")
        status = overview.status if not row.parent else f"{overview.status} ← {row.parent}"
        table.add_row(
            row.trace_id,
            escape(output.plain(row.name)) or "[dim]–[/dim]",
            f"[{style}]{status}[/{style}]" if style else status,
            str(overview.steps),
            output.tokens(overview.tokens),
            output.cost(overview.cost),
            output.moment(row.created),
        )
    return table


def _since(text: str) -> int:
    """Nanoseconds since the epoch for a date, a date and time (local), or an age."""
    age = re.fullmatch(r"(\d+)([smhdw])", text)
    if age is not None:
        seconds = int(age.group(1)) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[age.group(2)]
        return time.time_ns() - seconds * 1_000_000_000
    try:
        return int(datetime.datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError:
        raise ConfigError(
            f"--since takes a date (2026-11-23), a time (2026-11-23T09:00) or an age (90m, 12h, 7d), not {text!r}"
        ) from None
