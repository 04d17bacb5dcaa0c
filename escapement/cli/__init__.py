"""The command line. Data goes to stdout, everything else to stderr; `--json` on every command that reads.

Exit codes: 0 ok, 1 error, 2 usage, 3 divergence, 4 guard, 5 not found, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import NoReturn

import typer

from escapement.words.errors import (
    EscapementError,
    EscapementWarning,
    GuardError,
    ReplayDivergenceError,
    TraceNotFoundError,
)

_COMMANDS = {
    "run": "run:run",
    "replay": "run:replay",
    "fork": "run:fork",
    "bisect": "bisect:bisect",
    "edit": "edit:edit",
    "list": "listing:list_traces",
    "show": "show:show",
    "diff": "diff:diff",
    "doctor": "doctor:doctor",
    "stats": "stats:stats",
    "guards": "guards:guards",
    "sql": "sql:sql",
    "delete": "delete:delete",
    "export": "exchange:export",
    "import": "exchange:import_traces",
    "collect": "collect:collect",
    "info": "info:info",
    "demo": "demo:demo",
    "store": "store:app",
    "otlp": "otlp:app",
}
"""Commands and the functions that they are, or the groups; in the order in which the help shows them."""

_EXIT_CODES: tuple[tuple[type[EscapementError], int], ...] = (
    (ReplayDivergenceError, 3),
    (GuardError, 4),
    (TraceNotFoundError, 5),
    (EscapementError, 1),
)


def application(wanted: str = "") -> typer.Typer:
    """The command line with all its commands, or with the one that is wanted: to import all takes half a second."""
    app = typer.Typer(
        help="Record what an AI agent did, and make it happen again: exactly, offline, for nothing.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)  # so that it takes the name of a command where there is only one, too
    for name in [wanted] if wanted in _COMMANDS else _COMMANDS:
        module, _, attribute = _COMMANDS[name].partition(":")
        command = getattr(import_module(f"escapement.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> NoReturn:
    """Run the command line and exit. An error of ours is one message, never a traceback."""
    os.umask(0o077)  # recordings are private, and so is all that is made of them
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", EscapementWarning)
            warnings.showwarning = _show_warning
            application(*sys.argv[1:2])(prog_name="escapement")
    except EscapementError as error:
        print(f"escapement: {error}", file=sys.stderr)
        sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `escapement list | head`: the reader has what it wanted. Keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    finally:
        # Interrupted inside an `exec` (imports have some), `python -m` would end by the signal and not with our code.
        # Only another `exec` makes CPython forget that: `run_eval_code_obj` in its pythonrun.c.
        exec("")
    sys.exit(0)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning is a sentence for the user, not a line of our source."""
    print(str(message), file=sys.stderr)
