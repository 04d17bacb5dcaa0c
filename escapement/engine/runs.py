"""The runs of this process: opening and ending sessions, and what is switched on while any is open.

While a session is open, instrumentors watch the SDKs, lanes are handed on, and an ending program still ends its
traces. When the last one ends, all of it is taken off again.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Any

from escapement.engine import branches, event_loop, lanes, processes, telemetry
from escapement.engine.lanes import Scope
from escapement.engine.session import Session
from escapement.words.errors import ConfigError

_log = logging.getLogger("escapement")
_lock = threading.RLock()
_open: list[Session] = []
_instrumented: list[Any] = []
_owners: weakref.WeakKeyDictionary[Session, tuple[int, int]] = weakref.WeakKeyDictionary()
_entered: weakref.WeakSet[Session] = weakref.WeakSet()
_previous_hook: Callable[..., Any] | None = None

GROUP = "opentelemetry_instrumentor"
OURS = "escapement-"


def start(make: Callable[[], Session], instrumentors: Iterable[str] = ()) -> Session:
    """Open a session: the process's, or this context's own where the process has one. Raises ConfigError."""
    with _lock:
        around = lanes.current()
        if around is not None:
            _refuse_twice(around)
        wanted = _chosen(instrumentors)
        session = make()
        if session.member is None:
            _owners[session] = _here()
        if around is None:
            lanes.set_process(session.scope)
        else:
            session.scope.outer = lanes.own()
            lanes.enter(session.scope)
        _open.append(session)
        _switch_on(wanted)
        return session


def enter(session: Session) -> None:
    """Make a session this context's own: `with`. The run that this process was started in stays the process's."""
    if session.member is not None:
        return
    with _lock:
        _entered.add(session)
        if lanes.process() is session.scope:
            lanes.set_process(None)
        if lanes.own() is not session.scope:
            session.scope.outer = lanes.own()
            lanes.enter(session.scope)


def stop(session: Session, error: BaseException | None = None) -> None:
    """End a session, and take off what was switched on if it was the last.

    The run that this process was started in ends with it, not with what the program calls its own.
    """
    if session.member is not None:
        session.joined = max(0, session.joined - 1)
        return
    session.close(error)
    with _lock:
        lanes.leave(session.scope)
        if session in _open:
            _open.remove(session)
        if not _open:
            lanes.set_process(None)
            _switch_off()


def shared() -> dict[str, Session]:
    """The open runs that other processes take part in, too, by the folder that they share."""
    return {str(session.family.folder): session for session in _open if session.family is not None}


def retire(session: Session) -> None:
    """End what this process does in a run that another one has ended."""
    session.close()
    with _lock:
        _open.remove(session)


def current() -> Session | None:
    """The session that a call made here would belong to."""
    scope = lanes.current()
    return scope.run if scope is not None and isinstance(scope.run, Session) else None


def _here() -> tuple[int, int]:
    task = event_loop.task()
    return threading.get_ident(), id(task) if task is not None else 0


def _refuse_twice(around: Scope) -> None:
    """One after the other, side by side and nested with `with` are fine; twice in a row in one place is a mistake."""
    session = around.run
    if isinstance(session, Session) and session not in _entered and _owners.get(session) == _here():
        raise ConfigError(
            f"trace {session.trace_id} is {'being replayed' if session.source else 'being recorded'} here already. "
            "Call escapement.stop() first; or, to run one inside the other, open both with `with`."
        )


# -- instrumentors ---------------------------------------------------------------------------------------------------


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _chosen(names: Iterable[str]) -> list[EntryPoint]:
    """Our instrumentors, and those that the user asked for: by name, or by the package that brings them."""
    points = _entry_points()
    chosen = [point for point in points if point.name.startswith(OURS)]
    if not chosen:
        raise ConfigError(
            "Escapement is imported but not installed, so nothing would see the calls: install it with pip "
            "(its hooks are found by their entry points)"
        )
    for name in names:
        named = [point for point in points if name in (point.name, _package(point))]
        if not named:
            others = ", ".join(sorted({point.name for point in points if not point.name.startswith(OURS)})) or "none"
            raise ConfigError(
                f"instrumentors names {name!r}, and no such instrumentor is installed (installed: {others})"
            )
        # Several packages use the plain names of SDKs: that which is called after OpenTelemetry's habit goes first.
        usual = f"opentelemetry-instrumentation-{name}"
        chosen.append(next((point for point in named if _package(point) == usual), named[0]))
    return chosen


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else ""


def _switch_on(wanted: Iterable[EntryPoint]) -> None:
    if len(_open) == 1:
        branches.install()
        processes.install()
        _hook_exit()
    for point in wanted:
        try:
            instrumentor = point.load()()
            if not instrumentor.is_instrumented_by_opentelemetry:
                if point.name.startswith(OURS):
                    instrumentor.instrument(skip_dep_check=True)
                    _instrumented.append(instrumentor)
                else:
                    # It stays on: that of Traceloop cannot be undone, and another run would wrap it once more.
                    instrumentor.instrument()
        except Exception:
            # What cannot be watched must be said: a silent gap would be a recording that looks whole.
            _log.exception("Escapement: the instrumentor %r could not be switched on", point.name)


def _switch_off() -> None:
    while _instrumented:
        instrumentor = _instrumented.pop()
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
    branches.remove()
    processes.remove()
    telemetry.step_back()
    _unhook_exit()


# -- the end of the program ------------------------------------------------------------------------------------------


def _hook_exit() -> None:
    global _previous_hook
    atexit.register(_at_exit)
    _previous_hook = sys.excepthook
    sys.excepthook = _on_exception


def _unhook_exit() -> None:
    atexit.unregister(_at_exit)
    if sys.excepthook is _on_exception and _previous_hook is not None:
        sys.excepthook = _previous_hook


def _on_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """The program ends with an exception: it belongs on the traces that are open."""
    for session in list(_open):
        if session.process_id == os.getpid():
            session.close(error)
    (_previous_hook or sys.__excepthook__)(kind, error, traceback)


def _at_exit() -> None:
    for session in list(_open):
        if session.process_id == os.getpid():
            session.close()


def _before_fork() -> None:
    for session in _open:
        session.share()
    processes.before_fork()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    processes.after_fork()
    for session in _open:
        try:
            session.after_fork()
        except Exception:
            _log.exception("Escapement: this forked process cannot go on with trace %s", session.trace_id)


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
