"""How a run ends: the status and the error of its trace, and the exit code of a command."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from escapement.engine import redaction
from escapement.store.journal import Record
from escapement.words.errors import GuardError, ReplayDivergenceError


def describe(error: BaseException) -> str:
    """What is kept of an exception that ended a run."""
    return redaction.scrub_text(f"{type(error).__name__}: {error}")[:2000]


def kind(error: BaseException) -> str:
    """Whether it is one of ours that ends the program: then the command line says so with its exit code."""
    for kind, name in ((ReplayDivergenceError, "divergence"), (GuardError, "guard")):
        if isinstance(error, kind) or (isinstance(error, BaseExceptionGroup) and error.subgroup(kind) is not None):
            return name
    return ""


def verdict(returned: int, records: Sequence[Record]) -> tuple[str, str | None]:
    """Status and error of the trace."""
    killed = next((record["error"] for record in records if record["record"] == "killed"), None)
    if killed is not None:
        return "killed", killed
    if returned < 0:
        return "interrupted", f"the program was ended by {_signal(-returned)}"
    if returned:
        ended = [record["error"] for record in records if record["record"] == "ended"]
        return "failed", ended[-1] if ended else f"the program ended with exit code {returned}"
    return "completed", None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def code(returned: int, records: Sequence[Record]) -> int:
    """The exit code to pass on: the program's own, unless it was an error of ours that ended it."""
    if returned < 0:
        return 128 - returned
    kinds = {record["kind"] for record in records if record["record"] == "ended"}
    if returned and "divergence" in kinds:
        return 3
    if returned and "guard" in kinds:
        return 4
    return returned
