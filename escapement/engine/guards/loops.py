"""The rules against going in circles. They see steps, keep bounded notes, and touch nothing.

What is said of a conversation is kept with the step that it was said of, as a value that is never changed once another
step goes on from it. So branches of one conversation, one after the other or side by side, each count for themselves.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, NamedTuple

from escapement.engine.guards.masking import alike, clipped
from escapement.engine.guards.reading import REMEMBERED, remember
from escapement.engine.guards.steps import Answered, Asked, Level, Use, Verdict

SAME_RESULT: Final = (3, 5)
SAME_ERROR: Final = (2, 3)
ROUNDS: Final = (2, 3)
ANSWERS: Final = (2, 3)
FAILURES: Final = (5, 8)
"""Of the last 8 turns in which a tool was used: so many failed, all failed."""
GROWING: Final = 10
PATIENCE: Final = 5_000_000_000
"""Nanoseconds between an answer and the next request from which on the program is waiting for something, not racing."""

_LONGEST: Final = 4  # steps of a cycle
_REQUESTS: Final = 4096  # different requests that are remembered
_SHOWN: Final = 32  # steps that a verdict names
_BRANCH: Final = re.compile(r"\[\d+\]")


class Repeats(NamedTuple):
    """How often something happened, and in which steps (of many, the first and the last ones)."""

    times: int = 0
    steps: tuple[int, ...] = ()

    def more(self, step: int) -> Repeats:
        steps = self.steps if len(self.steps) < _SHOWN else (self.steps[0], *self.steps[2:])
        return Repeats(self.times + 1, (*steps, step))


_NONE: Final = Repeats()


@dataclass(slots=True)
class _Talk:
    """A conversation as of one of its requests, and of the answer to it when that is there."""

    seen: dict[int, None] = field(default_factory=dict)
    """What tools and others than the model said, as numbers; the newest last."""
    repeated: dict[int, Repeats] = field(default_factory=dict)
    """What tools said since there was something new."""
    news: str = ""
    anything_new: bool = True
    size: int = 0
    growing: Repeats = _NONE
    answer: str = ""
    same_answers: Repeats = _NONE
    answered: int = 0

    def going_on(self) -> _Talk:
        """The conversation as the next request finds it: what is changed in it is copied first."""
        return _Talk(self.seen, self.repeated, self.news, True, self.size, self.growing, self.answer, self.same_answers)


@dataclass(slots=True)
class _Branch:
    """What happened in a lane, or in lanes that differ by their numbers only."""

    symbols: deque[tuple[int, str, int]] = field(default_factory=lambda: deque(maxlen=_LONGEST * 3))
    """What each of the last steps was about: a number, a text (or empty), the step."""
    periods: list[int] = field(default_factory=lambda: [0] * (_LONGEST + 1))
    """For how many steps in a row each was the one so many steps before."""
    alone: tuple[str, str, int] = ("", "", 0)
    """Fingerprint, news and size of the last request that went on from none."""
    similar: Repeats = _NONE
    empty: Repeats = _NONE


class Loops:
    """All rules about loops. `exempt` are tools (patterns) that may be called as often as they like."""

    def __init__(self, max_identical_calls: int = 10, exempt: Sequence[str] = ()) -> None:
        self._limit = max_identical_calls
        self._is_exempt = lru_cache(REMEMBERED)(lambda name: any(fnmatchcase(name, pattern) for pattern in exempt))
        self._requests: OrderedDict[str, Repeats] = OrderedDict()
        self._talks: OrderedDict[int, _Talk] = OrderedDict()
        self._branches: OrderedDict[str, _Branch] = OrderedDict()
        self._tools: OrderedDict[str, deque[tuple[bool, int]]] = OrderedDict()
        self._results: OrderedDict[tuple[str, str | int], list[tuple[int, str]]] = OrderedDict()
        self._numbers = itertools.count(1)

    def identical(self, step: Asked) -> Iterator[Verdict]:
        """The one rule that needs nothing but fingerprints. Requests that are made beside the same one count as one."""
        made = self._requests.get(step.fingerprint, _NONE)
        if not step.beside:
            made = made.more(step.step)
            remember(self._requests, step.fingerprint, made, _REQUESTS)
        if made.times >= self._limit:
            what = f"the same request was made {made.times} times"
            yield Verdict("identical_requests", "stop", what, made.times, self._limit, made.steps, step.fingerprint)

    def asked(self, step: Asked) -> Iterator[Verdict]:
        """What is to be said of a step before it is sent."""
        branch = self._branch(step.lane)
        before = self._talks.get(step.after)
        talk = before.going_on() if before is not None else _Talk()
        waited = before is not None and 0 < before.answered <= step.at - PATIENCE
        uses = [use for use in step.uses if not self._is_exempt(use.name)]
        patient = len(uses) < len(step.uses) or (waited and not any(use.failed for use in uses))
        numbers = {self._number(use): use for use in uses}  # the same at once counts once
        if step.read:
            remember(self._talks, step.step, talk)
            yield from self._repeated(step, talk, numbers, patient)
            yield from self._growing(step, talk, before)
            yield from self._failing(step, uses)
            yield from self._similar(step, branch)
        yield from self._cycle(step, branch, numbers, patient)

    def answered(self, step: Answered) -> Iterator[Verdict]:
        """What is to be said of a step when it has ended."""
        talk = self._talks.get(step.step)
        if talk is not None:
            talk.answered = step.at
        if not step.read:
            return
        branch = self._branch(step.lane)
        text = "" if step.calls else clipped(step.text.strip())
        branch.empty = branch.empty.more(step.step) if not text and not step.calls else _NONE
        if branch.empty.times >= ANSWERS[0]:
            what = f"the model gave {branch.empty.times} empty answers in a row"
            yield _verdict("answers", branch.empty, ANSWERS, what)
        if talk is None:
            return
        same = bool(text) and bool(talk.answer) and alike(text, talk.answer)
        talk.answer = text
        talk.same_answers = (talk.same_answers if same else _NONE).more(step.step) if text else _NONE
        if talk.same_answers.times >= ANSWERS[0] and not talk.anything_new:
            what = f"the model gave the same answer {talk.same_answers.times} times, with nothing new asked"
            yield _verdict("answers", talk.same_answers, ANSWERS, what, hash(text))

    def _repeated(self, step: Asked, talk: _Talk, numbers: dict[int, Use], patient: bool) -> Iterator[Verdict]:
        """The same tool with the same arguments and the same result, with nothing new in between."""
        new = {number: None for number in numbers if number not in talk.seen}
        if step.news:
            news = clipped(step.news)
            number = hash(news)
            if number not in talk.seen and not alike(news, talk.news, ids=False):
                new[number] = None
            talk.news = news
        talk.anything_new = patient or bool(new)
        if new:
            talk.seen = talk.seen | new
            if len(talk.seen) > 2 * REMEMBERED:
                talk.seen = dict.fromkeys(list(talk.seen)[-REMEMBERED:])
        if not numbers and not talk.anything_new:
            return
        repeated = {} if talk.anything_new else dict(talk.repeated)
        talk.repeated = repeated
        for number, use in numbers.items():
            made = repeated[number] = repeated.get(number, _NONE).more(step.step)
            rule, limits = ("repeated_error", SAME_ERROR) if use.failed else ("repeated_tool", SAME_RESULT)
            if made.times >= limits[0]:
                end = "failed with the same error" if use.failed else "gave the same result"
                what = f"the tool {use.name} was called {made.times} times with the same arguments and {end}"
                yield _verdict(rule, made, limits, what, number)

    def _growing(self, step: Asked, talk: _Talk, before: _Talk | None) -> Iterator[Verdict]:
        grows = before is not None and step.size > before.size and not talk.anything_new
        talk.size = step.size
        talk.growing = talk.growing.more(step.step) if grows else _NONE
        if talk.growing.times >= GROWING:
            what = f"{talk.growing.times} requests in a row sent more than the one before, and nothing new"
            yield _verdict("growing_input", talk.growing, (GROWING, GROWING), what)

    def _failing(self, step: Asked, uses: Iterable[Use]) -> Iterator[Verdict]:
        """A tool failed in a turn if all its calls in it failed."""
        turns: dict[str, bool] = {}
        for use in uses:
            turns[use.name] = turns.get(use.name, True) and use.failed
        for name, has_failed in turns.items():
            last = self._tools.get(name) or deque(maxlen=FAILURES[1])
            last.append((has_failed, step.step))
            remember(self._tools, name, last)
            failures = tuple(number for failed, number in last if failed)
            if has_failed and len(failures) >= FAILURES[0]:
                what = f"the tool {name} failed in {len(failures)} of the last {len(last)} turns that used it"
                yield _verdict("failing_tool", Repeats(len(failures), failures), FAILURES, what, name)

    def _similar(self, step: Asked, branch: _Branch) -> Iterator[Verdict]:
        if step.after or step.beside or not step.news:
            return
        news = clipped(step.news)
        fingerprint, last, size = branch.alone
        if fingerprint != step.fingerprint:
            same = abs(size - step.size) < 64 and alike(news, last, ids=False)
            branch.similar = (branch.similar if same else _NONE).more(step.step)
        branch.alone = step.fingerprint, news, step.size
        if branch.similar.times >= self._limit:
            what = f"the same request, but for times and counters in it, was made {branch.similar.times} times"
            yield _verdict("similar_requests", branch.similar, (self._limit, self._limit), what)

    def _cycle(self, step: Asked, branch: _Branch, numbers: dict[int, Use], patient: bool) -> Iterator[Verdict]:
        """Two to four steps that come round, of which not all are the same."""
        if step.beside:
            return
        symbol, text = self._symbol(step, branch, numbers, patient)
        symbols, periods = branch.symbols, branch.periods
        for period in range(1, _LONGEST + 1):
            same = len(symbols) >= period and symbols[-period][0] == symbol
            periods[period] = periods[period] + 1 if same else 0
        symbols.append((symbol, text, step.step))
        for period in range(2, _LONGEST + 1):
            if periods[period] >= period and periods[1] < period - 1:
                rounds = periods[period] // period + 1
                if periods[period] % period == 0:  # a round is whole
                    steps = tuple(number for _, _, number in symbols)[-rounds * period :]
                    subject = hash(frozenset(number for number, _, _ in list(symbols)[-period:]))
                    what = f"the same {period} steps came round {rounds} times"
                    yield _verdict("cycle", Repeats(rounds, steps), ROUNDS, what, subject)
                return

    def _symbol(self, step: Asked, branch: _Branch, numbers: dict[int, Use], patient: bool) -> tuple[int, str]:
        """What a step is about, as a number: the tools used for it, else what was said, else the request itself."""
        if patient:
            return -next(self._numbers), ""
        if numbers:
            return hash(tuple(sorted(numbers))), ""
        if not step.after:
            return hash(step.fingerprint), ""
        if not step.news:
            return -next(self._numbers), ""
        news = clipped(step.news)
        same = (number for number, text, _ in reversed(branch.symbols) if text and alike(news, text, ids=False))
        return next(same, hash(news)), news

    def _number(self, use: Use) -> int:
        """A number for a tool with its arguments and its result, the same for results that are alike."""
        key = (use.name, use.arguments if len(use.arguments) < 512 else hash(use.arguments))
        result = clipped(use.result)
        results = self._results.get(key, [])
        number = next((number for number, other in results if alike(result, other)), 0)
        if not number:
            number = next(self._numbers)
            remember(self._results, key, [*results[-3:], (number, result)])
        return number

    def _branch(self, lane: str) -> _Branch:
        name = lane if "[" not in lane else _BRANCH.sub("", lane)
        branch = self._branches.get(name)
        if branch is None:
            branch = _Branch()
            remember(self._branches, name, branch)
        return branch


def _verdict(rule: str, repeats: Repeats, limits: tuple[int, int], what: str, subject: int | str = "") -> Verdict:
    stop = limits[1]
    level: Level = "stop" if repeats.times >= stop else "warn"
    return Verdict(rule, level, what, repeats.times, stop, repeats.steps, subject)
