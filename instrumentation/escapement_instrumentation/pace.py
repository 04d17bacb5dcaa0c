"""When a served answer comes: at once, or as long after the request as it did when it was recorded, times a factor."""

from __future__ import annotations

import time

from escapement.engine import event_loop


class Pace:
    """The clock of one served answer; it begins with the request. `factor` 0 means at once, 1 as recorded."""

    __slots__ = ("_began", "_factor")

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._began = time.perf_counter() if factor else 0.0

    def wait(self, after: int) -> None:
        """Wait for what came `after` so many nanoseconds."""
        if self._factor and (left := self._left(after)) > 0:
            time.sleep(left)

    async def wait_async(self, after: int) -> None:
        """The same without keeping others waiting, whatever event loop it is."""
        if self._factor and (left := self._left(after)) > 0:
            await event_loop.sleep(left)

    def _left(self, after: int) -> float:
        return self._began + after / 1e9 * self._factor - time.perf_counter()
