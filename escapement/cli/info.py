"""`escapement info`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from escapement.cli import output
from escapement.store.traces import SpanStore
from escapement.words.config import SETTINGS, resolve, variable

_SDKS = ("openai", "anthropic", "httpx", "httpx2", "opentelemetry-sdk")


def info(as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """Show the version, every setting and where its value comes from, and the state of the span store."""
    settings = resolve()
    store = SpanStore(settings.storage_dir)
    by_status: dict[str, int] = {}
    incomplete = 0
    for row in store.traces():
        by_status[row.status] = by_status.get(row.status, 0) + 1
        incomplete += not row.complete
    document: dict[str, Any] = {
        "version": _version("escapement"),
        "python": platform.python_version(),
        "packages": {name: found for name in _SDKS if (found := _version(name))},
        "settings": {
            name: {"value": _plain(getattr(settings, name)), "from": settings.origins[name], "variable": variable(name)}
            for name in SETTINGS
        },
        "store": {
            "path": str(settings.storage_dir.absolute()),
            "exists": settings.storage_dir.is_dir(),
            "bytes": _size(settings.storage_dir),
            "traces": sum(by_status.values()),
            "by_status": by_status,
            "incomplete": incomplete,
        },
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
        table.add_row(name, escape(str(setting["value"])), escape(setting["from"]), setting["variable"])
    console.print(table)
    kept = document["store"]
    console.print("[bold]Span store[/bold]")
    console.print(
        escape(kept["path"]) + ("" if kept["exists"] else "  (not there yet: the first recording makes it)"),
        soft_wrap=True,
    )
    if kept["exists"]:
        states = ", ".join(f"{count} {status}" for status, count in sorted(by_status.items()))
        console.print(f"{kept['traces']} traces{f' ({states})' if states else ''}, {output.size(kept['bytes'])}")
        health = (
            f"[red]{incomplete} incomplete: `escapement show` says what is missing[/red]"
            if incomplete
            else "[green]healthy[/green]"
        )
        console.print(health)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _plain(value: object) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _size(root: Path) -> int:
    total = 0
    for path in root.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # sealed or deleted meanwhile
    return total
