"""A thread that works off what the program leaves it, so that the program never waits.

The queue is bounded in records and in bytes. It is looked into a few times a second rather than at once: a thread that
wakes for each record would have the program wait for the interpreter that many times.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from opentelemetry import context as otel_context

_log = logging.getLogger("escapement")

_PAUSE: Final = 0.25
"""Seconds between looks into the queue."""
_TURN: Final = 50e-6
"""Seconds between two items. It is the program's turn then: a thread that lets go of the interpreter for no time at all
has it back before the other is awake."""
_RECORDS: Final = 50_000
_BYTES: Final = 64_000_000


class Worker:
    """Calls `work` with each item, on a thread of its own; `rest` after each batch of them, and when it is idle.

    `end` is called at the end of a process of `multiprocessing`, which passes over `atexit`.
    """

    def __init__(
        self, name: str, work: Callable[[Any], None], end: Callable[[], None], rest: Callable[[], None] = lambda: None
    ) -> None:
        self._name = name
        self._work = work
        self._end = end
        self._rest = rest
        self._reset()

    def _reset(self) -> None:
        self._items: deque[tuple[Any, int]] = deque()
        self._taken = 0
        self._done = 0
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._starting = threading.RLock()  # the garbage collector may end a stream while we are at it
        self._thread: threading.Thread | None = None
        self._hurried = False

    @property
    def has_room(self) -> bool:
        return len(self._items) < _RECORDS

    def has_room_for(self, size: int) -> bool:
        """Whether that many bytes may wait, besides those that do."""
        return self._taken - self._done + size <= _BYTES

    @property
    def waiting(self) -> int:
        return len(self._items)

    def hurry(self) -> None:
        """Look into the queue now."""
        self._wake.set()

    def put(self, item: Any, size: int = 0) -> None:
        """Leave an item to the thread; `size` is what it holds on to, in bytes."""
        self._taken += size  # two threads at once may lose one: a bound need not be exact
        self._items.append((item, size))
        if self._thread is None:
            self.start()

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                start = threading.Thread.start
                # As it is without the hook on it: this thread is no branch of the program.
                getattr(start, "__wrapped__", start)(self._thread)
                _when_multiprocessing_ends(self._end)

    def _run(self) -> None:
        # What we send is no part of the program either, for whoever traces HTTP and gRPC.
        otel_context.attach(otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True))
        while True:
            self._wake.wait(_PAUSE)
            self._wake.clear()
            for item in self._next():
                self._safely(self._work, item)
                if not self._hurried:
                    time.sleep(_TURN)
            if not self._taken - self._done and not self._items:
                self._taken = self._done = 0
            self._safely(self._rest)
            if not self._items:
                self._idle.set()

    def _safely(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            _log.exception("Escapement could not export something")

    def finish(self, within: float) -> bool:
        """Have everything worked off that is there now; whether it was, within so many seconds."""
        if self._thread is None:
            return True
        if not self._thread.is_alive():
            return not self._items
        self._idle.clear()
        self._hurried = True
        self._wake.set()
        try:
            return self._idle.wait(within)
        finally:
            self._hurried = False

    def _next(self) -> Iterator[Any]:
        """What waits, oldest first; each item is given once, whoever asks."""
        while True:
            try:
                item, size = self._items.popleft()
            except IndexError:
                return
            self._done += size
            yield item

    def take_left(self) -> list[Any]:
        """What was not worked off. It is the caller's from now on: the end of a program may be told twice."""
        return list(self._next())

    def after_fork(self) -> None:
        """In a child process, which has no threads: what waits is the parent's to work off."""
        self._reset()


def _when_multiprocessing_ends(function: Callable[[], None]) -> None:
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, function, exitpriority=-100)
