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

    `reason` says in a word why there is none: `no_match`, `exhausted` (answered before, and not as often as it is asked
    for now), `unanswered` (the recording ended before the answer came), `incomplete` (a stream that was given up),
    `unreachable` (a model was to be called in a way that is never recorded: a websocket, another program).
    `kind` says what it looks like (docs/divergence.md lists all); empty where that cannot be told. `step` is the
    position at which the replay left its trace (from 1), `field` where the request differs from the nearest recorded
    one (`messages[0].content`), `candidates` the recorded steps nearest to it, `diff` the first difference from the
    nearest as a mapping of `path`, `change` (`changed`, `added`, `removed`, `reordered`), `recorded` and `requested`,
    `expected` the recorded step that was due as a mapping of `step`, `name` and `asks`; `diff` and `expected` are None
    where there is none. `fix` lists what can be done, `lane` is the branch of concurrent work, `code` the line of the
    program as `file:line`.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "no_match",
        kind: str = "",
        trace_id: str = "",
        step: int = 0,
        lane: str = "",
        code: str = "",
        field: str = "",
        candidates: Sequence[int] = (),
        diff: dict[str, Any] | None = None,
        expected: dict[str, Any] | None = None,
        fix: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.kind = kind
        self.trace_id = trace_id
        self.step = step
        self.lane = lane
        self.code = code
        self.field = field
        self.candidates = tuple(candidates)
        self.diff = diff
        self.expected = expected
        self.fix = tuple(fix)

    def as_dict(self) -> dict[str, Any]:
        """All of it as values of JSON, the text as `message`."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {"error": type(self).__name__, **found, "message": str(self)}


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


for _public in (
    EscapementError, ConfigError, TraceNotFoundError, ReplayDivergenceError, GuardError, LoopDetectedError,
    BudgetExceededError, StoreError, TraceImportError, EscapementWarning,
):  # fmt: skip
    _public.__module__ = "escapement"  # as tracebacks name it: where users import it from
