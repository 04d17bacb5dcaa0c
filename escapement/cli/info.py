"""`escapement info`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from escapement.cli import output
from escapement.cli.store import files
from escapement.store import journal, layout, schema, sealing, tables, views
from escapement.store.layout import Layout
from escapement.store.traces import SpanStore
from escapement.words.config import SETTINGS, Settings, resolve, variable
from escapement.words.normalisers import show_field

_UNITS = {"d": 86400, "h": 3600, "m": 60}
_SDKS = ("openai", "anthropic", "httpx", "httpx2", "opentelemetry-sdk")


def info(as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """Show the version, every setting and where its value comes from, and the state of the span store."""
    settings = resolve()
    store = SpanStore(settings.storage_dir)
    document: dict[str, Any] = {
        "version": _version("escapement"),
        "python": platform.python_version(),
        "packages": {name: found for name in _SDKS if (found := _version(name))},
        "settings": {
            name: {"value": _plain(getattr(settings, name)), "from": settings.origins[name], "variable": variable(name)}
            for name in SETTINGS
        },
        "store": _store(store, layout.open_existing(settings.storage_dir)),
        "otlp": _otlp(settings),
    }
    if as_json:
        output.print_json(document)
        return
    console = output.console()
    packages = ", ".join(f"{name} {found}" for name, found in document["packages"].items())
    console.print(f"[bold]Escapement {document['version']}[/bold]  Python {document['python']}  {packages}")
    table = Table(
        box=None, pad_edge=False, header_style="bold", title="Settings", title_justify="left", title_style="bold"
    )
    for title in ("SETTING", "VALUE", "FROM", "VARIABLE"):
        table.add_column(title, overflow="fold")
    for name, setting in document["settings"].items():
        table.add_row(name, escape(_shown(name, setting["value"])), escape(setting["from"]), setting["variable"])
    console.print(table)
    _print_store(console, document["store"])
    _print_otlp(console, document["otlp"])


def _otlp(settings: Settings) -> dict[str, Any]:
    """Where spans are exported to, what waits to be, and what became of those of all runs so far."""
    from escapement_exporters.export.spool import Spool
    from escapement_exporters.otlp import endpoint

    to = endpoint.find(settings, "traces")
    spool = Spool(Layout.of(settings.storage_dir))
    sizes = [size for _, size in spool.waiting()]
    return {
        "endpoint": to.shown if to is not None else None,
        "protocol": to.protocol if to is not None else None,
        "spans": {name: spool.totals().get(name, 0) for name in ("sent", "spooled", "slimmed", "rejected", "dropped")},
        "waiting": {"files": len(sizes), "bytes": sum(sizes)},
    }


def _print_otlp(console: Console, found: dict[str, Any]) -> None:
    spans, waiting = found["spans"], found["waiting"]
    if found["endpoint"] is None and not any(spans.values()) and not waiting["files"]:
        return
    console.print("[bold]OTLP export[/bold]")
    console.print(escape(f"{found['endpoint']} ({found['protocol']})" if found["endpoint"] else "off"), soft_wrap=True)
    console.print(f"spans: {', '.join(f'{count} {name}' for name, count in spans.items() if count) or 'none yet'}")
    if waiting["files"]:
        console.print(
            f"waiting: {output.amount(waiting['files'], 'file')}, {output.size(waiting['bytes'])}; "
            "the next run sends them, `escapement otlp push` does it now",
            style="yellow",
            soft_wrap=True,
        )


def _store(store: SpanStore, place: Layout) -> dict[str, Any]:
    """The state of the store, from what its tables know of their files and its runs' own rows."""
    states = store.sql(
        "SELECT status, count(), count_if(steps_lost > 0 OR records_damaged > 0) "
        f"FROM ({views.RUNS}) GROUP BY status ORDER BY status"
    ).rows
    found = {name: tables.Table(place, name) for name in (schema.SPANS, schema.PARTS)}
    for table in found.values():
        table.refresh()
    waiting = [path for _, path in sealing.unsealed(sealing.journals(place), found[schema.SPANS])]
    running = sum(journal.has_writer(path) for path in waiting)
    sizes = {name: [int(action["size_bytes"]) for action in table.actions()] for name, table in found.items()}
    here = sum(files(place.root).values())
    return {
        "path": store.place,
        "exists": place.root.is_dir() or bool(states),
        "format": orjson.loads(place.marker.read_bytes())["format"] if place.marker.exists() else None,
        "bytes": here if place.remote is None else here + sum(map(sum, sizes.values())),
        "traces": sum(count for _, count, _ in states),
        "by_status": {status: count for status, count, _ in states},
        "incomplete": sum(incomplete for *_, incomplete in states),
        "journals": {"running": running, "waiting": len(waiting) - running},
        "tables": {name: {"files": len(listed), "bytes": sum(listed)} for name, listed in sizes.items()},
        "damaged_files": len(list(place.damaged.iterdir())) if place.damaged.is_dir() else 0,
    }


def _print_store(console: Console, kept: dict[str, Any]) -> None:
    console.print("[bold]Span store[/bold]")
    console.print(
        escape(kept["path"]) + ("" if kept["exists"] else "  (not there yet: the first recording makes it)"),
        soft_wrap=True,
    )
    if not kept["exists"]:
        return
    states = ", ".join(f"{count} {status}" for status, count in kept["by_status"].items())
    console.print(
        f"{output.amount(kept['traces'], 'trace')}{f' ({states})' if states else ''}, {output.size(kept['bytes'])} "
        f"on disk, format {kept['format'] or '–'}"
    )
    parts = [
        f"{output.amount(table['files'], 'file')} of {name} ({output.size(table['bytes'])})"
        for name, table in kept["tables"].items()
    ]
    console.print(f"tables: {', '.join(parts)}")
    waiting, running = kept["journals"]["waiting"], kept["journals"]["running"]
    console.print(f"journals: {waiting} to be sealed, {running} being written")
    bad = []
    if kept["incomplete"]:
        bad.append(f"{kept['incomplete']} incomplete: `escapement show` says what is missing")
    if kept["damaged_files"]:
        bad.append(f"{output.amount(kept['damaged_files'], 'damaged file')} kept in {kept['path']}/damaged")
    for line in bad:
        console.print(escape(line), style="red", soft_wrap=True)
    if not bad:
        console.print("[green]healthy[/green]")


def _shown(name: str, value: Any) -> str:
    """A value as a person would set it."""
    if value is None or value == []:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(value)
    if name == "retention_size":
        return output.size(value)
    if name == "on_guard":
        return ", ".join(f"{rule}={action}" for rule, action in value.items())
    if name == "max_duration":
        return output.duration(value * 1_000_000_000)
    if name == "retention_age":
        return next(f"{value / unit:g}{letter}" for letter, unit in _UNITS.items() if value >= unit or unit == 60)
    return str(value)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return [show_field(entry) if isinstance(entry, tuple) else str(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
