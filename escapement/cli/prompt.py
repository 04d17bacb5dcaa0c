"""The prompt of `escapement sql`: statements over as many lines as they take, with a history."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from escapement.words.errors import EscapementError

VIEWS: Final[Mapping[str, str]] = {
    "traces": "one row a trace: name, status, steps, tokens, cost, models",
    "llm_calls": "one row a call to a model: model, tokens, cost, latency, error",
    "messages": "one row a message that was sent or received: role, content",
    "tool_calls": "one row a tool call that a model made: name, arguments, result",
    "lineage": "one row an ancestor of a fork: where from, how far back, from which step on",
    "spans": "one row a span, whatever it is of, with all its attributes",
}
_HELP: Final = """\
A statement ends with `;` and may go over several lines. Ctrl-C clears it, Ctrl-D leaves.
.tables        the views there are
.schema VIEW   the columns of one
.quit          leave"""
_LENGTH: Final = 1000  # lines of history that are kept


def talk(place: str, run: Callable[[str], object]) -> None:
    """Read statements and run them until the user leaves. What fails is told, and ends nothing."""
    print(f"SQL over {place}. `.help` helps, Ctrl-D leaves.")
    lines: list[str] = []
    with _history():
        while True:
            try:
                line = input("       ...> " if lines else "escapement> ")
            except KeyboardInterrupt:
                print()
                lines = []
                continue
            except EOFError:
                print()
                return
            if not lines and line.lstrip().startswith("."):
                if line.split()[0] in (".quit", ".exit"):
                    return
                text = _command(line)
            else:
                lines += [line] if lines or line.strip() else []
                text = "\n".join(lines)
                if not sqlite3.complete_statement(text):  # as SQL goes, not SQLite: quotes, comments, semicolons
                    continue
            lines = []
            try:
                run(text)
            except EscapementError as error:
                print(error, file=sys.stderr)
            except KeyboardInterrupt:
                print("\ninterrupted", file=sys.stderr)


def _command(line: str) -> str:
    """Do what a line with a dot says, or give the statement that does."""
    name, *arguments = line.split()
    if name == ".help":
        print(_HELP)
    elif name == ".tables":
        for view, what in VIEWS.items():
            print(f"{view:12}{what}")
    elif name == ".schema" and len(arguments) == 1 and arguments[0].strip(";") in VIEWS:
        return f'SELECT column_name AS "column", column_type AS "type" FROM (DESCRIBE {arguments[0].strip(";")})'
    elif name == ".schema":
        print(f".schema takes one of {', '.join(VIEWS)}", file=sys.stderr)
    else:
        print(f"{name} is not known; `.help` lists what is", file=sys.stderr)
    return ""


@contextmanager
def _history() -> Iterator[None]:
    """Lines of earlier prompts, in a file that only the user can read; where there can be none, a prompt without."""
    try:
        import readline
    except ImportError:
        yield
        return
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "escapement"
    file = folder / "sql_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(_LENGTH)
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
            readline.write_history_file(file)
            file.chmod(0o600)
