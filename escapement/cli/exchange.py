"""`escapement export` and `escapement import`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import orjson
import typer

from escapement.cli import output
from escapement.store import documents, exchange, imports, sealing
from escapement.store.prices import Prices
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.config import Settings, resolve
from escapement.words.errors import ConfigError, EscapementError


def export(
    trace: Annotated[str, typer.Argument(metavar="ID", help="Id, a unique start of one, @last, or @-2.")],
    to: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Where to: a file, or - for stdout.",
            show_default="stdout when piped, else ID.escapement.json",
        ),
    ] = "",
    format: Annotated[
        str, typer.Option(help="json: everything, to replay and to import; otlp: OTLP/JSON, for collectors.")
    ] = "json",
    content: Annotated[
        bool | None,
        typer.Option("--content/--no-content", help="With otlp: requests and answers, too.", show_default="without"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a trace to one file that holds all of it, for keeping and for sharing."""
    if format not in ("json", "otlp"):
        raise ConfigError(f"--format takes json or otlp, not {format!r}")
    if format == "json" and content is not None:
        raise ConfigError("--content and --no-content go with --format otlp: a trace without its content is none")
    settings = resolve()
    store = SpanStore(settings.storage_dir)
    row = store.load(store.resolve(trace))
    data = exchange.dump(exchange.export_document(row)) if format == "json" else _otlp(row, bool(content), settings)
    if to == "-" or (not to and not sys.stdout.isatty()):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    suffix = "escapement" if format == "json" else "otlp"
    path = Path(to or f"{row.trace_id}.{suffix}.json")
    _write(path, data, force)
    steps = output.amount(len(row.steps), "step")
    typer.echo(f"Wrote {row.trace_id} ({steps}) to {path}, {output.size(len(data))}", err=True)


def import_traces(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="What `escapement export` wrote, or OTLP; - for stdin."),
    ],
    together: Annotated[
        bool,
        typer.Option("--together", help="OTLP: all spans of a file are one trace, whatever theirs are."),
    ] = False,
) -> None:
    """Take traces that others exported into the span store. What is there already stays as it is.

    Spans of other instrumentation (OTLP) become a trace with rebuilt answers.
    """
    settings = resolve()
    with output.progress("Importing") as progress:
        for number, file in enumerate(files):
            progress(number, len(files))
            if file == "-":
                name, data = "stdin", documents.load_from(sys.stdin.buffer, "stdin")
            else:
                name, data = file, documents.load(file)
            for trace_id, new in _taken_in(settings.storage_dir, data, name, together):
                print(trace_id, flush=True)
                if not new:
                    typer.echo(f"{name}: {trace_id} is already in the store", err=True)
    if settings.sealing == "background":
        sealing.start(settings.storage_dir)


def _taken_in(
    storage_dir: Path | str, data: bytes | bytearray, name: str, together: bool
) -> Iterator[tuple[str, bool]]:
    """The traces of a file: their ids, and whether each was not there before."""
    from escapement_exporters.foreign import files

    if not files.is_otlp(data):
        yield imports.import_document(storage_dir, data, name)
        return
    for row in files.traces(data, name, together=together):
        yield row.trace_id, imports.keep(storage_dir, row, name=name)
        left = sum("response" in step.attributes.get(semconv.REBUILT, ()) for step in row.steps)
        if left:
            told = f"{left} of {output.amount(len(row.steps), 'step')} without an answer: their spans do not hold it"
            typer.echo(f"{name}: {row.trace_id} has {told}", err=True)


def _otlp(row: TraceRow, content: bool, settings: Settings) -> bytes:
    from escapement_exporters.otlp import documents

    exported = documents.export(row, content=content, prices=Prices.of(settings))
    return orjson.dumps(exported, option=orjson.OPT_APPEND_NEWLINE)


def _write(path: Path, data: bytes, force: bool) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # a pipe, a terminal
            return
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            if force:
                os.replace(draft, path)
            else:
                os.link(draft, path)
        finally:
            if os.path.exists(draft):
                os.unlink(draft)
    except FileExistsError:
        raise EscapementError(f"{path} is there already: --force overwrites it, -o names another file") from None
    except (OSError, ValueError) as error:
        raise EscapementError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
