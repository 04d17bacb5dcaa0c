"""The faults a request chooses by its model name.

error-STATUS            always that status
flaky-STATUS[-TIMES]    that status once (or TIMES times) for each distinct request, then success
drop, flaky-drop        the connection closes before any answer; always, or once
drop-midstream[-…]      the connection closes half-way through the answer
stream-error            an error event half-way through the stream; a plain answer is unharmed
slow                    the answer takes five seconds
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import replace

from .exchange import Answer, Dialect, Dropped, Question, Refused

SLOW = 5.0


class Faults:
    """Chooses them, remembering which requests have had theirs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._met: Counter[tuple[str, bytes]] = Counter()

    def strike(self, question: Question) -> None:
        """Raises Refused or Dropped where the request must get no good answer."""
        if question.model == "drop":
            raise Dropped
        if always := re.fullmatch(r"error-([45]\d\d)", question.model):
            raise Refused(int(always[1]))
        flaky = re.fullmatch(r"flaky-([45]\d\d|drop)(?:-(\d+))?", question.model)
        if not flaky or self._met_before(question) >= int(flaky[2] or 1):
            return
        raise Dropped if flaky[1] == "drop" else Refused(int(flaky[1]))

    def _met_before(self, question: Question) -> int:
        # The boundary of a form is new at every attempt.
        said = repr(question.form).encode() if question.form else question.request.body
        key = (question.request.path, said)
        with self._lock:
            self._met[key] += 1
            return self._met[key] - 1


def spoiled(answer: Answer, question: Question, dialect: Dialect) -> Answer:
    """The good answer, made as bad as the model name asks."""
    if question.model == "slow":
        return replace(answer, delay=answer.delay + SLOW)
    if question.model.startswith("drop-midstream"):
        return replace(answer, cut=True)
    if question.model == "stream-error" and answer.events is not None:
        return replace(answer, events=[*_first_half(answer.events), dialect.interruption()])
    return answer


def _first_half(events: list[bytes]) -> list[bytes]:
    return events[: len(events) // 2]
