"""Where branches begin: tasks, threads, jobs of pools and greenlets are given lanes of their own.

asyncio and trio hand context variables on to tasks; threads and pools do not before Python 3.14, gevent never does. So
while a run is open, what starts a branch is wrapped to hand its scope on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import Callable, Sequence
from contextvars import Context
from types import ModuleType
from typing import Any

from escapement.engine import lanes
from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch


def _unwrapped(target: Any) -> Any:
    while isinstance(target, functools.partial):
        target = target.func
    return target


def _inner(function: Any, arguments: Sequence[Any]) -> Any:
    """What `context.run` (or a partial of it) will call."""
    given = (*function.args, *arguments) if isinstance(function, functools.partial) else arguments
    return given[0] if given else None


def branch_name(target: Any) -> str:
    """What a branch that runs `target` is called."""
    target = _unwrapped(target)
    name = getattr(target, "__qualname__", None) or type(target).__name__
    return str(name).rpartition(".")[2]


def _create_task(wrapped: Callable[..., Any], loop: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scope = lanes.current()
    if scope is None:
        return wrapped(*args, **kwargs)
    target = args[0] if args else kwargs.get("coro")
    context = kwargs.get("context")
    if context is not None:
        lanes.branch_off(context, scope.child(branch_name(target)))
        return wrapped(*args, **kwargs)
    # The new task copies the current context, whatever task factory makes it.
    with lanes.within(scope.child(branch_name(target))):
        return wrapped(*args, **kwargs)


def _start_soon(wrapped: Callable[..., Any], nursery: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scope = lanes.current()
    if scope is None:
        return wrapped(*args, **kwargs)
    with lanes.within(scope.child(branch_name(_of_nursery(args, kwargs)))):
        return wrapped(*args, **kwargs)


async def _start(wrapped: Callable[..., Any], nursery: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scope = lanes.current()
    if scope is None:
        return await wrapped(*args, **kwargs)
    with lanes.within(scope.child(branch_name(_of_nursery(args, kwargs)))):
        return await wrapped(*args, **kwargs)


def _of_nursery(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("async_fn")


def _start_thread(wrapped: Callable[..., Any], thread: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scope = lanes.current()
    if scope is None:
        return wrapped(*args, **kwargs)
    target = getattr(thread, "_target", None)
    context = getattr(_unwrapped(target), "__self__", None)
    if isinstance(context, Context):
        lanes.branch_off(context, scope.child(branch_name(_inner(target, getattr(thread, "_args", ())))))
        return wrapped(*args, **kwargs)
    child = scope.child(branch_name(target if target is not None else type(thread)))
    original = thread.run
    replaced = thread.__dict__.get("run")

    def run() -> None:
        if replaced is not None:
            thread.run = replaced
        else:
            del thread.run
        lanes.enter(child)
        original()

    thread.run = run
    return wrapped(*args, **kwargs)


def _submit(wrapped: Callable[..., Any], pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scope = lanes.current()
    if scope is None or not args:
        return wrapped(*args, **kwargs)
    function, *rest = args
    context = getattr(_unwrapped(function), "__self__", None)
    if isinstance(context, Context):  # context.run(target): how contexts are handed on by hand
        lanes.branch_off(context, scope.child(branch_name(_inner(function, rest))))
        return wrapped(*args, **kwargs)
    child = scope.child(branch_name(function))

    def run(*arguments: Any, **keywords: Any) -> Any:
        with lanes.within(child):
            return function(*arguments, **keywords)

    return wrapped(run, *rest, **kwargs)


class _Spawning:
    """gevent has a callback of its own, and classes that cannot be changed."""

    def __init__(self, greenlet: Any) -> None:
        self._greenlet = greenlet

    def apply(self) -> None:
        self._greenlet.add_spawn_callback(_spawned)

    def remove(self) -> None:
        self._greenlet.remove_spawn_callback(_spawned)


def _spawned(greenlet: Any) -> None:
    scope = lanes.current()
    if scope is not None:
        context = greenlet.gr_context or Context()  # it would begin with an empty one
        lanes.branch_off(context, scope.child(branch_name(greenlet._run)))
        greenlet.gr_context = context


def _of_uvloop(module: ModuleType) -> Sequence[Patch]:
    return (Patch(module.Loop, "create_task", _create_task),)


def _of_trio(module: ModuleType) -> Sequence[Patch]:
    return (Patch(module.Nursery, "start_soon", _start_soon), Patch(module.Nursery, "start", _start))


def _of_gevent(module: ModuleType) -> Sequence[_Spawning]:
    return (_Spawning(module.Greenlet),)


_hooks = (
    Patch(asyncio.BaseEventLoop, "create_task", _create_task),
    Patch(threading.Thread, "start", _start_thread),
    Patch(concurrent.futures.ThreadPoolExecutor, "submit", _submit),
    ModuleHooks("uvloop", _of_uvloop),
    ModuleHooks("trio", _of_trio),
    ModuleHooks("gevent", _of_gevent),
)


def install() -> None:
    for hook in _hooks:
        hook.apply()


def remove() -> None:
    for hook in _hooks:
        hook.remove()
