"""`escapement sql`: SQL over the span store, from an argument, a file, a pipe, or a prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from escapement.cli import prompt, results
from escapement.store.prices import Prices
from escapement.store.traces import SpanStore
from escapement.words.config import resolve
from escapement.words.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa


def sql(
    statements: Annotated[
        str,
        typer.Argument(
            metavar="SQL", help="One or more statements; `-` reads them from stdin.", show_default="a prompt"
        ),
    ] = "",
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Read the statements from this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a row.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values below a line of names.")] = False,
) -> None:
    """Ask the store in SQL (DuckDB's), over the views traces, llm_calls, messages, tool_calls, lineage and spans.

    Of several statements, the last one's rows are shown. Without any, a prompt opens; there, `.help` helps.
    """
    if statements and file is not None:
        raise typer.BadParameter("give the statements or a file, not both")
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    show = results.print_json if as_json else results.print_csv if as_csv else results.show
    settings = resolve()
    store = SpanStore(settings.storage_dir, prices=Prices.of(settings))
    if file is not None:
        text = _read(file)
    elif statements and statements != "-":
        text = statements
    elif statements != "-" and sys.stdin.isatty() and sys.stdout.isatty():
        prompt.talk(store.place, lambda text: [show(found) for found in run(store, text)])
        return
    else:
        text = sys.stdin.read()
    answers = list(run(store, text))
    if answers:
        show(answers[-1])


def run(store: SpanStore, text: str) -> Iterator[pa.Table]:
    """The rows of one statement after the other. Raises StoreError for one that fails."""
    import duckdb

    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise StoreError(f"the query failed: {error}") from None
    for statement in statements:
        found = _query(store, statement.query)
        if statement.expected_result_type != [duckdb.ExpectedResultType.NOTHING]:
            yield found


def _query(store: SpanStore, statement: str) -> pa.Table:
    """The answer to a statement. It is worked out in another thread: in this one, DuckDB would not hear Ctrl-C."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(store.query, statement)
        try:
            return answer.result()
        except KeyboardInterrupt:
            while wait([answer], timeout=0.05).not_done:
                store.interrupt()
            raise


def _read(file: Path) -> str:
    if str(file) == "-":
        return sys.stdin.read()
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
