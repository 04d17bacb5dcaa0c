"""Branches that are processes: each gets a lane from its parent, as tasks and threads do, and takes part in the run.

`os.fork()` takes everything along, so the child only has to be given a lane. A `multiprocessing.Process` carries a
ticket, which opens the run when the child unpickles it (spawn, forkserver). A subprocess finds the run in its
environment. What is given to a pool of processes is a branch of its own, as in a pool of threads: which worker
takes it is chance. It takes its run along, because a pool may be older than the run, and is often there after it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from types import ModuleType
from typing import Any

from escapement.engine import lanes
from escapement.engine.branches import branch_name
from escapement.engine.family import LANE, VARIABLE, Membership, command_name
from escapement.engine.hooks import ModuleHooks
from escapement.engine.lanes import Scope
from escapement.engine.patching import Patch

_meant: ContextVar[Scope | None] = ContextVar("escapement_meant", default=None)
_forked: Scope | None = None


# -- fork ------------------------------------------------------------------------------------------------------------


def before_fork() -> None:
    """Settle which branch the child will be, so that the parent's next one is another."""
    global _forked
    scope = lanes.current()
    _forked = (_meant.get() or scope.child("fork")) if scope is not None else None


def after_fork() -> None:
    """In the child: it is that branch."""
    _meant.set(None)
    if _forked is not None:
        take(_forked)


def take(scope: Scope) -> None:
    """Make `scope` the one of this process, and of this context."""
    if lanes.process() is None or lanes.own() is not None:
        lanes.enter(scope)
    process = lanes.process()
    if process is not None and process.run is scope.run:
        lanes.set_process(scope)


# -- multiprocessing -------------------------------------------------------------------------------------------------


class Ticket:
    """Opens the run in the process that unpickles it."""

    def __init__(self, member: Membership) -> None:
        self._member = member

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return admit, (self._member.to_text(),)


def admit(text: str) -> None:
    """Take part in a run, in a process that was started by `multiprocessing`."""
    from escapement.engine import joining  # it knows sessions, which know of us

    joining.admit(Membership.of_text(text))


