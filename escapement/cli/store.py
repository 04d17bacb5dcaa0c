"""`escapement store`: what keeps a span store small, fast and sound."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from escapement.cli import output
from escapement.store import layout, sealing, upkeep
from escapement.store.layout import Layout
from escapement.words.config import Settings, resolve

if TYPE_CHECKING:
    from escapement.store.check import Problem, Report

app = typer.Typer(help="Keep the span store small, fast and sound.", no_args_is_help=True)


def writable(settings: Settings) -> Layout:
    """The store that is there, in the format that its tables need."""
    found = layout.open_existing(settings.storage_dir)
    # One that is not there is not made here: `sealing.upkeep` says so. What is here of a remote one may well be new.
    return layout.create(settings.storage_dir) if found.remote or found.root.is_dir() else found


@app.command("compact")
def compact() -> None:
    """Move the journals of finished runs into the tables, and merge small files of those."""
    store = writable(resolve())
    take_in(resolve().storage_dir)
    with sealing.upkeep(store), output.progress("Compacting") as progress:
        done = upkeep.compact(store, progress=progress)
    sealed = done.sealed
    merged = {name: (before, after) for name, (before, after) in sorted(done.merged.items()) if before}
    if sealed.journals:
        print(f"Sealed {output.amount(sealed.journals, 'journal')}: {output.amount(sealed.spans, 'row')}.")
    for name, (before, after) in merged.items():
        print(f"Merged {output.amount(before, 'file')} of {name} into {after}.")
    if merged:
        print("`escapement store vacuum` removes the old ones.")
    if not (sealed.journals or merged or sealed.failed):
        print("Nothing to seal, and nothing to merge.")
    for journal, reason in sealed.failed.items():
        typer.echo(f"escapement: {store.journals / journal} stays as it is: {reason}", err=True)
    if sealed.failed:
        raise typer.Exit(1)


def take_in(storage_dir: Path | str) -> None:
    """Make traces of the spans that a collector or an exporter that was killed had taken in."""
    from escapement_exporters.collect.intake import Intake

    if any(Layout.of(storage_dir).root.glob("intake/*.jsonl")):
        intake = Intake(storage_dir)
        intake.keep_all()
        intake.close()


@app.command("vacuum")
def vacuum() -> None:
    """Free the space of what nothing needs any more: files that were merged or deleted, sealed journals."""
    store = writable(resolve())
    with sealing.upkeep(store), output.progress("Removing old files"):
        before = files(store.root)
        count = upkeep.vacuum(store)
        gone = before.keys() - files(store.root).keys()
    if store.remote is None:  # not `count`: Delta counts those that went earlier, too
        freed = output.size(sum(before[path] for path in gone))
        print(f"Removed {output.amount(len(gone), 'file')}, {freed}.")
    else:
        print(f"Removed {output.amount(count, 'file')}.")


@app.command("check")
def check(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Read everything in the store and verify it; say what is damaged, and what can be done. Exits with 1 then."""
    from escapement.store import check as checking

    found = Layout.of(resolve().storage_dir)  # not opened: a store that cannot be is one to check
    with sealing.upkeep(found) if repair else nullcontext(), output.progress("Checking") as progress:
        report = checking.check(found, repair=repair, progress=progress)
    if as_json:
        output.print_json(_document(report))
    else:
        _print(report)
    if any(not problem.repaired for problem in report.problems):
        raise typer.Exit(1)


def files(root: Path) -> dict[Path, int]:
    """The files below a directory, with their sizes."""
    found: dict[Path, int] = {}
    for path in root.rglob("*"):
        with suppress(OSError):  # sealed or deleted meanwhile
            if path.is_file():
                found[path] = path.stat().st_size
    return found


def _print(report: Report) -> None:
    console = output.console()
    console.print(
        f"Verified {output.amount(report.traces, 'trace')} with {output.amount(report.requests, 'request')}; "
        f"{output.amount(report.spans, 'span')} and {output.amount(report.parts, 'part')} of payload in the tables."
    )
    for problem in report.problems:
        console.print(_told(problem))
    if report.leftovers:
        count = output.amount(len(report.leftovers), "file")
        console.print(f"{count} that nothing needs: `escapement store vacuum` removes them.", style="dim")
    left = sum(not problem.repaired for problem in report.problems)
    mended = len(report.problems) - left
    if left:
        console.print(f"{output.amount(left, 'problem')}{f', {mended} more repaired' if mended else ''}.", style="red")
    else:
        console.print(f"{output.amount(mended, 'problem')} repaired." if mended else "No problems.", style="green")


def _told(problem: Problem) -> Group:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("  where", Text(output.plain(problem.where)))
    if problem.trace_ids:
        facts.add_row("  traces", ", ".join(problem.trace_ids))
    facts.add_row("  done" if problem.repaired else "  remedy", Text(output.plain(problem.remedy)))
    return Group(Text(output.plain(problem.what), "yellow" if problem.repaired else "red"), facts)


def _document(report: Report) -> dict[str, Any]:
    return {
        "traces": report.traces,
        "spans": report.spans,
        "parts": report.parts,
        "requests": report.requests,
        "problems": [
            {
                "what": problem.what,
                "where": problem.where,
                "trace_ids": list(problem.trace_ids),
                "remedy": problem.remedy,
                "repaired": problem.repaired,
            }
            for problem in report.problems
        ],
        "leftovers": list(report.leftovers),
    }
