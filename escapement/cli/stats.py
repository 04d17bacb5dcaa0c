"""`escapement stats`: tokens, cost and latency by model and day."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from escapement.cli import output
from escapement.store import summaries
from escapement.store.prices import Prices
from escapement.store.summaries import Figures
from escapement.store.traces import SpanStore
from escapement.words.config import resolve

_WIDE = 116
"""Columns from which there is room for all figures."""


def stats(
    trace: Annotated[
        str, typer.Argument(metavar="ID", help="Only this trace: an id, the start of one, @last.", show_default="all")
    ] = "",
    since: Annotated[str, typer.Option(help="Only calls since then: 2026-11-23, 2026-11-23T09:00, 90m, 12h, 7d.")] = "",
    until: Annotated[str, typer.Option(help="Only calls from before then: as --since.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line; all figures.")] = False,
) -> None:
    """Show calls, errors, tokens, cost and latency: all together, then by day (UTC) and model.

    A terminal narrower than 116 columns leaves out cached tokens, p99 and the time to a stream's first chunk.
    """
    settings = resolve()
    store = SpanStore(settings.storage_dir, prices=Prices.of(settings))
    found = summaries.stats(
        store,
        trace_id=store.resolve(trace) if trace else None,
        since=output.when(since, "--since"),
        until=output.when(until, "--until"),
    )
    if as_json:
        output.print_json_lines([_document(figures) for figures in found])
    elif not found:
        like_that = " like that" if any((trace, since, until)) else ""
        typer.echo(f"No calls{like_that} in {settings.storage_dir}", err=True)
    else:
        console = output.console()
        console.print(_table(found, console.width))


def _table(found: list[Figures], width: int) -> Table:
    wide = width >= _WIDE
    rows: list[list[Text]] = []
    day = None
    for figures in found:
        shown = {
            "DAY": Text(_day(figures.day, day, wide)),
            "MODEL": Text("") if figures.day is None else output.name(figures.model or ""),
            "CALLS": Text(str(figures.calls)),
            "ERRORS" if wide else "ERR": Text(str(figures.errors), "red" if figures.errors else ""),
            "IN": Text(output.tokens(figures.input_tokens)),
            "CACHED": Text(output.tokens(figures.cache_read_tokens)),
            "OUT": Text(output.tokens(figures.output_tokens)),
            "COST": Text(output.cost(figures.cost)),
            "P50": _duration(figures.p50_ms),
            "P95": _duration(figures.p95_ms),
            "P99": _duration(figures.p99_ms),
            "FIRST CHUNK": _duration(figures.first_chunk_ms),
        }
        for title in () if wide else ("CACHED", "P99", "FIRST CHUNK"):
            del shown[title]
        if figures.day is None:
            for cell in shown.values():
                cell.stylize("bold")
        rows.append(list(shown.values()))
        titles = list(shown)
        day = figures.day
    return output.grid(titles, rows, width, flexible=1, numbers=range(2, len(titles)))


def _day(day: str | None, above: str | None, wide: bool) -> str:
    """A day where it begins; without its year where there is little room."""
    if day is None:
        return "total"
    return "" if day == above else day if wide else day[5:]


def _duration(milliseconds: float | None) -> Text:
    return Text(output.duration(None if milliseconds is None else round(milliseconds * 1e6)))


def _document(figures: Figures) -> dict[str, Any]:
    """Figures for programs; `day` and `model` are null for all calls together."""
    return {
        "day": figures.day,
        "model": figures.model,
        "calls": figures.calls,
        "errors": figures.errors,
        "input_tokens": figures.input_tokens,
        "output_tokens": figures.output_tokens,
        "cache_read_tokens": figures.cache_read_tokens,
        "cost_usd": figures.cost,
        "p50_ms": figures.p50_ms,
        "p95_ms": figures.p95_ms,
        "p99_ms": figures.p99_ms,
        "first_chunk_ms": figures.first_chunk_ms,
    }
