"""`escapement run`, `replay` and `fork`: any Python program, unchanged."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from escapement.cli import output
from escapement.cli.command import environment_of, execute, exit_code, found
from escapement.cli.overview import Overview
from escapement.engine.family import command_name
from escapement.words.config import Settings, resolve
from escapement.words.errors import ConfigError, EscapementError

if TYPE_CHECKING:
    from escapement.engine.conducting import Outcome

Command = Annotated[list[str], typer.Argument(help="The command, after `--`.", metavar="CMD", show_default=False)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Without the line at the end.")]
Json = Annotated[bool, typer.Option("--json", help="The line at the end as a JSON document, with the divergence.")]
Strict = Annotated[
    bool | None,
    typer.Option("--strict/--no-strict", help="An unknown request ends in an error, or goes live.", show_default=False),
]
Reference = Annotated[str, typer.Argument(metavar="ID", help="Id, a unique start of one, @last, or an exported file.")]


def run(
    command: Command,
    name: Annotated[str, typer.Option(help="What to call the trace.", show_default="the program's name")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="A tag of the trace; may be given several times.")] = None,
    quiet: Quiet = False,
) -> None:
    """Record a command: any Python program, unchanged, with the Python processes it starts."""
    program = found(command)
    settings = resolve()
    if not settings.enabled:
        _say(quiet, "Escapement is switched off (enabled=false), so nothing was recorded")
        raise typer.Exit(exit_code(execute(program, command, {})))
    from escapement.engine.conducting import Recorded

    recorded = Recorded(settings, name or command_name(command), tag or ())
    outcome = recorded.end(execute(program, command, environment_of(recorded.member)))
    _say(quiet, _recorded(outcome, settings))
    raise typer.Exit(outcome.code)


def replay(
    trace: Reference, command: Command, strict: Strict = None, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Run a command again with the answers of a trace: the same, offline, for nothing."""
    _replay(trace, command, strict, quiet, as_json, None)


def fork(
    trace: Reference,
    command: Command,
    at: Annotated[
        str,
        typer.Option(
            metavar="STEP",
            help="The first step that goes live: its number, its name or that of a tool (`search`, `search#2`), "
            "`error` for the step that failed, `miss` for the first request that the trace does not know.",
            show_default=False,
        ),
    ],
    strict: Strict = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Replay a command up to a step, and go live from there, into a new trace."""
    _replay(trace, command, strict, quiet, as_json, int(at) if at.isdecimal() else at)


def _replay(
    reference: str, command: list[str], strict: bool | None, quiet: bool, as_json: bool, until: int | str | None
) -> None:
    program = found(command)
    settings = resolve(None, {"strict_replay": strict})
    if not settings.enabled:
        raise ConfigError(
            f"Escapement is switched off (enabled=false, set by {settings.origins['enabled']}), so nothing could be "
            "replayed and the command would go live; it was not started"
        )
    from escapement.engine.conducting import Replayed

    replayed = Replayed(settings, reference, until)
    outcome = replayed.end(execute(program, command, environment_of(replayed.member)))
    if as_json:
        print(orjson.dumps(_document(outcome, replayed.steps)).decode(), file=sys.stderr)
    else:
        _say(quiet, _replayed(outcome, settings, replayed.member.name, replayed.steps))
    unseen = settings.strict_replay and not outcome.joined and replayed.steps > 0
    raise typer.Exit(outcome.code or int(unseen))  # what it did instead, nobody knows


# -- the line at the end ---------------------------------------------------------------------------------------------

_NOT_LOADED = (
    "no model call was seen: no Python process of this command loaded Escapement (`python -E` and `-I` pass over it, "
    "and so does a program that is not Python)"
)


def _recorded(outcome: Outcome, settings: Settings) -> str:
    if not outcome.joined:
        return f"{outcome.trace_id} · {outcome.status} · {_NOT_LOADED}"
    return _written(outcome, settings)


def _replayed(outcome: Outcome, settings: Settings, name: str, steps: int) -> str:
    if not outcome.joined:
        return f"{outcome.trace_id} was NOT replayed: {_NOT_LOADED}"
    if outcome.live:
        return _written(outcome, settings)
    parts = [f"{outcome.trace_id} {name}".strip(), f"replayed {outcome.served} of {output.amount(steps, 'step')}"]
    if outcome.missed:
        parts.append(f"{output.amount(outcome.missed, 'request')} not in the trace")
    return output.plain(" · ".join(parts))


def _document(outcome: Outcome, steps: int) -> dict[str, Any]:
    """The same for programs."""
    return {
        "trace": outcome.trace_id,
        "status": outcome.status,
        "exit_code": outcome.code,
        "live": outcome.live,
        "steps": steps,
        "served": outcome.served,
        "missed": outcome.missed,
        "divergence": outcome.divergence,
    }


def _written(outcome: Outcome, settings: Settings) -> str:
    from escapement.store.prices import Prices
    from escapement.store.traces import SpanStore

    prices = Prices.of(settings)
    try:
        seen = Overview.of(SpanStore(settings.storage_dir, prices=prices).load(outcome.trace_id), prices)
    except EscapementError as error:
        return f"{outcome.trace_id} · {outcome.status} · {error}"
    parts = [f"{outcome.trace_id} {seen.row.name}".strip(), seen.status]
    if seen.row.parent:
        parts.append(f"forked from {seen.row.parent}")
        parts.append(f"{outcome.served} served, {seen.steps - outcome.served} live")
    elif not seen.steps:
        parts.append("no model call was seen")
    else:
        parts.append(output.amount(seen.steps, "step"))
    if seen.steps > outcome.served:
        cost = "cost unknown" if seen.cost is None else output.cost(seen.cost)
        parts += [f"{output.tokens(seen.tokens)} tokens", cost]
    return output.plain(" · ".join(parts))


def _say(quiet: bool, line: str) -> None:
    if not quiet:
        print(f"escapement: {line}", file=sys.stderr)
