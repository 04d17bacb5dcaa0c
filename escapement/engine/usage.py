"""What a run used: tokens by model, and what they cost. Unknown is None, never 0.

Some providers say what a call cost. That is what it cost then, whatever any list of prices says.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from escapement.store.prices import REPORTING, Prices, amount
from escapement.words import semconv

_TOKENS = (
    semconv.USAGE_INPUT_TOKENS,
    semconv.USAGE_OUTPUT_TOKENS,
    semconv.USAGE_CACHE_READ,
    semconv.USAGE_CACHE_WRITE,
)
_WIDTH = 1 + len(_TOKENS)
_UNDER_WAY = (["queued"], ["in_progress"])
_AWAITED = 1024


class Usage:
    """The calls to one model, each by itself, because what it costs depends on its size and its time: 40 bytes a call.

    Tokens read from and written to a cache are part of `input`.
    """

    __slots__ = ("_each", "_priced", "_told")

    def __init__(self) -> None:
        self._each = array("q")
        self._priced = (0, 0.0)
        self._told = (0, 0, 0.0)
        """Input, output and dollars of the calls that said what they cost."""

    def add(
        self, when: int, input: int, output: int, cache_read: int, cache_write: int, reported: float | None = None
    ) -> None:
        if reported is None:
            self._each.extend((when, input, output, cache_read, cache_write))  # at once: another thread may be reading
        else:
            asked, said, dollars = self._told
            self._told = asked + input, said + output, dollars + reported

    @property
    def input(self) -> int:
        return sum(self._each[1::_WIDTH]) + self._told[0]

    @property
    def output(self) -> int:
        return sum(self._each[2::_WIDTH]) + self._told[1]

    def cost(self, provider: str, model: str, prices: Prices) -> float | None:
        """US dollars, always by the same prices: calls that have been priced are not priced again."""
        done, dollars = self._priced
        numbers = iter(self._each[done:])
        for call in zip(*[numbers] * _WIDTH, strict=True):
            cost = prices.cost(provider, model, *call)
            if cost is None:
                return None
            dollars += cost
            done += _WIDTH
        self._priced = done, dollars
        return dollars + self._told[2]


class Use(NamedTuple):
    """What one call used. `when` it began is in nanoseconds since the epoch, `reported` what it says that it cost."""

    provider: str
    model: str
    when: int
    input: int
    output: int
    cache_read: int
    cache_write: int
    reported: float | None = None

    def cost(self, prices: Prices) -> float | None:
        """US dollars; None where nobody knows."""
        return prices.cost(*self[:-1]) if self.reported is None else self.reported


def use_of(asked: Mapping[str, Any], answered: Mapping[str, Any], when: int) -> Use:
    """What a call used that began at `when`, from the attributes that its span had at its start and at its end."""
    provider = str(asked.get(semconv.PROVIDER_NAME, ""))
    model = str(answered.get(semconv.RESPONSE_MODEL) or asked.get(semconv.REQUEST_MODEL) or "")
    reported = amount(answered.get(semconv.USAGE_COST)) if provider in REPORTING else None
    asked_for, said, read, written = [_count(answered.get(name)) for name in _TOKENS]
    return Use(provider, model, when, asked_for, said, read, written, reported)


class Ledger(dict[tuple[str, str], Usage]):
    """Usage by provider and model. Calls are priced when somebody asks, not while the program waits."""

    def __init__(self, prices: Prices) -> None:
        super().__init__()
        self._prices = prices

    def add(self, asked: Mapping[str, Any], answered: Mapping[str, Any], when: int) -> None:
        """Count a call that began at `when`, from the attributes that its span had at its start and at its end."""
        self.count(use_of(asked, answered, when))

    def count(self, use: Use) -> None:
        """Count a call."""
        usage = self.get(use[:2])
        if usage is None:
            usage = self[use[:2]] = Usage()
        usage.add(*use[2:])

    @property
    def input(self) -> int:
        return sum(usage.input for usage in list(self.values()))

    @property
    def output(self) -> int:
        return sum(usage.output for usage in list(self.values()))

    def cost(self) -> float | None:
        """US dollars; None as soon as one call that used tokens has no known price."""
        dollars = 0.0
        for (provider, model), usage in list(self.items()):
            cost = usage.cost(provider, model, self._prices)
            if cost is None:
                return None
            dollars += cost
        return dollars


class Deferred:
    """Responses that go on in the background: what they used counts once, when it is first told. Thread-safe."""

    def __init__(self) -> None:
        self._awaited: OrderedDict[str, bool] = OrderedDict()

    def settle(self, operation: str, answered: dict[str, Any]) -> None:
        """Take from the attributes of an answer what it used, where that is counted already."""
        name = answered.get(semconv.RESPONSE_ID, "")
        if operation == semconv.FETCH_RESPONSE:
            if semconv.USAGE_OUTPUT_TOKENS in answered and self._awaited.pop(name, False):
                return
            for key in (*_TOKENS, semconv.USAGE_REASONING, semconv.USAGE_COST):
                answered.pop(key, None)
        elif answered.get(semconv.RESPONSE_FINISH_REASONS) in _UNDER_WAY:
            self._awaited[name] = True
            if len(self._awaited) > _AWAITED:
                self._awaited.popitem(last=False)


def cost_of(attributes: Mapping[str, Any], when: int, prices: Prices) -> float | None:
    """US dollars for one call, from the attributes of its span."""
    return use_of(attributes, attributes, when).cost(prices)


def _count(value: object) -> int:
    """A number of tokens. Servers answer with all sorts of things; what is no such number counts as not said."""
    return value if type(value) is int and 0 <= value < 2**53 else 0
