"""The command line. Data goes to stdout, everything else to stderr; `--json` on every command that reads.

Exit codes: 0 ok, 1 error, 2 usage, 3 divergence, 4 guard, 5 not found, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn

import typer

from escapement.cli import (
    bisect,
    collect,
    delete,
    demo,
    diff,
    doctor,
    edit,
    exchange,
    guards,
    info,
    listing,
    otlp,
    run,
    show,
    sql,
    stats,
    store,
)
from escapement.words.errors import (
    EscapementError,
    EscapementWarning,
    GuardError,
    ReplayDivergenceError,
    TraceNotFoundError,
)

app = typer.Typer(
    help="Record what an AI agent did, and make it happen again: exactly, offline, for nothing.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("replay")(run.replay)
app.command("fork")(run.fork)
app.command("bisect")(bisect.bisect)
app.command("edit")(edit.edit)
app.command("list")(listing.list_traces)
app.command("show")(show.show)
app.command("diff")(diff.diff)
app.command("doctor")(doctor.doctor)
app.command("stats")(stats.stats)
app.command("guards")(guards.guards)
app.command("sql")(sql.sql)
app.command("delete")(delete.delete)
app.add_typer(store.app, name="store")
app.add_typer(otlp.app, name="otlp")
app.command("export")(exchange.export)
app.command("import")(exchange.import_traces)
app.command("collect")(collect.collect)
app.command("info")(info.info)
app.command("demo")(demo.demo)

_EXIT_CODES: tuple[tuple[type[EscapementError], int], ...] = (
    (ReplayDivergenceError, 3),
    (GuardError, 4),
    (TraceNotFoundError, 5),
    (EscapementError, 1),
)


def main() -> NoReturn:
    """Run the command line and exit. An error of ours is one message, never a traceback."""
    os.umask(0o077)  # recordings are private, and so is all that is made of them
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", EscapementWarning)
            warnings.showwarning = _show_warning
            app(prog_name="escapement")
    except EscapementError as error:
        print(f"escapement: {error}", file=sys.stderr)
        sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `escapement list | head`: the reader has what it wanted. Keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning is a sentence for the user, not a line of our source."""
    print(str(message), file=sys.stderr)
