"""Every exception Escapement raises on purpose.

    EscapementError
    ├── ConfigError               a setting that cannot be, or a verb used where it has no meaning
    ├── TraceNotFoundError        no trace, or more than one, answers to the given id
    ├── ReplayDivergenceError     strict replay met a request that its trace holds no answer for
    ├── GuardError                a guard killed the run; `.trace_id` names the saved trace
    │   ├── LoopDetectedError
    │   └── BudgetExceededError
    ├── StoreError                the span store cannot be read or written
    └── TraceImportError          a file offered as a trace is not one

Messages say what happened, where, and what to do about it. `EscapementWarning` is the category of what the user must
know while their program goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class EscapementError(Exception):
    """The root of the tree: catch this to catch anything Escapement raises on purpose."""


class ConfigError(EscapementError):
    """A setting has a value that it cannot take, or a verb was used where it has no meaning."""


class TraceNotFoundError(EscapementError):
    """No trace, or several, answer to an id.

    `candidates` holds the ids that an ambiguous prefix could have meant.
    """

    def __init__(self, message: str, candidates: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class ReplayDivergenceError(EscapementError):
    """A replayed program asked for something that its trace holds no answer for.

    `reason` is one word (`no_match`, `exhausted`, `unanswered`, `incomplete`, `unreachable`), `step` the position at
    which the replay left its trace (from 1), `candidates` the recorded steps nearest to the request, and `diff` the
    first difference from the nearest of them: a mapping of `path`, `recorded` and `requested`, None if there is none.
    `unreachable` says that a model was to be called in a way that is never recorded: a websocket, another program.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "no_match",
        trace_id: str = "",
        step: int = 0,
        candidates: Sequence[int] = (),
        diff: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.trace_id = trace_id
        self.step = step
        self.candidates = tuple(candidates)
        self.diff = diff


class GuardError(EscapementError):
    """A guard killed the run. The trace was saved first; `trace_id` names it."""

    def __init__(self, message: str, *, trace_id: str = "") -> None:
        super().__init__(message)
        self.trace_id = trace_id


class LoopDetectedError(GuardError):
    """The run was going in circles."""


class BudgetExceededError(GuardError):
    """The run had used up what it was allowed to use."""


class StoreError(EscapementError):
    """The span store cannot be read or written, or is of a format this version does not know."""


class TraceImportError(EscapementError):
    """A file offered as a trace is malformed, too large, or not a trace."""


class EscapementWarning(UserWarning):
    """Something the user must know while their program goes on: a recording with holes, a replay that goes live."""
