"""The rules that guard a run, by the names that settings, messages and `escapement guards` give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

LOOPS: Final[Mapping[str, str]] = {
    "identical_requests": "the same request again",
    "similar_requests": "the same request again but for times and counters in it",
    "repeated_tool": "the same tool, with the same arguments and the same result",
    "repeated_error": "the same tool, with the same arguments and the same error",
    "cycle": "2 to 4 steps that come round again",
    "answers": "empty answers, or the same answer again with nothing new asked",
    "failing_tool": "one tool that fails whatever it is given",
    "growing_input": "ten steps that send more and more with nothing new in it",
}

BUDGETS: Final[Mapping[str, str]] = {
    "calls": "calls made",
    "tokens": "tokens used",
    "cost": "US dollars spent",
    "duration": "time since the run began",
}

RULES: Final[Mapping[str, str]] = {**LOOPS, **BUDGETS}
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {"loops": tuple(LOOPS), "budgets": tuple(BUDGETS), "all": tuple(RULES)}
ACTIONS: Final = ("warn", "kill", "off")

Action = str | Callable[[Any], Any]
"""`warn`, `kill`, `off`, or a function that is given the verdict and says `warn`, `kill` or (None) neither."""

USUAL: Final[Mapping[str, Action]] = {rule: "kill" if rule == "identical_requests" else "warn" for rule in RULES}
"""What is done where nothing is set."""


def actions(given: Mapping[str, Action]) -> dict[str, Action]:
    """An action for each rule, from those given for some rules and groups; the more special name wins.

    Raises ValueError for what is neither a rule, a group nor an action.
    """
    for name, action in given.items():
        if name not in RULES and name not in GROUPS:
            raise ValueError(f"no rule or group is called {name!r}")
        if not callable(action) and action not in ACTIONS:
            raise ValueError(f"{action!r} is no action")
    chosen = dict(USUAL)
    for group in ("all", "loops", "budgets"):
        if group in given:
            chosen.update(dict.fromkeys(GROUPS[group], given[group]))
    chosen.update({name: action for name, action in given.items() if name in RULES})
    return chosen
