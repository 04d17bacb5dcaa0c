"""The guards of a run: its rules, and what is done about what they find."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from escapement.engine import usage
from escapement.engine.guards import recorded
from escapement.engine.guards.budgets import Budgets, SharedUse
from escapement.engine.guards.loops import Loops
from escapement.engine.guards.reading import Reader, remember
from escapement.engine.guards.recorded import Recorded
from escapement.engine.guards.steps import Answered, Asked, Verdict
from escapement.providers import Operation
from escapement.store.pieces import Body
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.words import rules, semconv
from escapement.words.config import Settings
from escapement.words.errors import (
    BudgetExceededError,
    ConfigError,
    EscapementError,
    GuardError,
    LoopDetectedError,
)
from escapement.words.http import Request

_log = logging.getLogger("escapement")

_STEPS: Final = 512  # steps whose use is remembered for messages

_REMEDIES: Final = {
    "identical_requests": "max_identical_calls={wider}, or loop_detection_enabled=False",
    "repeated_tool": 'exempt_tools=["…"], or on_guard={{"repeated_tool": "off"}}',
    "repeated_error": 'exempt_tools=["…"], or on_guard={{"repeated_error": "off"}}',
    "failing_tool": 'exempt_tools=["…"], or on_guard={{"failing_tool": "off"}}',
    "calls": "raise max_calls",
    "tokens": "raise max_tokens",
    "cost": "raise max_cost",
    "duration": "raise max_duration",
}


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _harmless(
    method: Callable[Concatenate[Guards, Arguments], Result],
) -> Callable[Concatenate[Guards, Arguments], Result | None]:
    """A mistake of ours switches the guards off, and not the recording, let alone the program."""

    @wraps(method)
    def safe(self: Guards, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result | None:
        if self.broken:
            return None
        try:
            return method(self, *args, **kwargs)
        except EscapementError:
            raise
        except Exception:
            self.broken = True
            _log.exception("Escapement's guards failed, and are off for the rest of the run")
            return None

    return safe


class Guards:
    """Watches one run. Whoever calls holds the lock of the run.

    In a replay, what is served was warned about when it was recorded. So, unless a rule could stop the run (or a
    function wants to know), served steps are only counted, and looked at when the run goes live.
    """

    def __init__(
        self, settings: Settings, prices: Prices, warn: Callable[[str], None], source: TraceRow | None
    ) -> None:
        self.broken = False
        self.failing: tuple[str, ...] = ()
        """The tools whose results are errors, of those that the request asked about last is the first to tell."""
        self._settings = settings
        self._prices = prices
        self._warn = warn
        self._source = source
        actions = rules.actions(settings.on_guard or {})
        if not settings.loop_detection_enabled:
            actions |= dict.fromkeys(rules.LOOPS, "off")
        self._actions = actions
        self._loops = Loops(settings.max_identical_calls, settings.exempt_tools)
        self._budgets = Budgets(settings)
        self._reader = Reader()
        self._recorded = Recorded(source, self._reader, self._wanted_prices) if source is not None else None
        self._behind: list[tuple[int, str, StepRow, bool]] = []
        self._live = source is None
        self._flying: dict[str, int] = {}
        """By fingerprint, how many requests are under way."""
        self._served = 0
        self._clock = 0
        self._began = time.time_ns()
        self._used: OrderedDict[int, usage.Use] = OrderedDict()
        self._ledger = usage.Ledger(prices)
        self._said: OrderedDict[tuple[str, str, int | str], float] = OrderedDict()
        self._pending: list[Verdict] = []
        self._deciding = False
        self._complained: set[str] = set()
        self._shared: SharedUse | None = None
        loops = [rule for rule in rules.LOOPS if rule != "identical_requests"]
        judged = [*loops, *self._budgets.limits]
        self._reads = any(actions[rule] != "off" for rule in loops)
        self._eager = any(actions[rule] not in ("off", "warn") for rule in judged)

    # -- what a run tells ----------------------------------------------------------------------------------------

    @_harmless
    def asked(
        self,
        step: int,
        lane: str,
        fingerprint: str,
        request: Request,
        operation: Operation,
        body: Body | None,
        row: StepRow | None,
        trace_id: str,
    ) -> GuardError | None:
        """A request is made, which `row` would answer; without one it would be sent. The error that stops it, if any.

        Raises ConfigError for a request made by the function that decides what to do about another one.
        """
        if self._deciding:
            raise ConfigError("the function given as on_guard made a model call in the very run that it decides about")
        self.failing = ()
        if row is not None:
            return self._serve(step, lane, row, trace_id)
        if self._recorded is not None:
            self._go_live()
        at = self._clock + time.time_ns() - self._began
        seen = recorded.asked(
            self._reader,
            operation,
            request.path,
            body if self._reads else None,
            step=step,
            lane=lane,
            fingerprint=fingerprint,
            at=at,
            beside=fingerprint in self._flying or recorded.only_reads(request.method),
        )
        self.failing = tuple(use.name for use in seen.uses if use.failed)
        if self._settings.budget_file is not None:
            self._share_in(self._settings.budget_file)
        return self._decide(self._judge(seen), trace_id)

    @_harmless
    def sent(self, fingerprint: str) -> None:
        """The request that was asked about goes out now."""
        self._flying[fingerprint] = self._flying.get(fingerprint, 0) + 1
        self._budgets.count(calls=1)
        self._share(calls=1)

    @_harmless
    def answered(
        self,
        asked: Mapping[str, Any],
        answered: Mapping[str, Any],
        operation: Operation,
        document: Mapping[str, Any],
        use: usage.Use,
    ) -> None:
        """A live call has ended."""
        fingerprint = asked[semconv.FINGERPRINT]
        beside = self._flying.pop(fingerprint, 0) - 1
        if beside > 0:
            self._flying[fingerprint] = beside
        cost = use.cost(self._prices) if self._budgets.priced else 0.0
        seen = recorded.answered(
            self._reader,
            operation,
            document,
            answered,
            step=asked[semconv.STEP],
            lane=asked[semconv.LANE],
            at=self._clock + time.time_ns() - self._began,
            tokens=use.input + use.output,
            cost=cost,
        )
        for verdict in self._take(seen, use):
            if self._actions[verdict.rule] != "warn":
                self._pending.append(verdict)  # nothing may be raised here: the next request is told
            elif not self._is_said(verdict):
                self._warn(self._message(verdict))
        self._share(tokens=seen.tokens, cost=cost or 0.0)
        if cost is None:
            self._complain(
                "cost",
                f"max_cost cannot count calls to {use.model}: their price is not known. "
                "Give it in prices_file, or set max_tokens",
            )

    # -- replays -------------------------------------------------------------------------------------------------

    def _serve(self, step: int, lane: str, row: StepRow, trace_id: str) -> GuardError | None:
        assert self._recorded is not None
        self._served += 1
        beside = self._recorded.is_beside(row)
        self._clock = max(self._clock, self._recorded.at(row.end or row.start))
        if not self._eager:
            self._behind.append((step, lane, row, beside))
            if self._actions["identical_requests"] == "off":
                return None
            seen = Asked(step, lane, row.fingerprint, beside=beside)
            return self._decide(self._loops.identical(seen), trace_id, quiet=True)
        self._settle(row.start)
        seen = self._recorded.asked(row, step, lane, beside)
        error = self._decide(self._judge(seen), trace_id, quiet=True)
        if error is None:
            self._budgets.count(calls=1)
            self._share_served(calls=1)
        return error

    def _go_live(self) -> None:
        """What was served becomes the beginning of a run under way."""
        assert self._recorded is not None
        if self._live and not self._behind:
            return
        for step, lane, row, beside in self._behind:
            self._settle(row.start)
            for verdict in self._loops.asked(self._recorded.asked(row, step, lane, beside)):
                self._is_said(verdict)
            self._budgets.count(calls=1)
            self._share_served(calls=1)
        self._behind.clear()
        self._settle(None)
        self._clock = self._recorded.clock(self._clock, self._served)
        self._began = time.time_ns()
        self._live = True

    def _settle(self, until: int | None) -> None:
        assert self._recorded is not None
        for seen, use in self._recorded.answers(until):
            self._share_served(tokens=seen.tokens, cost=seen.cost)
            for verdict in self._take(seen, use):
                if self._actions[verdict.rule] == "warn":
                    self._is_said(verdict)
                else:
                    self._pending.append(verdict)

    def _share_served(self, calls: int = 0, tokens: int = 0, cost: float | None = 0.0) -> None:
        """What is served counts for the processes of this run, and in no file that others spend by."""
        if self._settings.budget_file is None:
            self._share(calls, tokens, cost or 0.0)

    def review(self) -> Iterator[tuple[Verdict, str]]:
        """What the rules say of a whole recorded trace, and what would have been done: `warn` or `kill`."""
        assert self._recorded is not None
        assert self._source is not None
        for row in self._source.steps:
            for seen, use in self._recorded.answers(row.start):
                self._pending += self._take(seen, use)
            beside = self._recorded.is_beside(row)
            yield from self._reviewed(self._judge(self._recorded.asked(row, row.step, row.lane, beside)))
            self._budgets.count(calls=1)
        for seen, use in self._recorded.answers():
            yield from self._reviewed(self._take(seen, use))

    def _reviewed(self, verdicts: Iterable[Verdict]) -> Iterator[tuple[Verdict, str]]:
        assert self._source is not None
        for verdict in verdicts:
            action = self._actions[verdict.rule]
            if action != "off" and not self._is_said(verdict):
                kills = action == "kill" and verdict.level == "stop"
                yield self._full(verdict, self._source.trace_id), "kill" if kills else "warn"

    # -- rules, and what is done -----------------------------------------------------------------------------------

    def _judge(self, seen: Asked) -> Iterator[Verdict]:
        while self._pending:
            yield self._pending.pop(0)
        yield from self._loops.identical(seen)
        if self._reads:
            yield from self._loops.asked(seen)
        yield from self._budgets.asked(seen, self._shared.read() if self._shared is not None else None)

    def _take(self, seen: Answered, use: usage.Use) -> Iterator[Verdict]:
        """Take note of an answer, and what is to be said of it."""
        remember(self._used, seen.step, use, _STEPS)
        self._ledger.count(use)
        self._budgets.count(step=seen)
        return self._loops.answered(seen) if self._reads else iter(())

    def _decide(self, verdicts: Iterable[Verdict], trace_id: str, quiet: bool = False) -> GuardError | None:
        """Do what is set about each verdict; the error that ends the run, if one does."""
        for verdict in verdicts:
            action = self._actions[verdict.rule]
            if action == "off":
                continue
            if action == "kill" and verdict.level == "stop":
                return self._kill(verdict, trace_id)
            if self._is_said(verdict):
                continue
            said = self._ask(action, self._full(verdict, trace_id)) if callable(action) else "warn"
            if said == "kill":
                return self._kill(verdict, trace_id)
            if said == "warn" and not quiet:
                self._warn(self._message(verdict, trace_id))
        return None

    def _ask(self, decide: Callable[[Verdict], Any], verdict: Verdict) -> str | None:
        """What a function of the user's says; `warn` where it fails or says something else."""
        self._deciding = True
        try:
            answer = decide(verdict)
        except Exception as error:
            self._complain("on_guard", f"the function given as on_guard failed, so guards only warn: {error!r}")
            return "warn"
        finally:
            self._deciding = False
        if answer not in (None, "warn", "kill"):
            takes = "'warn', 'kill' or None"
            self._complain("on_guard", f"the function given as on_guard returned {answer!r}, which is not {takes}")
            return "warn"
        return answer  # type: ignore[no-any-return]

    def _is_said(self, verdict: Verdict) -> bool:
        """Whether this was said before; it is said again each time that the count is ten times as high."""
        key = (verdict.rule, verdict.level, verdict.subject)
        last = self._said.get(key)
        if last is not None and verdict.count < 10 * last:
            return True
        remember(self._said, key, verdict.count)
        return False

    def _kill(self, verdict: Verdict, trace_id: str) -> GuardError:
        kind = BudgetExceededError if verdict.rule in rules.BUDGETS else LoopDetectedError
        full = self._full(verdict, trace_id)
        message = (
            f"{full.what} ({full.where}), so the run was stopped and nothing more is sent. {_use(full)}"
            f"Trace {trace_id} is saved: `escapement show {trace_id} --content` shows what repeats. "
        )
        return kind(f"{message}If this is meant: {_remedy(full)}.", trace_id=trace_id)

    def _message(self, verdict: Verdict, trace_id: str = "") -> str:
        full = self._full(verdict, trace_id)
        return f"{full.what} ({full.where}). {_use(full)}The run goes on. If this is meant: {_remedy(full)}."

    def _full(self, verdict: Verdict, trace_id: str) -> Verdict:
        """A verdict with what its steps used; of a budget with what the run used."""
        if verdict.rule in rules.BUDGETS:
            used = self._budgets.used
            calls, tokens = int(used["calls"]), int(used["tokens"])
            return replace(verdict, calls=calls, tokens=tokens, cost=self._ledger.cost(), trace_id=trace_id)
        steps = [self._used[step] for step in verdict.steps if step in self._used]
        ledger = usage.Ledger(self._prices)
        for use in steps:
            ledger.count(use)
        tokens = ledger.input + ledger.output
        return replace(verdict, calls=len(steps), tokens=tokens, cost=ledger.cost(), trace_id=trace_id)

    # -- budgets of several processes ------------------------------------------------------------------------------

    @property
    def _wanted_prices(self) -> Prices | None:
        return self._prices if self._budgets.priced else None

    @_harmless
    def join(self, folder: Path) -> None:
        """Other processes take part in the run, and all of them have this folder: budgets are those of all together."""
        if self._budgets.limits and self._settings.budget_file is None and self._shared is None:
            self._share_in(folder / "budget")
            used = self._budgets.used
            self._share(int(used["calls"]), int(used["tokens"]), used["cost"])

    def _share_in(self, path: Path) -> None:
        """Count in a file that other processes count in, too."""
        if self._shared is not None or "budget_file" in self._complained:
            return
        try:
            self._shared = SharedUse(path, self._began)
        except OSError as error:
            self._complain("budget_file", f"{path} cannot be used: only this process is counted ({error})")

    def _share(self, calls: int = 0, tokens: int = 0, cost: float = 0.0) -> None:
        if self._shared is None:
            return
        try:
            self._shared.add(calls, tokens, cost)
        except OSError as error:
            self._complain("budget_file", f"the file of the shared budget cannot be written ({error})")

    def _complain(self, about: str, message: str) -> None:
        """Say something once."""
        if about not in self._complained:
            self._complained.add(about)
            self._warn(message)


def _use(verdict: Verdict) -> str:
    if not verdict.calls:
        return ""
    cost = "cost unknown" if verdict.cost is None else f"${verdict.cost:.4f}"
    whose = "The run took" if verdict.rule in rules.BUDGETS else "That took"
    calls = f"{verdict.calls} call{'s' if verdict.calls != 1 else ''}"
    return f"{whose} {calls}, {verdict.tokens} tokens ({cost}) so far. "


def _remedy(verdict: Verdict) -> str:
    usual = f'on_guard={{{{"{verdict.rule}": "off"}}}}'
    return _REMEDIES.get(verdict.rule, usual).format(wider=int(verdict.limit * 10))


def review(trace: TraceRow, settings: Settings, prices: Prices) -> list[tuple[Verdict, str]]:
    """What the rules of these settings say of a recorded trace, and what they would have done: `warn` or `kill`."""
    return list(Guards(settings, prices, lambda message: None, trace).review())
