"""Which run a piece of code belongs to, and which of its concurrent branches it is.

A lane is named by how it came to be: `main`, `main/research[0]` for the first task (or thread, or pool job) that ran
`research`, and so on down. The name does not depend on timing, so the same branch has the same name in a replay, and
identical requests made at the same time find their own answers. Children are counted per name, so that tasks which
only the network stack starts (and a replay does not) leave the others' names alone. Where branches begin: `branches`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from escapement.engine.family import Membership

ROOT = "main"


class Run(Protocol):
    """What a scope points at: a session."""

    @property
    def open(self) -> bool: ...

    def membership(self, lane: str) -> Membership | None: ...


class Scope:
    """A place in a run: the run, and the lane. `outer` is the scope that it was opened in."""

    __slots__ = ("_counts", "lane", "outer", "run")

    def __init__(self, run: Run, lane: str = ROOT, outer: Scope | None = None) -> None:
        self.run = run
        self.lane = lane
        self.outer = outer
        self._counts: dict[str, itertools.count[int]] = {}

    def child(self, name: str) -> Scope:
        """The scope of a branch that starts here."""
        number = next(self._counts.setdefault(name, itertools.count()))
        return Scope(self.run, f"{self.lane}/{name}[{number}]", self.outer)


_scope: ContextVar[Scope | None] = ContextVar("escapement_scope", default=None)
_process: Scope | None = None


def _still_open(scope: Scope | None) -> Scope | None:
    """The innermost scope whose run has not ended: contexts outlive runs."""
    while scope is not None and not scope.run.open:
        scope = scope.outer
    return scope


def current() -> Scope | None:
    """The innermost scope of an open run here: this context's own, else the process's."""
    scope = _still_open(_scope.get())
    if scope is not None:
        return scope
    return _process if _process is not None and _process.run.open else None


def own() -> Scope | None:
    """The scope that this context has of its own (the process's does not count)."""
    return _still_open(_scope.get())


def process() -> Scope | None:
    """The scope of the process-wide run."""
    return _process if _process is not None and _process.run.open else None


def set_process(scope: Scope | None) -> None:
    global _process
    _process = scope


def enter(scope: Scope) -> None:
    """Make `scope` this context's own."""
    _scope.set(scope)


def leave(scope: Scope) -> None:
    """Go back to what was around `scope`. By value, not by token: fixtures leave in another context than they enter."""
    if _scope.get() is scope:
        _scope.set(scope.outer)


def forget() -> None:
    """Be in no scope here, nor anywhere in this process where none was entered."""
    set_process(None)
    _scope.set(None)


@contextmanager
def within(scope: Scope) -> Iterator[None]:
    """Run a block in `scope`."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def branch_off(context: Context, child: Scope) -> None:
    """Make `child` the scope of a context that a new branch will run in.

    A context with an open scope other than ours keeps it: it is a branch that goes on. asyncio.Runner and
    pytest-asyncio run one task after another in a context that they keep.
    """
    theirs = _still_open(context.get(_scope))
    if theirs is None or theirs is _still_open(_scope.get()):
        with suppress(RuntimeError):  # the very context that we are in: one for all has one lane for all
            context.run(_scope.set, child)
