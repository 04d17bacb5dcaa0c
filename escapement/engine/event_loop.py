"""The event loop that runs this: asyncio's (uvloop's is one, too) or trio's. Both can sleep, and have tasks."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any


def task() -> Any:
    """The task that runs this code; None outside of one."""
    with suppress(RuntimeError):  # no loop
        if (running := asyncio.current_task()) is not None:
            return running
    trio = _trio()
    return trio.current_task() if trio is not None else None


def library() -> ModuleType | None:
    """`asyncio` or `trio`, whichever runs this task; None outside of one."""
    with suppress(RuntimeError):
        if asyncio.current_task() is not None:
            return asyncio
    return sys.modules["trio"] if _trio() is not None else None


def _trio() -> Any:
    """`trio.lowlevel` in a task of trio's, which may be a guest in a loop of asyncio."""
    trio: Any = sys.modules.get("trio.lowlevel")
    return trio if hasattr(trio, "in_trio_task") and trio.in_trio_task() else None


async def sleep(seconds: float) -> None:
    """Let others go on. Raises RuntimeError outside of a task."""
    running = library()
    if running is None:
        raise RuntimeError("no task of asyncio or trio runs this")
    await running.sleep(seconds)


async def forever() -> None:
    """Wait until somebody cancels it."""
    while True:
        await sleep(3600)