def _start(wrapped: Callable[..., Any], process: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scope = lanes.current()
    if scope is None:
        return wrapped(*args, **kwargs)
    target = getattr(process, "_target", None)
    child = scope.child(branch_name(target if target is not None else type(process)))
    member = scope.run.membership(child.lane)
    token = _meant.set(child)
    if member is not None:
        process._escapement = Ticket(member)
    if getattr(target, "__module__", "") in _POOLS:
        queues, (initializer, *rest) = process._args[:2], process._args[2:]
        process._args = (*queues, Initializer(initializer), *rest)
    try:
        return wrapped(*args, **kwargs)
    finally:
        _meant.reset(token)
        process.__dict__.pop("_escapement", None)


_POOLS = frozenset(
    {
        "multiprocessing.pool",
        "concurrent.futures.process",
        "loky.process_executor",
        "joblib.externals.loky.process_executor",
    }
)
"""Their workers take two queues, an initializer, its arguments, and more."""


class Initializer:
    """What a worker of a pool does at first, in the run that it was started in. Then its jobs say where they belong."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self._function = function

    def __reduce__(self) -> tuple[type[Initializer], tuple[Callable[..., Any] | None]]:
        return Initializer, (self._function,)

    def __call__(self, *args: Any) -> None:
        try:
            if self._function is not None:
                self._function(*args)
        finally:
            step_out()


def step_out() -> None:
    """Leave the run that this process was started in, unless it is a command's, which all of it belongs to."""
    if VARIABLE not in os.environ:
        lanes.forget()


class Job:
    """What is given to a pool of threads, as the branch that it is."""

    __slots__ = ("_function", "_scope")

    def __init__(self, function: Callable[..., Any], scope: Scope) -> None:
        self._function = function
        self._scope = scope

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with lanes.within(self._scope):
            return self._function(*args, **kwargs)


class Errand:
    """What is given to a pool of processes: it belongs to this run, whichever the worker was started in."""

    __slots__ = ("_function", "_member")

    def __init__(self, function: Callable[..., Any], member: str) -> None:
        self._function = function
        self._member = member

    def __reduce__(self) -> tuple[type[Errand], tuple[Callable[..., Any], str]]:
        return Errand, (self._function, self._member)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from escapement.engine import joining  # it knows sessions, which know of us

        with joining.errand(Membership.of_text(self._member)):
            return self._function(*args, **kwargs)


def _branches(pool: Any, scope: Scope) -> Callable[[Callable[..., Any], Scope], Callable[..., Any]]:
    """What makes branches of the functions that a pool is given, in the run of `scope`.

    Raises ConfigError where the run reaches no other process.
    """
    threads = sys.modules.get("multiprocessing.pool")
    if threads is not None and isinstance(pool, threads.ThreadPool):
        return Job
    member = scope.run.membership(scope.lane)
    if member is None:
        return lambda function, scope: function
    return lambda function, scope: Errand(function, replace(member, lane=scope.lane).to_text())


def _submit(wrapped: Callable[..., Any], pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`submit` and `apply_async`: one function, one branch."""
    scope = lanes.current()
    if scope is None or not args:
        return wrapped(*args, **kwargs)
    function, *rest = args
    return wrapped(_branches(pool, scope)(function, scope.child(branch_name(function))), *rest, **kwargs)


def _generate(wrapped: Callable[..., Any], pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the `map` of a pool puts on its queue: `(job, number, function, args, kwargs)` for each part of the work."""
    scope = lanes.current()
    if scope is None:
        return wrapped(*args, **kwargs)
    # What can go wrong goes wrong here: the pool's own thread, which takes the parts, does not get over an exception.
    branch, around = _branches(pool, scope), scope.child("map")
    return (
        (job, number, branch(function, around.child("job")), *rest)
        for job, number, function, *rest in wrapped(*args, **kwargs)
    )


# -- subprocesses ----------------------------------------------------------------------------------------------------

_ENV = 10  # where `env` is among the arguments of Popen (after `self`)


def _popen(wrapped: Callable[..., Any], popen: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scope = lanes.current()
    if scope is None or VARIABLE not in os.environ:
        return wrapped(*args, **kwargs)
    given = args[_ENV] if len(args) > _ENV else kwargs.get("env")
    environment = dict(os.environ if given is None else given)
    if VARIABLE not in environment:
        return wrapped(*args, **kwargs)
    command = args[0] if args else kwargs.get("args", ())
    words = command.split() if isinstance(command, str) else command if isinstance(command, list | tuple) else [command]
    environment[LANE] = scope.child(command_name(words)).lane
    if len(args) > _ENV:
        args = (*args[:_ENV], environment, *args[_ENV + 1 :])
    else:
        kwargs = {**kwargs, "env": environment}
    return wrapped(*args, **kwargs)


# -- on and off ------------------------------------------------------------------------------------------------------


def _of_processes(module: ModuleType) -> list[Patch]:
    return [Patch(module.BaseProcess, "start", _start)]


def _of_pools(module: ModuleType) -> list[Patch]:
    patches = [Patch(module.Pool, "apply_async", _submit)]
    if hasattr(module.Pool, "_guarded_task_generation"):  # not public, and the same in 3.11 to 3.14
        patches.append(Patch(module.Pool, "_guarded_task_generation", _generate))
    return patches


def _of_executors(module: ModuleType) -> list[Patch]:
    return [Patch(module.ProcessPoolExecutor, "submit", _submit)]


def _of_subprocesses(module: ModuleType) -> list[Patch]:
    return [Patch(module.Popen, "__init__", _popen)]


_hooks = (
    ModuleHooks("multiprocessing.process", _of_processes),
    ModuleHooks("multiprocessing.pool", _of_pools),
    ModuleHooks("concurrent.futures.process", _of_executors),
    ModuleHooks("loky.process_executor", _of_executors),
    ModuleHooks("joblib.externals.loky.process_executor", _of_executors),
    ModuleHooks("subprocess", _of_subprocesses),
)


def install() -> None:
    for hooks in _hooks:
        hooks.apply()


def remove() -> None:
    for hooks in _hooks:
        hooks.remove()


def own_name() -> str:
    """What this process is called, where its parent gave it no lane."""
    words = sys.orig_argv
    return "multiprocessing" if "--multiprocessing-fork" in words else command_name(words)
