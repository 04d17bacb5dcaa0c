"""Which recorded step answers a request: the same request, in the same lane, in the order they were made."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from escapement.store.rows import StepRow
from escapement.words import semconv


class Matcher:
    """Hands out the answered steps of a trace, each once.

    The key is lane and fingerprint, first in first out; where the lane knows nothing of the request, any lane that
    does. Every step is looked at once however often it is passed over, so a call costs the same in a long trace as in
    a short one. Steps from `until` on are not handed out: they are to go live.
    """

    def __init__(self, steps: Sequence[StepRow], until: int | None = None) -> None:
        self._beyond: set[str] = set()
        if until is not None:
            self._beyond = {row.fingerprint for row in steps if row.step >= until}
            steps = [row for row in steps if row.step < until]
        self.total = len(steps)
        self.served = 0
        self._exact: dict[tuple[str, str], deque[StepRow]] = {}
        self._any: dict[str, deque[StepRow]] = {}
        self._order = deque(steps)
        self._taken: set[int] = set()
        self._arrivals = deque(sorted((row for row in steps if row.answered), key=lambda row: row.arrived))
        self._handed_out: set[int] = set()
        self._unanswered: dict[str, int] = {}
        self._known: dict[str, int] = {}
        self._prints: dict[str, str] = {}
        for row in steps:
            if exact := row.attributes.get(semconv.EXACT):
                self._prints[exact] = row.fingerprint
            if row.answered:
                self._exact.setdefault((row.lane, row.fingerprint), deque()).append(row)
                self._any.setdefault(row.fingerprint, deque()).append(row)
                self._known[row.fingerprint] = row.step
            elif row.fingerprint:
                self._unanswered[row.fingerprint] = row.step

    def take(self, lane: str, fingerprint: str) -> StepRow | None:
        """The next step that answers this request here; None when there is none (left)."""
        row = self._next(self._exact.get((lane, fingerprint)))
        if row is None:
            row = self._next(self._any.get(fingerprint))
        if row is not None:
            self._taken.add(row.step)
            self.served += 1
        return row

    def is_beyond(self, fingerprint: str) -> bool:
        """Whether this is a request of one of the steps that are to go live."""
        return fingerprint in self._beyond

    def fingerprint_of(self, exact: str) -> str | None:
        """The fingerprint of a recorded request with these very bytes."""
        return self._prints.get(exact)

    def comes_before(self, row: StepRow) -> StepRow | None:
        """A step whose answer came earlier than this one's, and has not been handed to the program yet."""
        while self._arrivals and self._arrivals[0].step in self._handed_out:
            self._arrivals.popleft()
        first = self._arrivals[0] if self._arrivals else None
        return first if first is not None and first.arrived < row.arrived else None

    def hand_out(self, row: StepRow) -> None:
        """The program has this answer now (or never will)."""
        self._handed_out.add(row.step)

    def why_not(self, fingerprint: str) -> tuple[str, int]:
        """Why `take` found nothing, in a word, and the step that speaks for it (0: none)."""
        if fingerprint in self._known:
            return "exhausted", self._known[fingerprint]
        if fingerprint in self._unanswered:
            return "unanswered", self._unanswered[fingerprint]
        return "no_match", 0

    def expected(self) -> StepRow | None:
        """The first recorded step that was not served yet."""
        return self._next(self._order, pop=False)

    def remaining(self) -> Iterable[StepRow]:
        """The steps that were not served yet, in order."""
        return (row for row in self._order if row.step not in self._taken)

    def _next(self, rows: deque[StepRow] | None, pop: bool = True) -> StepRow | None:
        while rows:
            if rows[0].step in self._taken:
                rows.popleft()
                continue
            return rows.popleft() if pop else rows[0]
        return None
